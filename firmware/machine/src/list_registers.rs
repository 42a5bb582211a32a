// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtual CPU interface's list registers (`ICH_LR<n>_EL2`, Arm IHI 0069
//! 12.4.6): which virtual interrupts Linux sees pending and active.

/// List registers that are used, of those that the core has. Every GICv3 core
/// known has at least so many.
pub const COUNT: usize = 4;

const STATE_PENDING: u64 = 1 << 62;
const STATE: u64 = 3 << 62;
const HW: u64 = 1 << 61;
const GROUP1: u64 = 1 << 60;
const PRIORITY: u32 = 48;
const PHYSICAL: u32 = 32;
const VIRTUAL: u64 = 0xffff_ffff;

/// No list register is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The contents of the list registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListRegisters {
    /// ICH_LR0_EL2 and on.
    pub lr: [u64; COUNT],
    /// Bit n: `lr[n]` may hold an interrupt; the others are 0.
    pub used: u8,
}

impl ListRegisters {
    /// All free.
    pub const fn new() -> Self {
        Self {
            lr: [0; COUNT],
            used: 0,
        }
    }

    /// Makes a virtual interrupt pending and gives the list register that
    /// changed. With `physical`, Linux's end of the interrupt also deactivates
    /// the physical one of the same number.
    #[inline]
    pub fn pend(&mut self, intid: u32, priority: u8, physical: bool) -> Result<usize, Full> {
        let mut free = Err(Full);
        for (i, lr) in self.lr.iter_mut().enumerate() {
            if *lr & STATE == 0 {
                if free.is_err() {
                    free = Ok(i);
                }
            } else if *lr & VIRTUAL == u64::from(intid) {
                // Two list registers with one number are unpredictable. A
                // pending bit is only possible without HW (12.4.6).
                if *lr & HW == 0 {
                    *lr |= STATE_PENDING;
                }
                return Ok(i);
            }
        }
        let i = free?;
        let hardware = if physical {
            HW | u64::from(intid & 0x1fff) << PHYSICAL
        } else {
            0
        };
        if let Some(lr) = self.lr.get_mut(i) {
            *lr = STATE_PENDING
                | GROUP1
                | hardware
                | u64::from(priority) << PRIORITY
                | u64::from(intid);
        }
        self.used |= 1 << i;
        Ok(i)
    }

    /// Whether nothing is pending or active.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.lr.iter().all(|lr| lr & STATE == 0)
    }

    /// Whether no list register is free.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.lr.iter().all(|lr| lr & STATE != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_register_per_interrupt_and_full_is_said() {
        let mut lists = ListRegisters::new();
        for intid in 0..4 {
            assert_eq!(lists.pend(intid, 0xa0, false), Ok(intid as usize));
        }
        assert!(lists.is_full());
        assert_eq!(lists.pend(2, 0xa0, false), Ok(2));
        assert_eq!(lists.pend(9, 0xa0, false), Err(Full));
        lists.lr[1] = 0;
        assert_eq!(lists.pend(27, 0xa0, false), Ok(1));
        assert_eq!(lists.lr[1] & VIRTUAL, 27);
    }

    #[test]
    fn an_active_one_becomes_active_and_pending() {
        let mut lists = ListRegisters::new();
        lists.pend(5, 0xa0, false).unwrap();
        lists.lr[0] = lists.lr[0] & !STATE | 2 << 62;
        assert_eq!(lists.pend(5, 0xa0, false), Ok(0));
        assert_eq!(lists.lr[0] >> 62, 3);
    }

    #[test]
    fn a_physical_one_names_its_number_and_stays_active_only() {
        let mut lists = ListRegisters::new();
        lists.pend(33, 0xa0, true).unwrap();
        assert_eq!(lists.lr[0] >> PHYSICAL & 0x1fff, 33);
        assert_ne!(lists.lr[0] & HW, 0);
        lists.lr[0] = lists.lr[0] & !STATE | 2 << 62;
        lists.pend(33, 0xa0, true).unwrap();
        assert_eq!(lists.lr[0] >> 62, 2);
    }
}
