// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Linux's stores to the SGI_base page of a *real* core's redistributor.
//!
//! EL2 shares the core's SGIs and PPIs with Linux: its timer and its
//! maintenance interrupt are PPIs, its kick is SGI 0, which Linux uses too. A
//! store to the page faults to EL2 and is filtered here; what is left of it
//! goes to the real register. Loads show what the hardware has, so SGI 0's
//! priority may differ from what Linux wrote. Linux never looks.

use crate::trap::AccessSize;

/// INTIDs that are EL2's: the kick (SGI 0), the maintenance interrupt (PPI 25)
/// and the EL2 physical timer (PPI 26).
pub const PROTECTED: u32 = 1 << 0 | 1 << 25 | 1 << 26;

/// The priority that they keep: above 0xa0, which Linux gives everything.
pub const PRIORITY: u8 = 0x80;

/// The fields of PPIs 25 to 27 in GICR_ICFGR1: level-sensitive, 0. EL2 doesn't
/// acknowledge these, the virtual timer's among them: an edge would stay pending.
pub const CONFIG: u32 = 0x3f << 18;

/// What becomes of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtered {
    /// Store this at the same offset with the same size.
    Write(u64),
    /// Nothing is left.
    Drop,
}

/// Filters a store of `size` at `offset` bytes from SGI_base.
pub fn filter(offset: u32, size: AccessSize, value: u64) -> Filtered {
    match (offset, size) {
        (0x400..=0x41f, AccessSize::Byte) => Filtered::Write(priorities(offset, 1, value)),
        (0x400..=0x41f, AccessSize::Word) => Filtered::Write(priorities(offset, 4, value)),
        // Registers are 32 bits wide; another size does nothing defined.
        (0xc00.., AccessSize::Word) | (..0x400, AccessSize::Word) => word(offset, value as u32),
        // Priorities of extended PPIs.
        (0x420..=0x45f, AccessSize::Byte | AccessSize::Word) => Filtered::Write(value),
        _ => Filtered::Drop,
    }
}

fn word(offset: u32, value: u32) -> Filtered {
    let bits = match offset {
        // GICR_IGROUPR0: they stay in Group 1.
        0x080 => value | PROTECTED,
        // GICR_IS/ICENABLER0, IS/ICPENDR0, IS/ICACTIVER0: a 0 changes nothing.
        0x100 | 0x180 | 0x200 | 0x280 | 0x300 | 0x380 => match value & !PROTECTED {
            0 => return Filtered::Drop,
            bits => bits,
        },
        // GICR_ICFGR1.
        0xc04 => value & !CONFIG,
        // GICR_IGRPMODR0: Group 1 means 0 here.
        0xd00 => value & !PROTECTED,
        // GICR_NSACR: not Linux's business.
        0xe00 => return Filtered::Drop,
        _ => value,
    };
    Filtered::Write(u64::from(bits))
}

/// `count` bytes of GICR_IPRIORITYR, those of protected INTIDs replaced.
fn priorities(offset: u32, count: u32, value: u64) -> u64 {
    let first = offset & 0x1f;
    (0..count).fold(value, |value, i| {
        if PROTECTED.checked_shr(first + i).unwrap_or(0) & 1 == 0 {
            return value;
        }
        value & !(0xff << (8 * i)) | u64::from(PRIORITY) << (8 * i)
    })
}

#[cfg(test)]
mod tests {
    use super::AccessSize::*;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_linux_stores_when_a_cpu_comes_up() {
        let all = 0xffff_ffff;
        let others = Filtered::Write(0xf9ff_fffe);
        assert_eq!(filter(0x080, Word, all), Filtered::Write(all));
        assert_eq!(filter(0x380, Word, all), others);
        assert_eq!(filter(0x180, Word, all), others);
        assert_eq!(
            filter(0x400, Word, 0xa0a0_a0a0),
            Filtered::Write(0xa0a0_a080)
        );
        assert_eq!(
            filter(0x404, Word, 0xa0a0_a0a0),
            Filtered::Write(0xa0a0_a0a0)
        );
        assert_eq!(
            filter(0x418, Word, 0xa0a0_a0a0),
            Filtered::Write(0xa080_80a0)
        );
        assert_eq!(filter(0x41b, Byte, 0xa0), Filtered::Write(0xa0));
        assert_eq!(filter(0x41a, Byte, 0xa0), Filtered::Write(0x80));
        assert_eq!(filter(0x100, Word, 1 << 27), Filtered::Write(1 << 27));
    }

    #[test]
    fn nothing_is_left_of_a_store_to_ours_alone() {
        for offset in [0x100, 0x180, 0x200, 0x280, 0x300, 0x380] {
            assert_eq!(filter(offset, Word, u64::from(PROTECTED)), Filtered::Drop);
        }
        for (offset, size) in [(0xe00, Word), (0x100, Byte), (0x400, Double), (0x410, Half)] {
            assert_eq!(filter(offset, size, 1), Filtered::Drop);
        }
    }

    proptest! {
        /// Registers' fields of INTIDs 0, 25 and 26 end as they were.
        #[test]
        fn ours_never_change(offset in 0u32..0x1000, size in 0u64..4, value: u64) {
            let size = AccessSize::from_sas(size);
            let Filtered::Write(written) = filter(offset, size, value) else { return Ok(()) };
            let ours = written as u32 & PROTECTED;
            match offset {
                0x080 => prop_assert_eq!(ours, PROTECTED),
                0x100..=0x3ff if offset & 0x7f == 0 => prop_assert_eq!(ours, 0),
                0xd00 => prop_assert_eq!(ours, 0),
                0xc04 => prop_assert_eq!(written as u32 >> 18 & 0xf, 0),
                0x400..=0x41f => for i in 0..size.bytes() {
                    let byte = (written >> (8 * i)) as u8;
                    let intid = (offset & 0x1f) + i;
                    let given = (value >> (8 * i)) as u8;
                    let ours = matches!(intid, 0 | 25 | 26);
                    prop_assert_eq!(byte, if ours { PRIORITY } else { given });
                },
                _ => {}
            }
        }
    }
}
