// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupts for native contexts: on CP cores through list registers, loaded
//! or not; on DP cores Linux takes them itself.

use super::hot::HOT;
use super::machine::machine;
use super::park;
use taichi_el2::gic;
use taichi_el2::gic::Full;
use taichi_el2::percore::Core;
use taichi_sched::handover::Mail;

/// How often a core looks whether its own SGI has arrived.
const REDELIVERY: u32 = 1_000_000;

/// The mailbox asked for the native context, which is loaded or not.
#[inline(never)]
pub fn wanted(core: &mut Core, mail: Mail) {
    if mail.has(Mail::KEEP) {
        park::taken(core.id());
    }
    if mail.has(Mail::NATIVE_SGI) {
        native_sgi(core);
    }
}

/// SGI 0 for the native context, loaded or not.
#[inline(never)]
pub fn native_sgi(core: &mut Core) {
    let id = core.id();
    if core.is_dp() {
        // Linux takes it itself, once the context is loaded. The distributor
        // may take a moment; one that never delivers must not stop the core.
        gic::send_sgi(machine().core[id].kick);
        for _ in 0..REDELIVERY {
            if gic::is_pending() {
                break;
            }
        }
        return;
    }
    if pend(core, gic::KICK, false).is_err() {
        // The level stays up, and the maintenance interrupt looks again.
        HOT.hand(id).post(Mail::NATIVE_SGI);
    }
}

/// Makes a virtual interrupt pending in a CP core's native context, loaded or
/// not. When that takes the last list register, no further interrupt but EL2's
/// own passes until one is free, so that nothing is acknowledged that has no
/// place.
pub fn pend(core: &mut Core, intid: u32, physical: bool) -> Result<(), Full> {
    let lent = core.is_lent();
    let lists = core.native().lists();
    let result = if lent {
        lists.pend(intid, gic::LINUX_PRIORITY, physical).map(|_| ())
    } else {
        gic::pend(lists, intid, physical)
    };
    if lists.is_full() {
        list_registers_full(core);
    }
    result
}

/// A CP core's native list registers are full: just EL2's own interrupts pass
/// until some are free.
fn list_registers_full(core: &mut Core) {
    gic::own_interrupts_only(true);
    core.native().set_underflow(true);
    if !core.is_lent() {
        gic::set_underflow(true);
    }
}

/// They are free again; or not, where the interrupt that said so was meant for
/// the vCPU that had the core.
pub fn list_registers_free(core: &mut Core) {
    let lists = core.current().lists();
    gic::refresh(lists);
    if lists.is_full() {
        return list_registers_full(core);
    }
    gic::own_interrupts_only(false);
    if HOT
        .hand(core.id())
        .take_only(Mail::NATIVE_SGI)
        .has(Mail::NATIVE_SGI)
    {
        native_sgi(core);
    }
}
