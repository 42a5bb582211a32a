// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Physical interrupts that EL2 takes: all on CP cores, and those that arrive
//! while a core is lent.

use super::hot::HOT;
use super::stray::{calm, stray};
use super::{crash, native, reclaim, vcpu};
use taichi_el2::percore::Core;
use taichi_el2::vectors::Outcome;
use taichi_el2::{fault, gic, shared, timer};
use taichi_sched::handover::Mail;

/// IRQ from EL1 or EL0.
#[inline]
pub fn irq(core: &mut Core) -> Outcome {
    shared::add(&core.counters().interrupts, 1);
    // EL2's own but the kick are levels, which end when their cause does: they
    // are not acknowledged, because what is acknowledged may be another
    // interrupt that came in between.
    match gic::highest_pending() {
        gic::HYP_TIMER => reclaim::tick(core),
        other => handle(core, other),
    }
}

#[inline(never)]
fn handle(core: &mut Core, pending: u32) -> Outcome {
    match pending {
        gic::VIRTUAL_TIMER => virtual_timer(core),
        gic::MAINTENANCE => maintenance(core),
        none if gic::is_spurious(none) => Outcome::Resume,
        // The physical CPU interface is Linux's: only what is EL2's own is
        // acknowledged, the rest stays pending for the native context.
        other if core.is_dp() && other != gic::KICK => reclaim::reclaim_for_interrupt(core),
        _ => acknowledged(core),
    }
}

/// An interrupt that EL2 takes. Which one, the acknowledgement says.
#[inline(never)]
fn acknowledged(core: &mut Core) -> Outcome {
    let intid = gic::acknowledge();
    match intid {
        gic::KICK => {
            gic::end_own(intid, core.is_dp());
            kicked(core)
        }
        gic::HYP_TIMER => {
            gic::end_own(intid, core.is_dp());
            reclaim::tick(core)
        }
        gic::VIRTUAL_TIMER => {
            gic::end_own(intid, core.is_dp());
            virtual_timer(core)
        }
        gic::MAINTENANCE => {
            gic::end_own(intid, core.is_dp());
            maintenance(core)
        }
        none if gic::is_spurious(none) => Outcome::Resume,
        _ if core.is_dp() => fault::die("acknowledged an interrupt of a DP core's Linux"),
        other => native_interrupt(core, other),
    }
}

/// SGI 0: act on every level that is in the mailbox.
fn kicked(core: &mut Core) -> Outcome {
    let mail = HOT.hand(core.id()).take();
    let mut outcome = Outcome::Resume;
    if let Some(vcpu) = core.vcpu() {
        if mail.has(Mail::VCPU) {
            vcpu::flush_loaded(core, vcpu);
        }
        if mail.for_native() {
            outcome = reclaim::give_back(core, mail);
        }
        if outcome == Outcome::Switch {
            return outcome;
        }
    } else if mail.for_native() {
        native::wanted(core, mail);
    }
    if mail.has(Mail::LOOK) {
        outcome = reclaim::tick(core);
    }
    outcome
}

/// The loaded context's timer: masked until Linux programs it anew.
#[inline(never)]
fn virtual_timer(core: &mut Core) -> Outcome {
    if timer::loaded_deadline().is_none_or(|t| t > timer::now()) {
        return stray(core, gic::VIRTUAL_TIMER);
    }
    match core.vcpu() {
        Some(vcpu) => vcpu::timer_fired(core, vcpu),
        // Without a free list register interrupts of Linux's priority are
        // masked: the timer asks again when one is free.
        None if native::pend(core, gic::VIRTUAL_TIMER, false).is_ok() => timer::mask_loaded(),
        None => calm(core, gic::VIRTUAL_TIMER),
    }
    Outcome::Resume
}

/// List registers are free again.
#[inline(never)]
fn maintenance(core: &mut Core) -> Outcome {
    if !gic::is_maintenance_due() {
        return stray(core, gic::MAINTENANCE);
    }
    gic::set_underflow(false);
    core.current().set_underflow(false);
    match core.vcpu() {
        Some(vcpu) => vcpu::flush_loaded(core, vcpu),
        None => native::list_registers_free(core),
    }
    Outcome::Resume
}

/// Acknowledged on a CP core: a device's, or an SGI above 0. Its native
/// context gets it through a list register.
fn native_interrupt(core: &mut Core, intid: u32) -> Outcome {
    gic::end(intid);
    let sgi = intid < 16;
    if sgi {
        gic::deactivate(intid);
    }
    // Linux's end of a device interrupt deactivates it; SGIs are over here,
    // and LPIs have no active state.
    let physical = !sgi && intid < gic::FIRST_LPI;
    if intid >= 32 && crash::inherits(core) {
        crash::device(core, intid);
        return Outcome::Resume;
    }
    if native::pend(core, intid, physical).is_err() {
        calm(core, intid);
        return Outcome::Resume;
    }
    if core.is_lent() {
        reclaim::interrupt_while_lent(core)
    } else {
        Outcome::Resume
    }
}

/// SError from EL1 or EL0: an asynchronous bus error that nobody can place.
pub fn serror(_: &mut Core) -> Outcome {
    fault::die("SError (asynchronous abort) while EL1 ran")
}
