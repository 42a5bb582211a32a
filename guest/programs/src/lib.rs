// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the programs of the lab's guest share.
//!
//! The modelled SmartNIC is four programs: `accelerator` makes packets and
//! writes descriptors into [`rings`], one `forwarder` per DP core polls them,
//! `cpwork` is the control plane, and `smartnic` starts them all and prints one
//! [`report::SmartNic`]. `storm`, `hotplug` and `devices` are stress programs;
//! `sections` uses the test driver's locks, beside the data plane; `traps` counts
//! entries to EL2.
//!
//! # Core time
//! In the lab's measured mode virtual time advances by 1 ns for each
//! instruction of *any* core, so that with N busy cores 1,000 instructions of
//! each take N us. Core time is what a DP core's own instructions take: 1 ns
//! each. A program that is told `--scale N` multiplies its time constants by N
//! and divides the times it reports by N; [`time::CoreTime`] does both. With
//! `--scale 1` times are those of the clock.
//!
//! N is not exactly the number of cores: QEMU ends a core's turn early where it
//! invalidates other cores' TLBs or waits for a lock by WFE, and the others go
//! on sooner. So forwarders time the instructions that they spend on packets,
//! and `smartnic --calibrate` runs once to learn N and once more to measure.
#![warn(missing_docs)]

pub mod accel;
pub mod arrivals;
pub mod cpus;
pub mod debugger;
pub mod disk;
pub mod interrupts;
pub mod keys;
pub mod options;
pub mod plane;
pub mod report;
pub mod rings;
pub mod sections;
pub mod spin;
pub mod stat;
pub mod time;
pub mod vectors;
pub mod wire;
