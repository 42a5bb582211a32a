// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Device interrupts (SPIs) and their registers in the distributor: INTIDs 32 to
//! 1019, and 4096 to 5119 where the GIC has extended ones (GICD_TYPER.ESPI), whose
//! registers (`GICD_…<n>E`) stand elsewhere (Arm IHI 0069).

use core::ops::Range;

/// SPIs, and extended SPIs.
const RANGES: [Range<u32>; 2] = [32..1020, 4096..5120];
/// How many there are of both kinds.
pub const COUNT: usize = 988 + 1024;
/// `GICD_IROUTER<n>`, `GICD_ISPENDR<n>` and `GICD_IPRIORITYR<n>`: where the
/// registers of INTID 0 and of INTID 4096 are.
const ROUTE: [u32; 2] = [0x6000, 0x8000];
const PENDING: [u32; 2] = [0x200, 0x1600];
const PRIORITY: [u32; 2] = [0x400, 0x2000];

/// One SPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spi {
    /// 0, or 1 if it is an extended one.
    kind: usize,
    /// Its number among those with registers in one place.
    number: u32,
}

impl Spi {
    /// By its INTID; `None` if that is no SPI's.
    pub fn new(intid: u32) -> Option<Self> {
        let kind = RANGES.iter().position(|range| range.contains(&intid))?;
        Some(Self {
            kind,
            number: intid & 0xfff,
        })
    }

    /// The one whose 64-bit routing register holds the byte at `offset` from the
    /// distributor's base.
    pub fn routed_at(offset: u32) -> Option<Self> {
        (0..2).find_map(|kind| {
            let number = offset.checked_sub(ROUTE[kind])? / 8;
            let intid = number.checked_add(RANGES[kind].start & !0xfff)?;
            Self::new(intid).filter(|spi| spi.kind == kind)
        })
    }

    /// A number below [`COUNT`] that no other SPI has.
    pub fn index(self) -> usize {
        match self.kind {
            0 => (self.number - RANGES[0].start) as usize,
            _ => RANGES[0].len() + self.number as usize,
        }
    }

    /// Offset and bit of its register that makes it pending.
    pub fn pending(self) -> (u32, u32) {
        let word = PENDING[self.kind] + self.number / 32 * 4;
        (word, 1 << (self.number % 32))
    }

    /// Offset of the byte that is its priority.
    pub fn priority(self) -> u32 {
        PRIORITY[self.kind] + self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    #[test]
    fn intids_that_are_no_spis() {
        for intid in [0, 31, 1020, 1023, 1056, 4095, 5120, 8192, u32::MAX] {
            assert_eq!(Spi::new(intid), None, "{intid}");
        }
    }

    #[test]
    fn registers_of_both_kinds() {
        let [first, last, extended, end] = [32, 1019, 4096, 5119].map(|i| Spi::new(i).unwrap());
        assert_eq!(first.pending(), (0x204, 1));
        assert_eq!(last.pending(), (0x27c, 1 << 27));
        assert_eq!(extended.pending(), (0x1600, 1));
        assert_eq!(end.pending(), (0x167c, 1 << 31));
        assert_eq!([first, last].map(Spi::priority), [0x420, 0x7fb]);
        assert_eq!([extended, end].map(Spi::priority), [0x2000, 0x23ff]);
    }

    #[test]
    fn routing_registers_belong_to_one_spi_each() {
        for (offset, intid) in [
            (0x6100, 32),
            (0x7fdf, 1019),
            (0x8000, 4096),
            (0x8004, 4096),
            (0x9fff, 5119),
        ] {
            assert_eq!(Spi::routed_at(offset), Spi::new(intid), "{offset:#x}");
        }
        for offset in [0, 0x60ff, 0x7fe0, 0x7fff, 0xa000, u32::MAX] {
            assert_eq!(Spi::routed_at(offset), None, "{offset:#x}");
        }
        let all: Vec<_> = (0..0x10000).step_by(8).filter_map(Spi::routed_at).collect();
        let indices: BTreeSet<_> = all.iter().map(|spi| spi.index()).collect();
        assert_eq!((all.len(), indices.len()), (COUNT, COUNT));
        assert_eq!(indices.last(), Some(&(COUNT - 1)));
    }
}
