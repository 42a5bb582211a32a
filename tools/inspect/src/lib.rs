// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes sense of what the firmware counts in its telemetry window.
//!
//! - [`Snapshot`]: all of it at one time, as plain numbers
//! - [`Status`]: what happened between two of them, in words for an operator
#![forbid(unsafe_code)]

mod snapshot;
mod status;
mod text;

pub use snapshot::{Core, Snapshot, Vcpu};
pub use status::{Harvest, Status};
