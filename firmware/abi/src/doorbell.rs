// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The doorbell page: a poller lends its core by a load.
//!
//! No memory is behind the page. A 64-bit load from [`YIELD`] at EL0 faults
//! straight to EL2; the load completes when the poller has its core again and
//! its value says why ([`Reason`]). Loads of another size are answered alike,
//! cut to their size. A store is ignored. Loads from other offsets give 0.

/// Offset of the yield register (read only, 64 bit).
pub const YIELD: usize = 0x000;
/// Offset of the identification register: reads as [`MAGIC`] and lends nothing.
pub const ID: usize = 0x008;
/// What [`ID`] reads as: "taichi" and the layout's version.
pub const MAGIC: u64 = 0x0001_6968_6369_6174;

/// Why a load from [`YIELD`] completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Reason {
    /// No vCPU wanted the core; it was never lent.
    Nothing = 0,
    /// The slice is over.
    Slice = 1,
    /// An interrupt for this core is pending, or was taken meanwhile.
    Interrupt = 2,
    /// A probe said that work for this core is on its way.
    Probe = 3,
    /// The core may not be lent: it is not a DP core, or vCPUs are parked.
    Refused = 4,
}

impl Reason {
    /// The reason that a loaded value names; `None` for a number this version
    /// doesn't know.
    pub fn from_value(value: u64) -> Option<Self> {
        [
            Self::Nothing,
            Self::Slice,
            Self::Interrupt,
            Self::Probe,
            Self::Refused,
        ]
        .into_iter()
        .find(|&r| r as u64 == value)
    }
}
