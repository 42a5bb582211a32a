// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of CPUs: MPIDR_EL1's affinity fields, and sets of cores.

use core::fmt;
use core::str::FromStr;

/// The affinity fields of MPIDR_EL1 (Aff3 in bits 32..40, Aff2.Aff1.Aff0 in
/// bits 0..24; Arm ARM D19.2.101), everything else zero: the name of a CPU in
/// PSCI, in the device tree and in the GIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mpidr(u64);

impl Mpidr {
    /// The bits that are affinity fields.
    pub const MASK: u64 = 0xff_00ff_ffff;

    /// The affinity fields of a register value; other bits are dropped.
    #[inline]
    pub const fn new(register: u64) -> Self {
        Self(register & Self::MASK)
    }

    /// The CPU with these four fields.
    #[inline]
    pub const fn from_affinity(aff3: u8, aff2: u8, aff1: u8, aff0: u8) -> Self {
        Self((aff3 as u64) << 32 | (aff2 as u64) << 16 | (aff1 as u64) << 8 | aff0 as u64)
    }

    /// The fields, laid out as in MPIDR_EL1.
    #[inline]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The highest level, Aff3.
    #[inline]
    pub const fn aff3(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Aff2.
    #[inline]
    pub const fn aff2(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Aff1.
    #[inline]
    pub const fn aff1(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The lowest level, Aff0: the CPU inside its cluster.
    #[inline]
    pub const fn aff0(self) -> u8 {
        self.0 as u8
    }

    /// The fields as GICR_TYPER.Affinity_Value and ITS tables hold them:
    /// Aff3.Aff2.Aff1.Aff0 in 32 bits.
    #[inline]
    pub const fn packed(self) -> u32 {
        ((self.0 >> 32) as u32) << 24 | (self.0 as u32 & 0xff_ffff)
    }

    /// This CPU's cluster: Aff0 is 0.
    #[inline]
    pub const fn cluster(self) -> Self {
        Self(self.0 & !0xff)
    }
}

impl fmt::Display for Mpidr {
    /// `Aff3.Aff2.Aff1.Aff0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}.{}.{}",
            self.aff3(),
            self.aff2(),
            self.aff1(),
            self.aff0()
        )
    }
}

/// The name of vCPU `index` on a machine with these cores.
///
/// Aff0 stays below 16, so that an SGI needs no range selector, and Aff1 lies
/// above every real core's, so that a look at it tells the two kinds apart. On
/// a machine that uses up Aff1 the vCPUs get an Aff2 above the real ones.
pub fn vcpu_mpidr(index: usize, cores: &[Mpidr]) -> Mpidr {
    let highest =
        |field: fn(Mpidr) -> u8| cores.iter().map(|&c| field(c)).max().map_or(0, u64::from);
    let cluster = (index / 16) as u64;
    let aff0 = (index % 16) as u64;
    let aff1 = highest(Mpidr::aff1) + 1 + cluster;
    if aff1 <= 0xff {
        Mpidr(aff1 << 8 | aff0)
    } else {
        Mpidr::new((highest(Mpidr::aff2) + 1) << 16 | cluster << 8 | aff0)
    }
}

/// A set of cores, by their index in the device tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreSet(pub u16);

impl CoreSet {
    /// No core.
    pub const EMPTY: Self = Self(0);
    /// Cores are numbered from 0 to one below this.
    pub const CAPACITY: usize = 16;

    /// The cores 0 to `count - 1`.
    pub const fn first(count: usize) -> Self {
        if count >= Self::CAPACITY {
            Self(u16::MAX)
        } else {
            Self((1 << count) - 1)
        }
    }

    /// Whether `core` is in the set.
    #[inline]
    pub const fn contains(self, core: usize) -> bool {
        core < Self::CAPACITY && self.0 >> core & 1 != 0
    }

    /// The set with `core` added; a number out of range adds nothing.
    #[must_use]
    #[inline]
    pub const fn with(self, core: usize) -> Self {
        if core < Self::CAPACITY {
            Self(self.0 | 1 << core)
        } else {
            self
        }
    }

    /// The number of cores in the set.
    #[inline]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether no core is in the set.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The cores, lowest first.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::CAPACITY).filter(move |&core| self.contains(core))
    }
}

/// The text is no list of cores such as `2-5,7` with numbers below 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCoreList;

impl fmt::Display for BadCoreList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a list of cores such as 2-5,7 with numbers from 0 to 15")
    }
}

impl core::error::Error for BadCoreList {}

impl FromStr for CoreSet {
    type Err = BadCoreList;

    /// Reads numbers and ranges separated by commas; the empty text is the
    /// empty set.
    fn from_str(text: &str) -> Result<Self, BadCoreList> {
        if text.is_empty() {
            return Ok(Self::EMPTY);
        }
        let number = |digits: &str| match digits.parse::<usize>() {
            // `parse` would take a sign.
            Ok(n) if n < Self::CAPACITY && !digits.starts_with('+') => Ok(n),
            _ => Err(BadCoreList),
        };
        text.split(',').try_fold(Self::EMPTY, |set, part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (number(low)?, number(high)?);
            if low > high {
                return Err(BadCoreList);
            }
            Ok((low..=high).fold(set, Self::with))
        })
    }
}

impl fmt::Display for CoreSet {
    /// The shortest list that [`CoreSet::from_str`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let mut core = 0;
        while core < Self::CAPACITY {
            if !self.contains(core) {
                core += 1;
                continue;
            }
            let length = (self.0 >> core).trailing_ones() as usize;
            match length {
                1 => write!(f, "{comma}{core}")?,
                _ => write!(f, "{comma}{core}-{}", core + length - 1)?,
            }
            comma = ",";
            core += length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn lists_of_cores() {
        assert_eq!("2-5,7".parse(), Ok(CoreSet(0b1011_1100)));
        assert_eq!("15".parse(), Ok(CoreSet(0x8000)));
        assert_eq!("".parse(), Ok(CoreSet::EMPTY));
        for bad in [
            "16",
            "5-2",
            "1,",
            ",",
            "-",
            "1-",
            "-1",
            "a",
            "1-2-3",
            "+1",
            " 1",
            "99999999999999999999",
        ] {
            assert_eq!(bad.parse::<CoreSet>(), Err(BadCoreList), "{bad}");
        }
        assert_eq!(CoreSet(0b1011_1100).to_string(), "2-5,7");
        assert_eq!(CoreSet::first(16), CoreSet(0xffff));
        assert_eq!(CoreSet::first(3).iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn fields_of_a_register_value() {
        let m = Mpidr::new(0x8000_0012_8134_5678);
        assert_eq!(
            (m.aff3(), m.aff2(), m.aff1(), m.aff0()),
            (0x12, 0x34, 0x56, 0x78)
        );
        assert_eq!(m.value(), 0x12_0034_5678);
        assert_eq!(m.packed(), 0x1234_5678);
        assert_eq!(m.cluster().value(), 0x12_0034_5600);
        assert_eq!(m, Mpidr::from_affinity(0x12, 0x34, 0x56, 0x78));
        assert_eq!(m.to_string(), "18.52.86.120");
    }

    proptest! {
        #[test]
        fn sets_print_as_they_are_read(bits: u16) {
            let set = CoreSet(bits);
            prop_assert_eq!(set.to_string().parse::<CoreSet>(), Ok(set));
            prop_assert_eq!(set.iter().count(), set.len());
            prop_assert_eq!(set.iter().fold(CoreSet::EMPTY, CoreSet::with), set);
        }

        #[test]
        fn vcpus_never_share_a_name(cores in proptest::collection::vec(any::<u64>(), 1..16)) {
            let cores: Vec<_> = cores.into_iter().map(Mpidr::new).collect();
            let mut all = cores.clone();
            all.sort();
            all.dedup();
            let real = all.len();
            all.extend((0..32).map(|i| vcpu_mpidr(i, &cores)));
            all.sort();
            all.dedup();
            // Only a core with the very highest Aff2 and Aff1 could leave no room.
            if cores.iter().all(|c| c.aff1() < 0xfe || c.aff2() < 0xff) {
                prop_assert_eq!(all.len(), real + 32);
            }
            for i in 0..32 {
                prop_assert!(vcpu_mpidr(i, &cores).aff0() <= 15);
            }
        }
    }
}
