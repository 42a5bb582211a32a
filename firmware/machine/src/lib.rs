// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What Linux believes the machine is.
//!
//! Linux sits on real cores (pCPUs) and on virtual ones (vCPUs) and must not
//! be able to tell them apart. Everything that keeps up this belief is decided
//! here, as pure functions and state machines: registers' values come in as
//! integers, decisions go out as integers. The crate touches no hardware, has
//! no clock and no unsafe code, and all of it runs under `cargo test`.
//!
//! At boot (these modules allocate):
//!
//! - [`config`]: the one grammar of the firmware's options
//! - [`platform`]: what the device tree says about the machine
//! - [`tree`]: the device tree that Linux gets to see
//! - [`image`]: the header of an arm64 kernel
//! - [`its`]: whether Interrupt Translation Services can serve vCPUs
//! - [`stage2`]: translation tables, for Linux's stage 2 and EL2's own stage 1
//!
//! At every trap (no allocation, no panic, no formatting):
//!
//! - [`trap`]: what a trap to EL2 wants
//! - [`affinity`]: names of CPUs (MPIDR) and sets of cores
//! - [`psci`]: CPUs that appear and go
//! - [`smccc`]: other calls: versions, and stolen time
//! - [`redist`]: the GIC redistributor of a vCPU
//! - [`sgi_page`]: Linux's stores to the redistributor of a real core
//! - [`devices`]: device interrupts for a crash kernel on a vCPU
//! - [`spi`]: device interrupts and their registers
//! - [`irouter`]: where device interrupts are routed
//! - [`features`]: which features of its cores Linux gets to see
//! - [`debug`]: breakpoints, watchpoints and single-step of each CPU
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod affinity;
pub mod config;
pub mod debug;
pub mod devices;
pub mod features;
pub mod image;
pub mod irouter;
pub mod its;
pub mod list_registers;
pub mod platform;
pub mod psci;
pub mod redist;
pub mod sgi_page;
pub mod smccc;
pub mod spi;
pub mod stage2;
pub mod trap;
pub mod tree;
