// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Exact instruction counts: of the firmware's paths, and of what this
//! machine's own KVM needs for the like.
//!
//! - [`micro`]: measures all of it
//! - [`counts`]: the lines that the measuring guests print
//! - [`record`]: the last recorded run
//! - [`table`]: how it is shown

pub mod counts;
pub mod micro;
pub mod record;
pub mod table;
