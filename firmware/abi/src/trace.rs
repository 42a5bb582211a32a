// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Trace records: what the firmware did, a ring per core, newest overwriting
//! oldest.

use core::sync::atomic::AtomicU64;

/// Records in a ring; a power of two.
pub const RECORDS: usize = 256;

/// One record. 16 bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Record {
    /// CNTVCT_EL0 when it happened, in ticks.
    pub ticks: AtomicU64,
    /// [`Event`] in bits 0..8, the vCPU or 0xff in bits 8..16, an argument in
    /// bits 16..64.
    pub word: AtomicU64,
}

/// A core's ring; [`Ring::head`] counts all records ever written.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Ring {
    /// Records, the n-th ever written at index n modulo [`RECORDS`].
    pub records: [Record; RECORDS],
    /// Records ever written.
    pub head: AtomicU64,
}

impl Ring {
    /// No records.
    pub const fn new() -> Self {
        Self {
            records: [const {
                Record {
                    ticks: AtomicU64::new(0),
                    word: AtomicU64::new(0),
                }
            }; RECORDS],
            head: AtomicU64::new(0),
        }
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// No record.
    None = 0,
    /// A vCPU's stay on this core is over, the native context has it again.
    /// Argument: see [`stay`], with the [`crate::doorbell::Reason`].
    Reclaim = 1,
    /// A vCPU's stay is over, because it became idle (or off) and another vCPU
    /// follows. Argument: see [`stay`].
    Idle = 2,
    /// A vCPU's stay is over, because its slice is; another vCPU follows.
    /// Argument: see [`stay`].
    Rotate = 3,
    /// A trap that is neither fast nor expected often. Argument: ESR_EL2.
    Trap = 4,
    /// A PSCI call. Argument: its function id.
    Psci = 5,
    /// A physical interrupt was taken to EL2. Argument: INTID.
    Interrupt = 6,
    /// A lend was refused. Argument: the mailbox.
    Refuse = 7,
    /// A vCPU became ready.
    Ready = 8,
}

/// The argument of a record that ends a vCPU's stay on a core: how the native
/// context had lent it (0 idle, 1 yield, 2 forced) in bits 0..4, the reason in
/// bits 4..8, and from there on how long the stay was, in ticks.
#[inline]
pub const fn stay(why: u8, reason: u8, ticks: u64) -> u64 {
    why as u64 | (reason as u64) << 4 | ticks << 8
}

impl Event {
    /// The event with this number, `None` where this version has none.
    pub fn from_number(n: u8) -> Option<Self> {
        const ALL: [Event; 9] = [
            Event::None,
            Event::Reclaim,
            Event::Idle,
            Event::Rotate,
            Event::Trap,
            Event::Psci,
            Event::Interrupt,
            Event::Refuse,
            Event::Ready,
        ];
        ALL.get(usize::from(n)).copied()
    }
}

const _: () = {
    assert!(size_of::<Record>() == 16);
    assert!(size_of::<Ring>() == 8192);
    assert!(RECORDS.is_power_of_two());
};
