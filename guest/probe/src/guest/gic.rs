// SPDX-License-Identifier: Apache-2.0 OR MIT
//! GICv3, Group 1 only, EOImode 0.

use super::sys::{self, get, set};
use super::tree::{Machine, Range};

/// The virtual timer's INTID.
pub const TIMER: u32 = 27;
/// Priority of everything that this guest enables.
pub const PRIORITY: u8 = 0xa0;
/// INTIDs from here to 1023 are not interrupts.
pub const SPECIAL: u32 = 1020;

/// Offset of a redistributor's SGI and PPI page.
pub const SGI_PAGE: u64 = 0x1_0000;
/// GICR_TYPER.
pub const GICR_TYPER: u64 = 0x8;
/// GICR_WAKER.
pub const GICR_WAKER: u64 = 0x14;
/// GICR_ISENABLER0, from the frame's start.
pub const GICR_ISENABLER: u64 = SGI_PAGE + 0x100;
/// GICR_ICENABLER0.
pub const GICR_ICENABLER: u64 = SGI_PAGE + 0x180;
/// GICR_ISPENDR0.
pub const GICR_ISPENDR: u64 = SGI_PAGE + 0x200;
/// GICR_ICPENDR0.
pub const GICR_ICPENDR: u64 = SGI_PAGE + 0x280;
/// GICR_IPRIORITYR0.
pub const GICR_PRIORITY: u64 = SGI_PAGE + 0x400;

/// GICD_IROUTER0; eight bytes for each SPI.
pub const GICD_IROUTER: u64 = 0x6000;

/// Sets the distributor up: affinity routing, Group 1.
pub fn init_distributor(gicd: u64) {
    sys::write32(gicd, 0x12); // ARE_NS, EnableGrp1
    let settled = sys::wait_for(10_000, || sys::read32(gicd) & 1 << 31 == 0); // RWP
    assert!(settled, "GICD_CTLR.RWP stays set");
}

/// Finds the redistributor frame of the CPU with this affinity.
pub fn frame_of(machine: &Machine, mpidr: u64) -> Option<u64> {
    let wanted = mpidr & 0xff_ffff | (mpidr >> 32 & 0xff) << 24;
    machine
        .gicr
        .iter()
        .find_map(|region| frame_in(region, wanted))
}

fn frame_in(region: &Range, affinity: u64) -> Option<u64> {
    let mut frame = region.base;
    while frame < region.base + region.size {
        let typer = sys::read64(frame + GICR_TYPER);
        if typer >> 32 == affinity {
            return Some(frame);
        }
        if typer & 1 << 4 != 0 {
            return None; // Last
        }
        frame += if typer & 1 << 1 != 0 {
            0x4_0000
        } else {
            0x2_0000
        }; // VLPIS
    }
    None
}

/// Sets up the calling CPU's redistributor and interface: all SGIs and the
/// virtual timer, Group 1, one priority.
pub fn init_cpu(frame: u64) {
    let waker = sys::read32(frame + GICR_WAKER);
    sys::write32(frame + GICR_WAKER, waker & !2);
    let awake = sys::wait_for(10_000, || sys::read32(frame + GICR_WAKER) & 4 == 0);
    assert!(awake, "GICR_WAKER.ChildrenAsleep stays set");
    sys::write32(frame + SGI_PAGE + 0x80, u32::MAX); // IGROUPR0
    for n in 0..8 {
        sys::write32(frame + GICR_PRIORITY + 4 * n, 0xa0a0_a0a0);
    }
    sys::write32(frame + GICR_ISENABLER, 0xffff | 1 << TIMER);
    set!("s3_0_c12_c12_5", get!("s3_0_c12_c12_5") | 1); // ICC_SRE_EL1.SRE
    set!("icc_pmr_el1", 0xf0);
    set!("icc_bpr1_el1", 3);
    set!("icc_ctlr_el1", 0);
    set!("icc_igrpen1_el1", 1);
}

/// The ICC_SGI1R_EL1 value that sends `sgi` to the CPU with this affinity.
pub fn sgi_to(sgi: u64, mpidr: u64) -> u64 {
    let [aff0, aff1, aff2] = [mpidr & 0xff, mpidr >> 8 & 0xff, mpidr >> 16 & 0xff];
    let aff3 = mpidr >> 32 & 0xff;
    aff3 << 48 | (aff0 >> 4) << 44 | aff2 << 32 | sgi << 24 | aff1 << 16 | 1 << (aff0 & 15)
}

/// The ICC_SGI1R_EL1 value that sends `sgi` to every CPU but the sender.
pub fn sgi_to_others(sgi: u64) -> u64 {
    1 << 40 | sgi << 24
}

/// Sends: `value` is for ICC_SGI1R_EL1.
pub fn send(value: u64) {
    sys::barrier(); // what was stored before is seen before the interrupt
    set!("icc_sgi1r_el1", value);
}

/// Acknowledges the highest-priority pending interrupt of Group 1.
pub fn acknowledge() -> u32 {
    let intid = get!("icc_iar1_el1") as u32;
    sys::barrier();
    intid
}

/// Ends an interrupt: priority drop and deactivation.
pub fn end(intid: u32) {
    set!("icc_eoir1_el1", intid.into());
}

/// Makes an edge-triggered, enabled SPI of Group 1 with this route.
pub fn init_spi(gicd: u64, intid: u32, mpidr: u64) {
    let (word, bit) = (u64::from(intid / 32) * 4, 1 << (intid % 32));
    sys::write32(gicd + 0x80 + word, sys::read32(gicd + 0x80 + word) | bit); // IGROUPR
    sys::write8(gicd + 0x400 + u64::from(intid), PRIORITY);
    let config = gicd + 0xc00 + u64::from(intid / 16) * 4;
    sys::write32(config, sys::read32(config) | 2 << (intid % 16 * 2));
    sys::write64(gicd + GICD_IROUTER + 8 * u64::from(intid), mpidr);
    sys::write32(gicd + 0x100 + word, bit); // ISENABLER
}

/// Makes an SPI pending, as its device would.
pub fn raise_spi(gicd: u64, intid: u32) {
    sys::barrier();
    sys::write32(gicd + 0x200 + u64::from(intid / 32) * 4, 1 << (intid % 32)); // ISPENDR
}
