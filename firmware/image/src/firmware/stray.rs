// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupts that can't be, and yet are: of EL2's own without a cause, and of
//! Linux's with a priority that was to be EL2's alone. Linux can make both, by
//! registers of the interrupt controller that are its own; neither may stop a
//! core.

use super::machine::machine;
use super::{native, reclaim};
use taichi_el2::gic;
use taichi_el2::mmio::Frame;
use taichi_el2::percore::Core;
use taichi_el2::vectors::Outcome;
use taichi_machine::spi::Spi;

/// GICR_ISPENDR0, GICR_ICPENDR0 and GICR_IPRIORITYR<n> of a redistributor.
const GICR_ISPENDR0: u64 = 0x1_0200;
const GICR_ICPENDR0: u64 = 0x1_0280;
const GICR_IPRIORITYR: u64 = 0x1_0400;

/// A PPI that is the level of a timer, or the maintenance interrupt, came
/// without its cause. Either the level is late to go, then it has gone now; or
/// the interrupt was made pending by a store, which lasts until it is
/// acknowledged or taken back: else it would come again at once, forever.
#[cold]
#[inline(never)]
pub fn stray(core: &mut Core, intid: u32) -> Outcome {
    let frame = own_frame(core);
    if frame.read32(GICR_ISPENDR0) & 1 << intid == 0 {
        return Outcome::Resume;
    }
    let is_linux_s = intid == gic::VIRTUAL_TIMER;
    if is_linux_s && core.is_dp() {
        return reclaim::reclaim_for_interrupt(core);
    }
    frame.write32(GICR_ICPENDR0, 1 << intid);
    if is_linux_s && native::pend(core, intid, false).is_err() {
        // Asked for once, and dropped: no timer has fired.
        return Outcome::Resume;
    }
    Outcome::Resume
}

/// An interrupt of Linux's came while the native list registers were full, when
/// just EL2's own pass: its priority is above EL2's. It gets the one that Linux
/// gives everything, so that it waits like all others, and is pending again. (An
/// LPI, whose priority is in Linux's memory, is lost.)
#[cold]
#[inline(never)]
pub fn calm(core: &mut Core, intid: u32) {
    let priority = u64::from(gic::LINUX_PRIORITY);
    let at = u64::from(intid);
    match intid {
        gic::VIRTUAL_TIMER => own_frame(core).write(GICR_IPRIORITYR + at, 1, priority),
        0..32 => {
            let frame = own_frame(core);
            frame.write(GICR_IPRIORITYR + at, 1, priority);
            frame.write32(GICR_ISPENDR0, 1 << intid);
        }
        _ => {
            let Some(spi) = Spi::new(intid) else {
                return;
            };
            let (offset, bit) = spi.pending();
            let distributor = &machine().distributor;
            distributor.write(u64::from(spi.priority()), 1, priority);
            distributor.write32(u64::from(offset), bit);
        }
    }
    if intid >= 16 && intid != gic::VIRTUAL_TIMER {
        gic::deactivate(intid);
    }
}

fn own_frame(core: &Core) -> &'static Frame {
    &machine().core[core.id()].redistributor
}
