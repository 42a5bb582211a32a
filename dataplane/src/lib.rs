// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The data plane's side of Tai Chi: what a program that polls links with.
//!
//! A poller tells a [`Yielder`] after every look at its queues whether there
//! was work. After enough empty polls in a row the yielder lends the core to a
//! vCPU by one load from the doorbell page; the load completes when there is
//! work again or the slice is over. Without the firmware below, the same
//! program runs and never yields.
//!
//! ```no_run
//! use taichi_dataplane::Yielder;
//!
//! # fn take_packets() -> usize { 0 }
//! let mut yielder = Yielder::open()?;
//! loop {
//!     let packets = take_packets();
//!     yielder.poll(packets > 0);
//! }
//! # Ok::<(), taichi_dataplane::Error>(())
//! ```
//!
//! The other modules are for the programs around it: [`Telemetry`] is what the
//! firmware counts, [`Control`] is how an accelerator says that work is on its
//! way, [`raw`] holds the shared-memory views and the system counter. `capi` is
//! the same in C; see `include/taichi.h`.

pub mod raw;

mod capi;
mod control;
mod source;
mod telemetry;
mod yielder;

pub use control::Control;
pub use source::{Error, Source};
pub use taichi_abi::doorbell::Reason;
pub use telemetry::Telemetry;
pub use yielder::{Stats, Tuning, Yielder};
