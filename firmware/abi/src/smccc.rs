// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls that the firmware answers itself, by HVC, in the range that SMCCC
//! (Arm DEN 0028) gives to vendor-specific hypervisor services.

/// Returns [`crate::VERSION`] and does nothing else: the null trap.
pub const VERSION: u32 = 0xc600_0000;
/// Vendor hypervisor UID query (SMCCC "Call UID Query").
pub const UID: u32 = 0x8600_ff01;
/// Makes the firmware die in the way that x1 names (a [`Death`]). For tests
/// only: firmware that is built without the feature `faults` doesn't know it.
pub const DIE: u32 = 0xc600_dead;
/// The UID, as SMCCC returns it in w0-w3.
pub const UID_WORDS: [u32; 4] = [0x5441_4943, 0x4849_0001, 0x8f3e_52b7, 0x1c9d_6a04];

/// Ways to die, arguments of [`DIE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Death {
    /// A Rust panic.
    Panic = 0,
    /// The firmware gives up by itself, as it does when a state is impossible.
    GiveUp = 1,
    /// A load from an address that EL2 doesn't map.
    Load = 2,
    /// A store to EL2's own instructions.
    StoreText = 3,
    /// A jump into EL2's data.
    RunData = 4,
    /// A recursion without an end.
    Stack = 5,
    /// A load as above, and another while the epitaph is written.
    Again = 6,
    /// As [`Self::Again`], and from then on at each step.
    Always = 7,
    /// Gives up as soon as another core dies.
    Second = 8,
}

impl Death {
    /// All of them, and what they are called.
    pub const ALL: [(Self, &str); 9] = [
        (Self::Panic, "panic"),
        (Self::GiveUp, "give-up"),
        (Self::Load, "load"),
        (Self::StoreText, "store-text"),
        (Self::RunData, "run-data"),
        (Self::Stack, "stack"),
        (Self::Again, "again"),
        (Self::Always, "always"),
        (Self::Second, "second"),
    ];

    /// The one with this number.
    pub fn from_number(n: u64) -> Option<Self> {
        let mut all = Self::ALL.into_iter().map(|(death, _)| death);
        all.find(|death| *death as u64 == n)
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find_map(|(death, its)| (its == name).then_some(death))
    }
}
