// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The GIC redistributor of a vCPU: registers without an interrupt controller
//! behind them (GIC architecture, IHI 0069, 12.10 and 12.11).
//!
//! A vCPU gets SGIs and PPIs only. Yet Linux must find LPI support here, or it
//! does without LPIs everywhere; it gets told the Processor_Number of the boot
//! core, so that it maps the vCPU's LPI collection to that core by itself. What
//! would make Linux do more than that is not advertised: VLPIS, DirectLPI,
//! Dirty, RVPEID, CTLR.IR. EnableLPIs can be cleared again, as kexec does.

use crate::affinity::Mpidr;
use crate::trap::AccessSize;

/// Bytes of one redistributor: RD_base and SGI_base, 64 KiB each.
pub const FRAMES: u64 = 0x2_0000;

/// What the owner of the vCPU's interrupts must do after a write. Bit n is
/// INTID n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// These are enabled now, and no others.
    Enabled(u32),
    /// These become pending.
    Pend(u32),
    /// These are no longer pending.
    Unpend(u32),
    /// These become active.
    Activate(u32),
    /// These are no longer active.
    Deactivate(u32),
}

/// Offsets from RD_base.
mod offset {
    pub const CTLR: u32 = 0x0000;
    pub const IIDR: u32 = 0x0004;
    pub const TYPER: u32 = 0x0008;
    pub const TYPER_HIGH: u32 = 0x000c;
    pub const WAKER: u32 = 0x0014;
    pub const PROPBASER: u32 = 0x0070;
    pub const PROPBASER_HIGH: u32 = 0x0074;
    pub const PENDBASER: u32 = 0x0078;
    pub const PENDBASER_HIGH: u32 = 0x007c;
    pub const PIDR2: u32 = 0xffe8;
    pub const IGROUPR0: u32 = 0x1_0080;
    pub const ISENABLER0: u32 = 0x1_0100;
    pub const ICENABLER0: u32 = 0x1_0180;
    pub const ISPENDR0: u32 = 0x1_0200;
    pub const ICPENDR0: u32 = 0x1_0280;
    pub const ISACTIVER0: u32 = 0x1_0300;
    pub const ICACTIVER0: u32 = 0x1_0380;
    pub const IPRIORITYR: u32 = 0x1_0400;
    pub const IPRIORITYR_LAST: u32 = 0x1_041f;
    pub const ICFGR0: u32 = 0x1_0c00;
    pub const ICFGR1: u32 = 0x1_0c04;
    pub const IGRPMODR0: u32 = 0x1_0d00;
    pub const NSACR: u32 = 0x1_0e00;
}

/// GICR_CTLR.EnableLPIs.
const ENABLE_LPIS: u32 = 1 << 0;
/// GICR_TYPER.PLPIS.
const PLPIS: u64 = 1 << 0;
/// GICR_TYPER.Last.
const LAST: u64 = 1 << 4;
/// GICR_TYPER.Processor_Number and PPInum: taken from a real one.
const FROM_REAL: u64 = 0xffff << 8 | 0x1f << 27;
/// GICR_WAKER.ProcessorSleep.
const PROCESSOR_SLEEP: u32 = 1 << 1;
/// GICR_WAKER.ChildrenAsleep.
const CHILDREN_ASLEEP: u32 = 1 << 2;
/// Fields of GICR_PROPBASER.
const PROPBASER_MASK: u64 = 0x070f_ffff_ffff_ff9f;
/// Fields of GICR_PENDBASER that can be read: not PTZ.
const PENDBASER_MASK: u64 = 0x070f_ffff_ffff_0f80;
/// GICR_PIDR2: GICv3, JEDEC; as GIC-600 and QEMU have it.
const PIDR2: u32 = 0x3b;
/// GICR_ICFGR0: SGIs are edge-triggered.
const SGI_CONFIG: u32 = 0xaaaa_aaaa;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtualRedistributor {
    /// What IS/ICPENDR0 show. The owner of the vCPU's interrupts sets it
    /// before a read that should be right; nothing here does.
    pub pending: u32,
    /// What IS/ICACTIVER0 show; likewise.
    pub active: u32,
    typer: u64,
    iidr: u32,
    lpis: bool,
    asleep: bool,
    propbaser: u64,
    pendbaser: u64,
    group: u32,
    group_modifier: u32,
    enabled: u32,
    config: u32,
    nsacr: u32,
    priority: [u8; 32],
}

impl VirtualRedistributor {
    /// The redistributor of vCPU `mpidr` after reset. `boot_typer` is
    /// GICR_TYPER of the boot core and `iidr` its GICR_IIDR; `last` marks the
    /// last one in its region.
    pub fn new(mpidr: Mpidr, boot_typer: u64, iidr: u32, last: bool) -> Self {
        let affinity = u64::from(mpidr.packed()) << 32;
        Self {
            typer: affinity | boot_typer & FROM_REAL | PLPIS | if last { LAST } else { 0 },
            iidr,
            asleep: true,
            ..Self::default()
        }
    }

    /// Whether INTID `intid` (0 to 31) is enabled.
    #[inline]
    pub const fn enabled(&self, intid: u32) -> bool {
        intid < 32 && self.enabled >> intid & 1 != 0
    }

    /// All that are enabled; bit n is INTID n.
    #[inline]
    pub const fn enabled_set(&self) -> u32 {
        self.enabled
    }

    /// The priority of INTID `intid` (0 to 31); 0 is the highest.
    #[inline]
    pub fn priority(&self, intid: u32) -> u8 {
        self.priority.get(intid as usize).copied().unwrap_or(0)
    }

    /// A load of `size` at `offset` bytes from RD_base. What isn't there is 0.
    pub fn read(&self, offset: u32, size: AccessSize) -> u64 {
        if !offset.is_multiple_of(size.bytes()) {
            return 0;
        }
        let word = u64::from(self.word(offset & !3));
        match size {
            AccessSize::Double => word | u64::from(self.word(offset | 4)) << 32,
            AccessSize::Word => word,
            AccessSize::Byte | AccessSize::Half => word >> (8 * (offset & 3)) & size.mask(),
        }
    }

    fn word(&self, offset: u32) -> u32 {
        use offset::*;
        match offset {
            CTLR => u32::from(self.lpis) * ENABLE_LPIS,
            IIDR => self.iidr,
            TYPER => self.typer as u32,
            TYPER_HIGH => (self.typer >> 32) as u32,
            WAKER => u32::from(self.asleep) * (PROCESSOR_SLEEP | CHILDREN_ASLEEP),
            PROPBASER => self.propbaser as u32,
            PROPBASER_HIGH => (self.propbaser >> 32) as u32,
            PENDBASER => self.pendbaser as u32,
            PENDBASER_HIGH => (self.pendbaser >> 32) as u32,
            PIDR2 => self::PIDR2,
            IGROUPR0 => self.group,
            ISENABLER0 | ICENABLER0 => self.enabled,
            ISPENDR0 | ICPENDR0 => self.pending,
            ISACTIVER0 | ICACTIVER0 => self.active,
            IPRIORITYR..=IPRIORITYR_LAST => self
                .priority
                .get((offset - IPRIORITYR) as usize..)
                .and_then(|rest| rest.first_chunk())
                .map_or(0, |bytes| u32::from_le_bytes(*bytes)),
            ICFGR0 => SGI_CONFIG,
            ICFGR1 => self.config,
            IGRPMODR0 => self.group_modifier,
            NSACR => self.nsacr,
            _ => 0,
        }
    }

    /// A store of `size` at `offset` bytes from RD_base. What isn't there, or
    /// not with this size, ignores it.
    pub fn write(&mut self, offset: u32, size: AccessSize, value: u64) -> Option<Effect> {
        if !offset.is_multiple_of(size.bytes()) {
            return None;
        }
        match size {
            AccessSize::Byte => {
                self.set_priority(offset, value as u8);
                None
            }
            AccessSize::Half => None,
            AccessSize::Word => self.set_word(offset, value as u32),
            AccessSize::Double => {
                match offset {
                    offset::PROPBASER => self.propbaser = value & PROPBASER_MASK,
                    offset::PENDBASER => self.pendbaser = value & PENDBASER_MASK,
                    _ => {}
                }
                None
            }
        }
    }

    fn set_priority(&mut self, offset: u32, value: u8) {
        let index = offset.wrapping_sub(offset::IPRIORITYR) as usize;
        if let Some(priority) = self.priority.get_mut(index) {
            *priority = value;
        }
    }

    fn set_word(&mut self, offset: u32, value: u32) -> Option<Effect> {
        use offset::*;
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            CTLR => self.lpis = value & ENABLE_LPIS != 0,
            WAKER => self.asleep = value & PROCESSOR_SLEEP != 0,
            PROPBASER => self.propbaser = low(self.propbaser) & PROPBASER_MASK,
            PROPBASER_HIGH => self.propbaser = high(self.propbaser) & PROPBASER_MASK,
            PENDBASER => self.pendbaser = low(self.pendbaser) & PENDBASER_MASK,
            PENDBASER_HIGH => self.pendbaser = high(self.pendbaser) & PENDBASER_MASK,
            IGROUPR0 => self.group = value,
            IGRPMODR0 => self.group_modifier = value,
            NSACR => self.nsacr = value,
            ICFGR1 => self.config = value & SGI_CONFIG,
            IPRIORITYR..=IPRIORITYR_LAST => {
                for (byte, at) in value.to_le_bytes().into_iter().zip(offset..) {
                    self.set_priority(at, byte);
                }
            }
            ISENABLER0 => {
                self.enabled |= value;
                return Some(Effect::Enabled(self.enabled));
            }
            ICENABLER0 => {
                self.enabled &= !value;
                return Some(Effect::Enabled(self.enabled));
            }
            ISPENDR0 => return Some(Effect::Pend(value)),
            ICPENDR0 => return Some(Effect::Unpend(value)),
            ISACTIVER0 => return Some(Effect::Activate(value)),
            ICACTIVER0 => return Some(Effect::Deactivate(value)),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::AccessSize::*;
    use super::*;
    use proptest::prelude::*;

    const VCPU: Mpidr = Mpidr::from_affinity(0, 0, 1, 2);

    /// GICR_TYPER of QEMU's core 1: PLPIS, Last, Processor_Number 1, PPInum 0;
    /// here with all that must not get through, and PPInum 2.
    const REAL: u64 = 0x0000_0001_1700_01ff;

    fn fresh() -> VirtualRedistributor {
        VirtualRedistributor::new(VCPU, REAL, 0x43b, true)
    }

    #[test]
    fn what_linux_reads_at_boot() {
        let r = fresh();
        assert_eq!(r.read(0xffe8, Word) & 0xf0, 0x30);
        assert_eq!(r.read(0x8, Double), 0x0000_0102_1000_0111);
        assert_eq!(r.read(0x8, Word), 0x1000_0111);
        assert_eq!(r.read(0xc, Word), 0x0000_0102);
        assert_eq!(r.read(0x4, Word), 0x43b);
        assert_eq!(r.read(0x14, Word), 6);
        let other = VirtualRedistributor::new(VCPU, REAL, 0, false);
        assert_eq!(other.read(0x8, Double) & LAST, 0);
    }

    #[test]
    fn waking_and_lpis() {
        let mut r = fresh();
        assert_eq!(r.write(0x14, Word, 0), None);
        assert_eq!(r.read(0x14, Word), 0);
        r.write(0, Word, u64::MAX);
        assert_eq!(r.read(0, Word), 1);
        r.write(0, Word, 0);
        assert_eq!(r.read(0, Word), 0);
        r.write(0x70, Double, 0x0700_0001_2345_678f);
        assert_eq!(r.read(0x70, Double), 0x0700_0001_2345_678f);
        r.write(0x78, Double, 1 << 62 | 0x1234_0780);
        assert_eq!(r.read(0x78, Double), 0x1234_0780);
        r.write(0x7c, Word, 0x700_0001);
        assert_eq!(r.read(0x78, Double), 0x0700_0001_1234_0780);
    }

    #[test]
    fn every_effect() {
        let mut r = fresh();
        assert_eq!(r.write(0x1_0100, Word, 0xff), Some(Effect::Enabled(0xff)));
        assert_eq!(r.write(0x1_0180, Word, 0x0f), Some(Effect::Enabled(0xf0)));
        assert!(r.enabled(4) && !r.enabled(3) && !r.enabled(32));
        assert_eq!(r.read(0x1_0180, Word), 0xf0);
        assert_eq!(
            r.write(0x1_0200, Word, 1 << 27),
            Some(Effect::Pend(1 << 27))
        );
        assert_eq!(r.write(0x1_0280, Word, 1), Some(Effect::Unpend(1)));
        assert_eq!(r.write(0x1_0300, Word, 2), Some(Effect::Activate(2)));
        assert_eq!(
            r.write(0x1_0380, Word, u64::MAX),
            Some(Effect::Deactivate(u32::MAX))
        );
        r.pending = 5;
        assert_eq!((r.read(0x1_0200, Word), r.read(0x1_0300, Word)), (5, 0));
    }

    #[test]
    fn priorities_by_byte_and_by_word() {
        let mut r = fresh();
        r.write(0x1_0400, Word, 0xa0b0_c0d0);
        r.write(0x1_041b, Byte, 0x80);
        assert_eq!(
            (r.priority(0), r.priority(3), r.priority(27)),
            (0xd0, 0xa0, 0x80)
        );
        assert_eq!(r.read(0x1_0403, Byte), 0xa0);
        assert_eq!(r.read(0x1_0418, Word), 0x8000_0000);
        assert_eq!(r.priority(32), 0);
    }

    #[test]
    fn groups_and_configuration() {
        let mut r = fresh();
        for offset in [0x1_0080, 0x1_0d00, 0x1_0e00] {
            r.write(offset, Word, 0x1234_5678);
            assert_eq!(r.read(offset, Word), 0x1234_5678);
        }
        r.write(0x1_0c00, Word, 0);
        assert_eq!(r.read(0x1_0c00, Word), 0xaaaa_aaaa);
        r.write(0x1_0c04, Word, u64::MAX);
        assert_eq!(r.read(0x1_0c04, Word), 0xaaaa_aaaa);
    }

    proptest! {
        #[test]
        fn identity_never_changes_and_nothing_panics(
            writes in proptest::collection::vec((0u32..0x2_0010, 0u64..4, any::<u64>()), 0..64),
            offset: u32,
        ) {
            let mut r = fresh();
            for (offset, size, value) in writes {
                r.write(offset, AccessSize::from_sas(size), value);
                r.read(offset, AccessSize::from_sas(size));
            }
            r.write(offset, Word, 1);
            r.read(offset, Double);
            let first = fresh();
            for offset in [0x4, 0x8, 0xc, 0xffe8] {
                prop_assert_eq!(r.read(offset, Word), first.read(offset, Word));
            }
            prop_assert_eq!(r.read(0, Word) & !1, 0);
        }
    }
}
