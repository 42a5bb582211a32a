// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Policy: which vCPU runs on which core, and when. Events and a time stamp
//! in, decisions out; no clock, no allocation, no hardware.
//!
//! - [`state`]: the two state machines, of a core and of a vCPU
//! - [`handover`]: how a core changes hands while others send it interrupts;
//!   the one concurrent piece, model-checked with loom
//! - [`scheduler`]: the decisions
//!
//! The scheduler is not trusted: what enforces that a vCPU runs on one core at
//! a time, and that a core with a native interrupt pending is not lent, is the
//! world switch itself.
#![cfg_attr(not(loom), no_std)]
#![forbid(unsafe_code)]

pub mod handover;
mod queue;
pub mod scheduler;
pub mod state;
mod table;

pub use scheduler::{Kicks, Params, Scheduler, Tick};
pub use state::{CoreState, Role, VcpuState, Why};
