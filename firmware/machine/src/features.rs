// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which features of its cores Linux gets to see: the ID registers
//! (ID_AA64PFR0_EL1 and its like, Arm ARM D24.2.60 to D24.2.110).
//!
//! One list, of what may be seen. A feature whose registers the firmware
//! neither switches nor needs to is in it; every other is hidden, those that
//! this list doesn't know too, on all CPUs alike. Hidden means: the field reads
//! as if the feature weren't there, so that Linux leaves it alone; what it adds
//! is trapped as well where the architecture has a trap for it.
//!
//! Reads of these registers trap (HCR_EL2.TID3) only on machines where
//! something must be hidden: Linux reads ID_AA64MMFR1_EL1 in its page faults.

use crate::trap;

/// An ID register: CRm and op2 of `S3_0_C0_C<m>_<op2>`, 8 * CRm + op2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRegister(u8);

impl IdRegister {
    /// ID_AA64PFR0_EL1.
    pub const PFR0: Self = Self::new(4, 0);
    /// ID_AA64PFR1_EL1.
    pub const PFR1: Self = Self::new(4, 1);
    /// ID_AA64ZFR0_EL1.
    pub const ZFR0: Self = Self::new(4, 4);
    /// ID_AA64SMFR0_EL1.
    pub const SMFR0: Self = Self::new(4, 5);
    /// ID_AA64DFR0_EL1.
    pub const DFR0: Self = Self::new(5, 0);
    /// ID_AA64ISAR0_EL1.
    pub const ISAR0: Self = Self::new(6, 0);
    /// ID_AA64ISAR1_EL1.
    pub const ISAR1: Self = Self::new(6, 1);
    /// ID_AA64ISAR2_EL1.
    pub const ISAR2: Self = Self::new(6, 2);
    /// ID_AA64MMFR0_EL1.
    pub const MMFR0: Self = Self::new(7, 0);
    /// ID_AA64MMFR1_EL1.
    pub const MMFR1: Self = Self::new(7, 1);
    /// ID_AA64MMFR2_EL1.
    pub const MMFR2: Self = Self::new(7, 2);
    /// ID_AA64MMFR3_EL1.
    pub const MMFR3: Self = Self::new(7, 3);
    /// ID_DFR0_EL1, of AArch32.
    pub const DFR0_32: Self = Self::new(1, 2);
    /// ID_PFR0_EL1, of AArch32.
    pub const PFR0_32: Self = Self::new(1, 0);
    /// ID_DFR1_EL1, of AArch32.
    pub const DFR1_32: Self = Self::new(3, 5);

    const fn new(crm: u8, op2: u8) -> Self {
        Self(crm * 8 + op2)
    }

    /// All that HCR_EL2.TID3 traps.
    pub fn all() -> impl Iterator<Item = Self> {
        (8..64).map(Self)
    }

    /// The register that a trapped MRS names ([`trap::sysreg`]).
    #[inline]
    pub const fn decode(op: u32) -> Option<Self> {
        let (crm, op2) = (op >> 1 & 15, op >> 17 & 7);
        if op == trap::sysreg(3, 0, 0, crm, op2) && crm >= 1 && crm <= 7 {
            Some(Self::new(crm as u8, op2 as u8))
        } else {
            None
        }
    }

    /// Its name, where this version knows it.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::PFR0 => "ID_AA64PFR0_EL1",
            Self::PFR1 => "ID_AA64PFR1_EL1",
            Self::ZFR0 => "ID_AA64ZFR0_EL1",
            Self::SMFR0 => "ID_AA64SMFR0_EL1",
            Self::DFR0 => "ID_AA64DFR0_EL1",
            Self::ISAR0 => "ID_AA64ISAR0_EL1",
            Self::ISAR1 => "ID_AA64ISAR1_EL1",
            Self::ISAR2 => "ID_AA64ISAR2_EL1",
            Self::MMFR0 => "ID_AA64MMFR0_EL1",
            Self::MMFR1 => "ID_AA64MMFR1_EL1",
            Self::MMFR2 => "ID_AA64MMFR2_EL1",
            Self::MMFR3 => "ID_AA64MMFR3_EL1",
            _ => return None,
        })
    }

    /// Whether it is about AArch32, which programs at EL0 may use.
    const fn is_32(self) -> bool {
        self.0 < 4 * 8
    }

    /// 8 * CRm + op2: 8 to 63.
    #[inline]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// What may be seen of one field.
struct Field {
    shift: u32,
    name: &'static str,
    /// The highest value that is shown.
    most: u64,
    /// Whether a core that has more makes the ID registers trap. Where the
    /// feature's own registers trap and Linux uses none of them unasked, that
    /// isn't needed.
    matters: bool,
}

/// Seen as it is: no state of its own, or state that is switched, or a matter
/// of EL2 and EL3.
const fn seen(shift: u32) -> Field {
    up_to(15, shift, "")
}

/// Seen up to a value.
const fn up_to(most: u64, shift: u32, name: &'static str) -> Field {
    Field {
        shift,
        name,
        most,
        matters: true,
    }
}

/// Hidden, and this is its name.
const fn hidden(shift: u32, name: &'static str) -> Field {
    up_to(0, shift, name)
}

/// Seen up to a value where ID registers trap, and no reason why they should.
const fn quietly_up_to(most: u64, shift: u32, name: &'static str) -> Field {
    Field {
        matters: false,
        ..up_to(most, shift, name)
    }
}

const NOTHING: &[Field] = &[];

/// ID_AA64PFR0_EL1: EL0 to EL3, FP, AdvSIMD, GIC, RAS, SVE, SEL2, DIT, RME,
/// CSV3.
const PFR0: &[Field] = &[
    seen(0),
    seen(4),
    seen(8),
    seen(12),
    seen(16),
    seen(20),
    seen(24),
    seen(28),
    seen(32),
    seen(36),
    hidden(40, "MPAM"),
    hidden(44, "activity monitors"),
    seen(48),
    seen(52),
    // 2: SCXTNUM_EL0 and _EL1, which trap (HCR_EL2.EnSCXT).
    quietly_up_to(1, 56, "SCXTNUM"),
    seen(60),
];

/// ID_AA64PFR1_EL1: BT, SSBS, RAS_frac, CSV2_frac.
const PFR1: &[Field] = &[
    seen(0),
    seen(4),
    hidden(8, "memory tagging"),
    seen(12),
    hidden(16, "MPAM"),
    hidden(24, "SME"),
    quietly_up_to(0, 28, "RNDR traps"),
    seen(32),
    hidden(36, "non-maskable interrupts"),
    hidden(44, "guarded control stacks"),
];

/// ID_AA64ZFR0_EL1: instructions of SVE.
const ZFR0: &[Field] = &[
    seen(0),
    seen(4),
    seen(16),
    seen(20),
    seen(24),
    seen(32),
    seen(40),
    seen(44),
    seen(52),
    seen(56),
];

/// ID_AA64DFR0_EL1: DebugVer, BRPs, WRPs, CTX_CMPs, DoubleLock.
const DFR0: &[Field] = &[
    // Armv8.9 has banks of breakpoints.
    up_to(10, 0, "debug of Armv8.9"),
    quietly_up_to(0, 4, "trace"),
    // The tree's node goes, and the registers trap.
    quietly_up_to(0, 8, "performance counters"),
    seen(12),
    seen(20),
    seen(28),
    hidden(32, "statistical profiling"),
    seen(36),
    hidden(40, "trace filters"),
    hidden(44, "trace buffers"),
    quietly_up_to(0, 48, "performance counters of EL3"),
    hidden(52, "branch records"),
    quietly_up_to(0, 60, "performance counters"),
];

/// ID_AA64ISAR0_EL1: instructions that have registers for operands and no
/// others; TLB maintenance by ranges, RNDR.
const ISAR0: &[Field] = &[
    seen(4),
    seen(8),
    seen(12),
    seen(16),
    seen(20),
    hidden(24, "transactions"),
    seen(28),
    seen(32),
    seen(36),
    seen(40),
    seen(44),
    seen(48),
    seen(52),
    seen(56),
    seen(60),
];

/// ID_AA64ISAR1_EL1: DPB, APA, API, JSCVT, FCMA, LRCPC, GPA, GPI, FRINTTS, SB,
/// SPECRES, BF16, DGH, I8MM.
const ISAR1: &[Field] = &[
    seen(0),
    seen(4),
    seen(8),
    seen(12),
    seen(16),
    seen(20),
    seen(24),
    seen(28),
    seen(32),
    seen(36),
    seen(40),
    seen(44),
    seen(48),
    seen(52),
    hidden(56, "nXS barriers"),
    hidden(60, "64-byte accesses"),
];

/// ID_AA64ISAR2_EL1: WFxT, RPRES, GPA3, APA3, BC, PAC_frac, CLRBHB, CSSC.
const ISAR2: &[Field] = &[
    seen(0),
    seen(4),
    seen(8),
    seen(12),
    hidden(16, "memory copies"),
    seen(20),
    seen(24),
    seen(28),
    seen(52),
];

/// ID_AA64MMFR0_EL1: all but ExS are sizes and matters of EL2; ECV's
/// registers are counters to read.
const MMFR0: &[Field] = &[
    seen(0),
    seen(4),
    seen(8),
    seen(12),
    seen(16),
    seen(20),
    seen(24),
    seen(28),
    seen(32),
    seen(36),
    seen(40),
    quietly_up_to(0, 44, "ExS"),
    seen(56),
    seen(60),
];

/// ID_AA64MMFR1_EL1: HAFDBS, VMIDBits, VH, HPDS, PAN, SpecSEI, XNX, TWED, ETS,
/// HCX, AFP, nTLBPA, TIDCP1, ECBHB.
const MMFR1: &[Field] = &[
    up_to(2, 0, "access flags of tables"),
    seen(4),
    seen(8),
    seen(12),
    // LORC_EL1 and its like, which trap (HCR_EL2.TLOR).
    quietly_up_to(0, 16, "limited ordering regions"),
    seen(20),
    seen(24),
    seen(28),
    seen(32),
    seen(36),
    seen(40),
    seen(44),
    seen(48),
    seen(52),
    hidden(56, "cache maintenance by permission"),
    seen(60),
];

/// ID_AA64MMFR2_EL1: CnP, UAO, LSM, IESB, VARange, CCIDX, NV, ST, AT, IDS, FWB,
/// TTL, BBM, EVT, E0PD.
const MMFR2: &[Field] = &[
    seen(0),
    seen(4),
    seen(8),
    seen(12),
    seen(16),
    seen(20),
    seen(24),
    seen(28),
    seen(32),
    seen(36),
    seen(40),
    seen(48),
    seen(52),
    seen(56),
    seen(60),
];

/// ID_DFR0_EL1, of AArch32: CopTrc, MMapTrc, PerfMon, TraceFilt.
const DFR0_32: &[Field] = &[
    quietly_up_to(0, 12, "trace"),
    quietly_up_to(0, 16, "trace"),
    quietly_up_to(0, 24, "performance counters"),
    quietly_up_to(0, 28, "trace filters"),
];

/// ID_DFR1_EL1, of AArch32: MTPMU, HPMN0.
const DFR1_32: &[Field] = &[
    quietly_up_to(0, 0, "performance counters"),
    quietly_up_to(0, 4, "performance counters"),
];

/// ID_PFR0_EL1, of AArch32.
const PFR0_32: &[Field] = &[quietly_up_to(0, 20, "activity monitors")];

const fn fields(register: IdRegister) -> &'static [Field] {
    match register {
        IdRegister::PFR0 => PFR0,
        IdRegister::PFR1 => PFR1,
        IdRegister::ZFR0 => ZFR0,
        IdRegister::DFR0 => DFR0,
        IdRegister::ISAR0 => ISAR0,
        IdRegister::ISAR1 => ISAR1,
        IdRegister::ISAR2 => ISAR2,
        IdRegister::MMFR0 => MMFR0,
        IdRegister::MMFR1 => MMFR1,
        IdRegister::MMFR2 => MMFR2,
        IdRegister::PFR0_32 => PFR0_32,
        IdRegister::DFR0_32 => DFR0_32,
        IdRegister::DFR1_32 => DFR1_32,
        _ => NOTHING,
    }
}

/// The register as Linux sees it, of a core where it is `value`.
pub fn visible(register: IdRegister, value: u64) -> u64 {
    // AArch32: what isn't listed are instructions, which Linux passes on to its
    // programs, and fields that say what AArch64's say.
    let fields = fields(register);
    let listed = fields
        .iter()
        .fold(0, |mask, field| mask | 15 << field.shift);
    let rest = if register.is_32() { value & !listed } else { 0 };
    let shown = |field: &Field| (value >> field.shift & 15).min(field.most) << field.shift;
    fields
        .iter()
        .map(shown)
        .fold(rest, |all, field| all | field)
}

/// Why the ID registers must trap on a core where this one is `value`: what is
/// in it that Linux must not use. `None` in the name of what this version
/// doesn't know.
pub fn reasons(register: IdRegister, value: u64) -> impl Iterator<Item = Option<&'static str>> {
    let fields = fields(register);
    let known = fields.iter().filter_map(move |field| {
        let more = value >> field.shift & 15 > field.most;
        (more && field.matters).then_some(Some(field.name))
    });
    let listed = fields
        .iter()
        .fold(0, |mask, field| mask | 15 << field.shift);
    let unknown = !register.is_32() && value & !listed != 0;
    known.chain(unknown.then_some(None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn why(register: IdRegister, value: u64) -> Vec<Option<&'static str>> {
        reasons(register, value).collect()
    }

    /// QEMU's cores without anything to hide: Linux reads their registers
    /// itself.
    #[test]
    fn plain_cores_need_no_trap() {
        let cores: [(&str, &[(IdRegister, u64)]); 3] = [
            (
                "cortex-a72",
                &[
                    (IdRegister::PFR0, 0x0100_2222),
                    (IdRegister::DFR0, 0x1030_5106),
                    (IdRegister::ISAR0, 0x1_1120),
                    (IdRegister::MMFR0, 0x1124),
                ],
            ),
            (
                "cortex-a76",
                &[
                    (IdRegister::PFR0, 0x1100_0000_1111_2222),
                    (IdRegister::PFR1, 0x10),
                    (IdRegister::DFR0, 0x1_1030_5408 & !(15 << 32)),
                    (IdRegister::ISAR0, 0x0000_1000_1021_1120),
                    (IdRegister::ISAR1, 0x10_0001),
                    (IdRegister::MMFR0, 0x10_1122),
                    (IdRegister::MMFR1, 0x1021_2122),
                    (IdRegister::MMFR2, 0x1011),
                ],
            ),
            (
                "neoverse-n1",
                &[
                    (IdRegister::PFR0, 0x1100_0000_1111_1112),
                    (IdRegister::PFR1, 0x20),
                    (IdRegister::DFR0, 0x1_1030_5408 & !(15 << 32)),
                    (IdRegister::ISAR0, 0x0000_1000_1021_1120),
                    (IdRegister::ISAR1, 0x10_0001),
                    (IdRegister::MMFR0, 0x10_1125),
                    (IdRegister::MMFR1, 0x1021_2122),
                    (IdRegister::MMFR2, 0x1011),
                ],
            ),
        ];
        for (name, registers) in cores {
            for &(register, value) in registers {
                assert_eq!(why(register, value), [], "{name}, {register:?}");
            }
        }
    }

    #[test]
    fn what_is_not_switched_is_hidden_and_named() {
        let tagging = 2 << 8 | 1;
        assert_eq!(why(IdRegister::PFR1, tagging), [Some("memory tagging")]);
        assert_eq!(visible(IdRegister::PFR1, tagging), 1);
        // Counters: hidden, but no reason to trap.
        assert_eq!(why(IdRegister::DFR0, 0x1030_5408), []);
        assert_eq!(visible(IdRegister::DFR0, 0x1030_5408), 0x1030_5008);
        assert_eq!(visible(IdRegister::DFR0_32, 0x0401_0088), 0x88);
        // Seen up to a value.
        assert_eq!(visible(IdRegister::PFR0, 2 << 56), 1 << 56);
    }

    #[test]
    fn what_is_unknown_is_hidden() {
        let unknown = IdRegister::MMFR3;
        assert_eq!(visible(unknown, u64::MAX), 0);
        assert_eq!(why(unknown, 1 << 20), [None]);
        assert_eq!(visible(IdRegister::PFR1, 1 << 60), 0);
        assert_eq!(why(IdRegister::PFR1, 1 << 60), [None]);
    }

    #[test]
    fn trapped_reads_name_their_register() {
        let all: Vec<_> = IdRegister::all().collect();
        for register in &all {
            let (crm, op2) = (register.0 / 8, register.0 % 8);
            let op = trap::sysreg(3, 0, 0, crm.into(), op2.into());
            assert_eq!(IdRegister::decode(op), Some(*register));
        }
        assert_eq!(all.len(), 56);
        // MIDR_EL1, MPIDR_EL1, SCTLR_EL1, CTR_EL0 and MDSCR_EL1 are none.
        for op in [
            trap::sysreg(3, 0, 0, 0, 0),
            trap::sysreg(3, 0, 0, 0, 5),
            trap::sysreg(3, 0, 1, 0, 0),
            trap::sysreg(3, 3, 0, 0, 1),
            trap::sysreg(2, 0, 0, 2, 2),
        ] {
            assert_eq!(IdRegister::decode(op), None);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_made_up(number in 8u8..64, value: u64) {
            let register = IdRegister(number);
            let seen = visible(register, value);
            for shift in (0..64).step_by(4) {
                prop_assert!(seen >> shift & 15 <= value >> shift & 15);
            }
            // Seeing is stable, and there is nothing left to hide.
            prop_assert_eq!(visible(register, seen), seen);
            prop_assert_eq!(reasons(register, seen).count(), 0);
        }
    }
}
