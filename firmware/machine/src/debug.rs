// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Self-hosted debug of one CPU of Linux: breakpoints, watchpoints, single-step
//! (Arm ARM D2, D24.3).
//!
//! All accesses of Linux trap (MDCR_EL2.TDA, TDOSA, TDRA), so what is here is
//! what the CPU has; a core's own registers only follow, while a CPU that is
//! [armed](Debug::is_armed) is loaded. Linux uses them where a debugger does,
//! and where a CPU comes up.

use crate::trap::sysreg;

/// The most breakpoints, and watchpoints, that a core can have without banks.
pub const MOST: usize = 16;

/// MDSCR_EL1: software step.
const SS: u64 = 1;
/// MDSCR_EL1: the debug channel traps at EL0.
const TDCC: u64 = 1 << 12;
/// MDSCR_EL1: debug exceptions from EL1 as well.
const KDE: u64 = 1 << 13;
/// MDSCR_EL1: breakpoints and watchpoints.
const MDE: u64 = 1 << 15;

/// MDSCR_EL1 on a core whose CPU is not armed.
pub const PLAIN: u64 = TDCC;

/// Value and control: DBGBVR<n>_EL1 and DBGBCR<n>_EL1, or DBGWVR<n>_EL1 and
/// DBGWCR<n>_EL1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Point {
    /// The address, or what else it is compared with.
    pub value: u64,
    /// When it hits.
    pub control: u64,
}

/// How many of both a core has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Breakpoints, up to [`MOST`].
    pub breakpoints: usize,
    /// Watchpoints, up to [`MOST`].
    pub watchpoints: usize,
}

impl Counts {
    /// Reads ID_AA64DFR0_EL1: BRPs and WRPs, each less one.
    pub const fn of(dfr0: u64) -> Self {
        Self {
            breakpoints: (dfr0 >> 12 & 15) as usize + 1,
            watchpoints: (dfr0 >> 20 & 15) as usize + 1,
        }
    }
}

/// The debug registers of one CPU.
#[derive(Clone, Debug)]
pub struct Debug {
    /// DBGBVR<n>_EL1 and DBGBCR<n>_EL1.
    pub breakpoints: [Point; MOST],
    /// DBGWVR<n>_EL1 and DBGWCR<n>_EL1.
    pub watchpoints: [Point; MOST],
    mdscr: u64,
    locked: bool,
    /// Of both, because every world switch asks.
    armed: bool,
}

/// What an access is to.
#[derive(Clone, Copy)]
enum Register {
    Mdscr,
    LockAccess,
    LockStatus,
    BreakValue(usize),
    BreakControl(usize),
    WatchValue(usize),
    WatchControl(usize),
    /// Of the debug channel and of external debuggers: reads as zero, ignores
    /// writes.
    Nothing,
}

impl Register {
    const fn decode(op: u32, counts: Counts) -> Option<Self> {
        let n = op >> 1 & 15;
        let (b, w) = (counts.breakpoints, counts.watchpoints);
        Some(match op {
            _ if op == sysreg(2, 0, 0, 2, 2) => Self::Mdscr,
            _ if op == sysreg(2, 0, 1, 0, 4) => Self::LockAccess,
            _ if op == sysreg(2, 0, 1, 1, 4) => Self::LockStatus,
            _ if op == sysreg(2, 0, 0, n, 4) && (n as usize) < b => Self::BreakValue(n as usize),
            _ if op == sysreg(2, 0, 0, n, 5) && (n as usize) < b => Self::BreakControl(n as usize),
            _ if op == sysreg(2, 0, 0, n, 6) && (n as usize) < w => Self::WatchValue(n as usize),
            _ if op == sysreg(2, 0, 0, n, 7) && (n as usize) < w => Self::WatchControl(n as usize),
            _ if is_nothing(op) => Self::Nothing,
            _ => return None,
        })
    }
}

/// MDCCINT, OSDTRRX, OSDTRTX, OSECCR, MDRAR, OSDLR, DBGPRCR, DBGCLAIMSET,
/// DBGCLAIMCLR, DBGAUTHSTATUS; MDCCSR_EL0, DBGDTR_EL0, DBGDTRRX_EL0 (and TX).
const fn is_nothing(op: u32) -> bool {
    op == sysreg(2, 0, 0, 2, 0)
        || op == sysreg(2, 0, 0, 0, 2)
        || op == sysreg(2, 0, 0, 3, 2)
        || op == sysreg(2, 0, 0, 6, 2)
        || op == sysreg(2, 0, 1, 0, 0)
        || op == sysreg(2, 0, 1, 3, 4)
        || op == sysreg(2, 0, 1, 4, 4)
        || op == sysreg(2, 0, 7, 8, 6)
        || op == sysreg(2, 0, 7, 9, 6)
        || op == sysreg(2, 0, 7, 14, 6)
        || op == sysreg(2, 3, 0, 1, 0)
        || op == sysreg(2, 3, 0, 4, 0)
        || op == sysreg(2, 3, 0, 5, 0)
}

/// OSLSR_EL1: there is an OS lock; locked.
const LOCK_THERE: u64 = 1 << 3;
const LOCKED: u64 = 1 << 1;

impl Debug {
    /// A CPU just out of reset: locked, nothing set.
    pub const fn new() -> Self {
        let nothing = Point {
            value: 0,
            control: 0,
        };
        Self {
            breakpoints: [nothing; MOST],
            watchpoints: [nothing; MOST],
            mdscr: 0,
            locked: true,
            armed: false,
        }
    }

    /// Whether a debug exception may come of what is set: then the core must
    /// have it.
    #[inline]
    pub const fn is_armed(&self) -> bool {
        self.armed
    }

    /// MDSCR_EL1 on the core.
    #[inline]
    pub const fn in_force(&self) -> u64 {
        if self.armed { self.mdscr } else { PLAIN }
    }

    /// What a read by EL1 gives; `None`: no such register. `op` as
    /// [`sysreg`] has it.
    pub fn read(&self, op: u32, counts: Counts) -> Option<u64> {
        Some(match Register::decode(op, counts)? {
            Register::Mdscr => self.mdscr,
            Register::LockAccess => return None,
            Register::LockStatus if self.locked => LOCK_THERE | LOCKED,
            Register::LockStatus => LOCK_THERE,
            Register::BreakValue(n) => self.breakpoints[n].value,
            Register::BreakControl(n) => self.breakpoints[n].control,
            Register::WatchValue(n) => self.watchpoints[n].value,
            Register::WatchControl(n) => self.watchpoints[n].control,
            Register::Nothing => 0,
        })
    }

    /// A write by EL1; `None`: no such register.
    pub fn write(&mut self, op: u32, value: u64, counts: Counts) -> Option<()> {
        match Register::decode(op, counts)? {
            Register::Mdscr => self.mdscr = value & (SS | TDCC | KDE | MDE),
            Register::LockAccess => self.locked = value & 1 != 0,
            Register::LockStatus => return None,
            Register::BreakValue(n) => self.breakpoints[n].value = value,
            Register::BreakControl(n) => self.breakpoints[n].control = value & 0xffff_ffff,
            Register::WatchValue(n) => self.watchpoints[n].value = value,
            Register::WatchControl(n) => self.watchpoints[n].control = value & 0xffff_ffff,
            Register::Nothing => {}
        }
        self.armed = !self.locked && self.mdscr & (MDE | SS) != 0;
        Some(())
    }
}

impl Default for Debug {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MDSCR: u32 = sysreg(2, 0, 0, 2, 2);
    const OSLAR: u32 = sysreg(2, 0, 1, 0, 4);
    const OSLSR: u32 = sysreg(2, 0, 1, 1, 4);
    /// cortex-a76: six and four.
    const A76: Counts = Counts::of(0x1030_5408);

    #[test]
    fn counts_are_those_of_the_core() {
        assert_eq!((A76.breakpoints, A76.watchpoints), (6, 4));
        let last = |crm, op2| Debug::new().read(sysreg(2, 0, 0, crm, op2), A76);
        assert_eq!((last(5, 4), last(5, 5)), (Some(0), Some(0)));
        assert_eq!((last(6, 4), last(6, 5)), (None, None));
        assert_eq!((last(3, 6), last(3, 7)), (Some(0), Some(0)));
        assert_eq!((last(4, 6), last(4, 7)), (None, None));
    }

    #[test]
    fn only_an_unlocked_cpu_with_something_on_is_armed() {
        let mut debug = Debug::new();
        assert_eq!(debug.read(OSLSR, A76), Some(0b1010));
        debug.write(MDSCR, MDE | KDE, A76).unwrap();
        assert!(!debug.is_armed());
        assert_eq!(debug.in_force(), PLAIN);
        debug.write(OSLAR, 0, A76).unwrap();
        assert_eq!(debug.read(OSLSR, A76), Some(0b1000));
        assert!(debug.is_armed());
        assert_eq!(debug.in_force(), MDE | KDE);
        debug.write(MDSCR, TDCC | SS, A76).unwrap();
        assert!(debug.is_armed());
        debug.write(MDSCR, TDCC | KDE, A76).unwrap();
        assert!(!debug.is_armed());
        assert_eq!(debug.read(MDSCR, A76), Some(TDCC | KDE));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n in 0u32..4, kind in 4u32..8, value: u64, other: u64) {
            let mut debug = Debug::new();
            let op = sysreg(2, 0, 0, n, kind);
            for each in 4..8 {
                debug.write(sysreg(2, 0, 0, n, each), other, A76).unwrap();
            }
            debug.write(op, value, A76).unwrap();
            for each in 4..8 {
                let written = if each == kind { value } else { other };
                let kept = if each % 2 == 0 { written } else { written & 0xffff_ffff };
                prop_assert_eq!(debug.read(sysreg(2, 0, 0, n, each), A76), Some(kept));
            }
        }

        #[test]
        fn no_access_panics(op: u32, value: u64, dfr0: u64) {
            let mut debug = Debug::new();
            let counts = Counts::of(dfr0);
            debug.write(op & 0x3f_fc1e, value, counts);
            debug.read(op & 0x3f_fc1e, counts);
        }
    }
}
