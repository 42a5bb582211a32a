// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a trap to EL2 wants: ESR_EL2 (Arm ARM D19.2.37), fault addresses, and
//! the register through which a CPU sends SGIs.

use crate::affinity::Mpidr;

/// Bytes that one load or store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessSize {
    /// 8 bits.
    Byte = 0,
    /// 16 bits.
    Half = 1,
    /// 32 bits.
    Word = 2,
    /// 64 bits.
    Double = 3,
}

impl AccessSize {
    /// The size that the two bits of ESR_EL2.ISS.SAS name.
    #[inline]
    pub const fn from_sas(sas: u64) -> Self {
        match sas & 3 {
            0 => Self::Byte,
            1 => Self::Half,
            2 => Self::Word,
            _ => Self::Double,
        }
    }

    /// Bytes: 1, 2, 4 or 8.
    #[inline]
    pub const fn bytes(self) -> u32 {
        1 << self as u32
    }

    /// The bits of a register that take part.
    #[inline]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// The reason for a synchronous exception from EL1 or EL0 to EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// WFI, or WFE (`wfe`).
    Wfx {
        /// WFE, not WFI.
        wfe: bool,
    },
    /// WFIT or WFET (FEAT_WFxT): a wait with a deadline. Completing it at once
    /// is allowed.
    WfxTimeout,
    /// Floating point, Advanced SIMD or SVE, where CPTR_EL2 traps it.
    Float,
    /// HVC #imm from AArch64.
    Hvc(u16),
    /// SMC from AArch64. ELR_EL2 is the SMC itself: step over it.
    Smc,
    /// MRS or MSR of a system register, or a system instruction.
    SysReg {
        /// The register, as [`sysreg`] encodes it.
        op: u32,
        /// The general register, 31 for XZR.
        rt: u8,
        /// MSR, not MRS.
        write: bool,
    },
    /// A load or store that stage 2 doesn't let through.
    DataAbort {
        /// A store. Also cache maintenance, which never is `valid`.
        write: bool,
        /// Bytes to move.
        size: AccessSize,
        /// The value loaded is signed.
        sign_extend: bool,
        /// The general register, 31 for XZR.
        rt: u8,
        /// The general register is 64 bits wide.
        wide: bool,
        /// The fields above mean something (ISV): the instruction was a load
        /// or store of one general register without write-back.
        valid: bool,
        /// The access was a stage-1 table walk.
        s1ptw: bool,
        /// Fault status code (DFSC).
        fsc: u8,
    },
    /// An instruction fetch that stage 2 doesn't let through.
    InstAbort {
        /// The access was a stage-1 table walk.
        s1ptw: bool,
        /// Fault status code (IFSC).
        fsc: u8,
    },
    /// Everything else, by its exception class.
    Other(u8),
}

/// Exception classes: ESR_EL2.EC.
pub mod ec {
    /// WFI, WFE and their variants with a deadline.
    pub const WFX: u8 = 0x01;
    /// Floating point or Advanced SIMD.
    pub const FLOAT: u8 = 0x07;
    /// HVC from AArch64.
    pub const HVC: u8 = 0x16;
    /// SMC from AArch64.
    pub const SMC: u8 = 0x17;
    /// SVE.
    pub const SVE: u8 = 0x19;
    /// System register access from AArch64.
    pub const SYSREG: u8 = 0x18;
    /// Instruction abort from EL1 or EL0.
    pub const INST_ABORT: u8 = 0x20;
    /// Data abort from EL1 or EL0.
    pub const DATA_ABORT: u8 = 0x24;
}

impl Trap {
    /// Reads ESR_EL2.
    #[inline]
    pub const fn decode(esr: u64) -> Self {
        let class = (esr >> 26) as u8 & 0x3f;
        match class {
            ec::SYSREG => Self::SysReg {
                op: esr as u32 & SYSREG_MASK,
                rt: (esr >> 5) as u8 & 31,
                write: esr & 1 == 0,
            },
            ec::DATA_ABORT => Self::DataAbort {
                write: esr & 1 << 6 != 0,
                size: AccessSize::from_sas(esr >> 22),
                sign_extend: esr & 1 << 21 != 0,
                rt: (esr >> 16) as u8 & 31,
                wide: esr & 1 << 15 != 0,
                valid: esr & 1 << 24 != 0,
                s1ptw: esr & 1 << 7 != 0,
                fsc: esr as u8 & 0x3f,
            },
            ec::WFX if esr & 2 != 0 => Self::WfxTimeout,
            ec::WFX => Self::Wfx { wfe: esr & 1 != 0 },
            ec::FLOAT | ec::SVE => Self::Float,
            ec::HVC => Self::Hvc(esr as u16),
            ec::SMC => Self::Smc,
            ec::INST_ABORT => Self::InstAbort {
                s1ptw: esr & 1 << 7 != 0,
                fsc: esr as u8 & 0x3f,
            },
            _ => Self::Other(class),
        }
    }
}

/// Whether a fault status code is a translation fault (of any level): nothing
/// is mapped there.
#[inline]
pub const fn is_translation_fault(fsc: u8) -> bool {
    fsc & 0x3c == 0x04
}

/// Whether a fault status code is a permission fault (of any level).
#[inline]
pub const fn is_permission_fault(fsc: u8) -> bool {
    fsc & 0x3c == 0x0c
}

/// The intermediate physical address of a stage-2 fault, in bytes, from
/// HPFAR_EL2 (the page) and FAR_EL2 (the byte in it). Not valid for a
/// permission fault that isn't a table walk: HPFAR_EL2 is unknown then.
#[inline]
pub const fn fault_ipa(hpfar: u64, far: u64) -> u64 {
    (hpfar & 0x0fff_ffff_fff0) << 8 | far & 0xfff
}

/// What a load leaves in its general register: `value` cut to `size`, signed
/// or not, in a register of 64 bits (`wide`) or 32.
#[inline]
pub const fn loaded(value: u64, size: AccessSize, sign_extend: bool, wide: bool) -> u64 {
    let shift = 64 - 8 * size.bytes();
    let extended = if sign_extend {
        ((value << shift) as i64 >> shift) as u64
    } else {
        value & size.mask()
    };
    if wide {
        extended
    } else {
        extended & 0xffff_ffff
    }
}

/// The bits of an ISS that name the register.
const SYSREG_MASK: u32 = 0x3f_fc1e;

/// The encoding of a system register in [`Trap::SysReg`]: bits as in
/// ESR_EL2.ISS.
#[inline]
pub const fn sysreg(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1
}

/// Sends Group 1 SGIs; see [`SgiTargets`].
pub const ICC_SGI1R_EL1: u32 = sysreg(3, 0, 12, 11, 5);
/// Sends SGIs of the other security state.
pub const ICC_ASGI1R_EL1: u32 = sysreg(3, 0, 12, 11, 6);
/// Sends Group 0 SGIs.
pub const ICC_SGI0R_EL1: u32 = sysreg(3, 0, 12, 11, 7);
/// Deactivates an interrupt.
pub const ICC_DIR_EL1: u32 = sysreg(3, 0, 12, 11, 1);
/// The running priority.
pub const ICC_RPR_EL1: u32 = sysreg(3, 0, 12, 11, 3);
/// The priority mask.
pub const ICC_PMR_EL1: u32 = sysreg(3, 0, 4, 6, 0);
/// Control of the CPU interface.
pub const ICC_CTLR_EL1: u32 = sysreg(3, 0, 12, 12, 4);
/// System register enable.
pub const ICC_SRE_EL1: u32 = sysreg(3, 0, 12, 12, 5);

/// Whether a register is the performance counters': PM*_EL0 and PM*_EL1.
#[inline]
pub const fn is_performance_counter(op: u32) -> bool {
    let (op0, op1) = (op >> 20 & 3, op >> 14 & 7);
    let (crn, crm) = (op >> 10 & 15, op >> 1 & 15);
    match (op0, op1, crn) {
        (3, 3, 9) => matches!(crm, 12..=14),
        (3, 0, 9) => crm == 14,
        // PMEVCNTR<n>_EL0, PMEVTYPER<n>_EL0, PMCCFILTR_EL0.
        (3, 3, 14) => crm >= 8,
        _ => false,
    }
}

/// The Group 0 interrupt that would be acknowledged next; and its acknowledgement.
const ICC_HPPIR0_EL1: u32 = sysreg(3, 0, 12, 8, 2);
const ICC_IAR0_EL1: u32 = sysreg(3, 0, 12, 8, 0);
/// Lets Group 0 interrupts through.
const ICC_IGRPEN0_EL1: u32 = sysreg(3, 0, 12, 12, 6);
/// The encoding but for op2: ICC_{IAR0,EOIR0,HPPIR0,BPR0,AP0R<n>}_EL1 differ in
/// that alone.
const ICC_GROUP_0: u32 = sysreg(3, 0, 12, 8, 0);
const OP2: u32 = 7 << 17;

/// A load from a register of the physical CPU interface that is for Group 0
/// alone, as if no such interrupt could come: "spurious" or 0. `None` for all
/// other registers. Stores do nothing.
pub const fn group_0(op: u32) -> Option<u64> {
    match op {
        ICC_IAR0_EL1 | ICC_HPPIR0_EL1 => Some(1023),
        ICC_IGRPEN0_EL1 => Some(0),
        _ if op & !OP2 == ICC_GROUP_0 => Some(0),
        _ => None,
    }
}

/// Whom an SGI is for: a store to ICC_SGI1R_EL1 (GIC 12.2.20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SgiTargets {
    /// The SGI, 0 to 15.
    pub intid: u8,
    /// Every CPU but the sender (IRM); the rest means nothing then.
    pub all_but_self: bool,
    /// Aff3.Aff2.Aff1 of the targets, Aff0 zero.
    pub cluster: Mpidr,
    /// Range selector: the list names CPUs from Aff0 = 16 * `range` on.
    pub range: u8,
    /// Bit n: the CPU with Aff0 = 16 * `range` + n.
    pub list: u16,
}

impl SgiTargets {
    /// Reads a value stored to ICC_SGI1R_EL1.
    #[inline]
    pub const fn decode(sgi1r: u64) -> Self {
        let aff3 = sgi1r >> 48 & 0xff;
        let aff2 = sgi1r >> 32 & 0xff;
        let aff1 = sgi1r >> 16 & 0xff;
        Self {
            intid: (sgi1r >> 24) as u8 & 15,
            all_but_self: sgi1r & 1 << 40 != 0,
            cluster: Mpidr::new(aff3 << 32 | aff2 << 16 | aff1 << 8),
            range: (sgi1r >> 44) as u8 & 15,
            list: sgi1r as u16,
        }
    }

    /// The value to store to ICC_SGI1R_EL1; the inverse of [`Self::decode`].
    #[inline]
    pub const fn encode(&self) -> u64 {
        (self.cluster.aff3() as u64) << 48
            | (self.range as u64 & 15) << 44
            | (self.all_but_self as u64) << 40
            | (self.cluster.aff2() as u64) << 32
            | (self.intid as u64 & 15) << 24
            | (self.cluster.aff1() as u64) << 16
            | self.list as u64
    }

    /// Whether `cpu` gets the SGI, sent by `sender`.
    #[inline]
    pub const fn includes(&self, cpu: Mpidr, sender: Mpidr) -> bool {
        if self.all_but_self {
            cpu.value() != sender.value()
        } else {
            cpu.cluster().value() == self.cluster.value()
                && cpu.aff0() >> 4 == self.range
                && self.list >> (cpu.aff0() & 15) & 1 != 0
        }
    }

    /// The CPUs of the list, lowest first; none for [`Self::all_but_self`].
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Mpidr> + use<> {
        let first = self.cluster.value() | u64::from(self.range) << 4;
        let mut rest = if self.all_but_self { 0 } else { self.list };
        core::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let bit = u64::from(rest.trailing_zeros());
            rest &= rest - 1;
            Some(Mpidr::new(first | bit))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn group_0_is_nine_registers() {
        let found = (0..8).flat_map(|crm| (0..8).map(move |op2| (8 + crm, op2)));
        let found: Vec<_> = found
            .filter(|&(crm, op2)| group_0(sysreg(3, 0, 12, crm, op2)).is_some())
            .collect();
        let all: Vec<_> = (0..8).map(|op2| (8, op2)).chain([(12, 6)]).collect();
        assert_eq!(found, all);
        assert_eq!(group_0(ICC_PMR_EL1), None);
    }

    /// Values that QEMU's cortex-a76 really put into ESR_EL2, or that the
    /// Arm ARM's tables give.
    #[test]
    fn known_syndromes() {
        assert_eq!(Trap::decode(0x07e0_0000), Trap::Wfx { wfe: false });
        assert_eq!(Trap::decode(0x07e0_0001), Trap::Wfx { wfe: true });
        assert_eq!(Trap::decode(0x07e0_0002), Trap::WfxTimeout);
        assert_eq!(Trap::decode(0x5a00_1234), Trap::Hvc(0x1234));
        assert_eq!(Trap::decode(0x5e00_0000), Trap::Smc);
        assert_eq!(Trap::decode(0x1fe0_0000), Trap::Float);
        assert_eq!(Trap::decode(0x6600_0000), Trap::Float);
        // msr icc_sgi1r_el1, x3
        let esr = 0x6200_0000 | u64::from(ICC_SGI1R_EL1) | 3 << 5;
        assert_eq!(
            Trap::decode(esr),
            Trap::SysReg {
                op: ICC_SGI1R_EL1,
                rt: 3,
                write: true
            }
        );
        // mrs xzr, icc_pmr_el1
        let esr = 0x6200_0000 | u64::from(ICC_PMR_EL1) | 31 << 5 | 1;
        assert_eq!(
            Trap::decode(esr),
            Trap::SysReg {
                op: ICC_PMR_EL1,
                rt: 31,
                write: false
            }
        );
        // ldr x2, [doorbell]: a translation fault at level 3.
        assert_eq!(
            Trap::decode(0x93c2_8007),
            Trap::DataAbort {
                write: false,
                size: AccessSize::Double,
                sign_extend: false,
                rt: 2,
                wide: true,
                valid: true,
                s1ptw: false,
                fsc: 7
            }
        );
        assert_eq!(
            Trap::decode(0x8200_008d),
            Trap::InstAbort {
                s1ptw: true,
                fsc: 0x0d
            }
        );
        assert!(is_translation_fault(7) && !is_translation_fault(0xd) && is_permission_fault(0xd));
    }

    #[test]
    fn fault_addresses_keep_the_byte_of_the_page() {
        assert_eq!(fault_ipa(0x8_0800, 0xffff_8000_1234_5678), 0x0808_0678);
        assert_eq!(fault_ipa(u64::MAX, 0), 0x000f_ffff_ffff_f000);
    }

    #[test]
    fn loads_are_cut_and_extended() {
        assert_eq!(loaded(0x1ff, AccessSize::Byte, false, true), 0xff);
        assert_eq!(loaded(0x1ff, AccessSize::Byte, true, true), u64::MAX);
        assert_eq!(loaded(0x1ff, AccessSize::Byte, true, false), 0xffff_ffff);
        assert_eq!(
            loaded(0x8000_0000, AccessSize::Word, true, true),
            0xffff_ffff_8000_0000
        );
        assert_eq!(loaded(u64::MAX, AccessSize::Double, false, true), u64::MAX);
    }

    fn targets() -> impl Strategy<Value = SgiTargets> {
        (0u8..16, any::<bool>(), any::<u64>(), 0u8..16, any::<u16>()).prop_map(
            |(intid, all_but_self, aff, range, list)| SgiTargets {
                intid,
                all_but_self,
                cluster: Mpidr::new(aff).cluster(),
                range,
                list,
            },
        )
    }

    proptest! {
        #[test]
        fn decoding_takes_every_value(esr: u64) {
            let class = (esr >> 26 & 0x3f) as u8;
            if let Trap::Other(other) = Trap::decode(esr) {
                prop_assert_eq!(other, class);
            }
        }

        #[test]
        fn sgi_values_round_trip(t in targets()) {
            prop_assert_eq!(SgiTargets::decode(t.encode()), t);
        }

        #[test]
        fn the_list_is_what_includes_says(t in targets(), sender: u64) {
            let sender = Mpidr::new(sender);
            let listed: Vec<_> = t.iter().collect();
            prop_assert_eq!(listed.len(), if t.all_but_self { 0 } else { t.list.count_ones() as usize });
            for aff0 in 0..=255u64 {
                let cpu = Mpidr::new(t.cluster.value() | aff0);
                let expect = if t.all_but_self { cpu != sender } else { listed.contains(&cpu) };
                prop_assert_eq!(t.includes(cpu, sender), expect);
            }
        }
    }
}
