// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The control page: for root, and for an accelerator's driver.
//!
//! No memory is behind it; stores are commands to EL2. A value out of range is
//! counted and ignored. Loads give 0.

/// Store a core number (32 bit): work for this core is on its way. Does
/// nothing where the core is native, and leaves nothing behind.
pub const PROBE: usize = 0x000;
/// Store 1 (32 bit): no DP core is lent any more, vCPUs run on CP cores alone.
/// Store 0: they are lent again.
pub const PARK: usize = 0x004;

/// Store a [`Fault`] in bits 0..8, and in bits 8..32 how many kicks there are to
/// each that it hits, 0 for none at all (32 bit). For tests only: firmware that
/// is built without the feature `faults` has nothing here.
pub const FAULT: usize = 0x008;

/// What may happen, mostly to kicks, the interrupts between cores at EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// They get lost.
    Lost = 0,
    /// They come twice.
    Doubled = 1,
    /// Another core is kicked too, for nothing.
    Spurious = 2,
    /// Not to kicks: redistributors of cores that start never wake up.
    Asleep = 3,
}

impl Fault {
    /// All of them, by number.
    pub const ALL: [Self; 4] = [Self::Lost, Self::Doubled, Self::Spurious, Self::Asleep];

    /// What is stored at [`FAULT`] so that this happens to each `every`-th kick.
    #[must_use]
    pub const fn to_each(self, every: u32) -> u32 {
        self as u32 | every << 8
    }
}
