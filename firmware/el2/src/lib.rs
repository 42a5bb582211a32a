// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The hardware at EL2: all unsafe code and assembly of the firmware, under a
//! safe API.
//!
//! - [`boot`]: from the loader's jump to Rust with the MMU on; secondaries
//! - [`vectors`]: exception entry and exit, and the world switch around them
//! - [`context`]: what belongs to one CPU of Linux; `switch`: one for another;
//!   `float` and `sve`: floating point, when it is used; `debug`: breakpoints and
//!   the like
//! - [`features`]: what the cores have that EL2 must set something for
//! - [`percore`]: what belongs to one real core while it is in EL2
//! - [`vcpus`]: the vCPUs' contexts, each on one core at a time
//! - [`sysreg`], [`gic`], [`timer`], [`smc`], [`console`]: the devices of a core
//! - [`memory`]: the firmware's own memory, its page tables, its heap
//! - [`mmio`]: device frames
//! - [`shared`]: the telemetry window and the trace; [`stolen`]: stolen time
//! - [`fault`]: panics and faults at EL2; [`stone`]: what is left of them
//!
//! `docs/soundness.md` states the invariants and who keeps each.
//!
//! On a host the crate is empty: everything here is aarch64.
#![cfg_attr(target_os = "none", no_std)]
#![cfg(target_os = "none")]

extern crate alloc;

pub mod boot;
pub mod console;
pub mod context;
mod debug;
pub mod fault;
#[cfg(feature = "faults")]
pub mod faults;
pub mod features;
mod float;
pub mod gic;
pub mod memory;
pub mod mmio;
pub mod percore;
pub mod shared;
pub mod smc;
pub mod stolen;
pub mod stone;
mod stop;
mod sve;
mod switch;
pub mod sysreg;
pub mod timer;
pub mod vcpus;
pub mod vectors;
