// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What two worlds share: the firmware at EL2 on one side, Linux, its pollers,
//! accelerators and tools on the other.
//!
//! This crate is the contract and nothing else: layouts, numbers and names. It
//! has no unsafe code, no dependency, and size assertions on everything that
//! crosses the border. Every layout is little-endian and, once released, only
//! grows at its end under a higher [`VERSION`].
//!
//! - [`window`]: where the pages are and how they are found
//! - [`doorbell`]: the page that a poller loads from to lend its core
//! - [`control`]: the page that root and accelerators write to
//! - [`telemetry`]: what the firmware counts, readable by everyone
//! - [`trace`]: the record of what happened, a ring per core
//! - [`epitaph`]: what a run that died left to the next
//! - [`stolen`]: stolen time, as Linux reads it
//! - [`smccc`]: the calls the firmware answers itself
#![no_std]
#![forbid(unsafe_code)]

pub mod control;
pub mod doorbell;
pub mod epitaph;
pub mod smccc;
pub mod stolen;
pub mod telemetry;
pub mod trace;
pub mod window;

/// Version of everything in this crate; higher versions only add.
pub const VERSION: u32 = 1;

/// The most real cores (pCPUs) that one firmware serves.
pub const MAX_CORES: usize = 16;

/// The most vCPUs that one firmware offers.
pub const MAX_VCPUS: usize = 16;

/// Bytes in a page of every window.
pub const PAGE: usize = 4096;
