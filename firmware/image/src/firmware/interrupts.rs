// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Physical interrupts that EL2 takes: all on CP cores, and those that arrive
//! while a core is lent.

use super::lend;
use super::machine::{Machine, machine};
use super::native;
use super::vcpu;
use taichi_abi::doorbell::Reason;
use taichi_el2::percore::Core;
use taichi_el2::vectors::Outcome;
use taichi_el2::{fault, gic, shared, timer};
use taichi_sched::handover::Mail;

/// IRQ from EL1 or EL0.
#[inline]
pub fn irq(core: &mut Core) -> Outcome {
    let m = machine();
    let id = core.id();
    shared::add(&core.counters().interrupts, 1);
    if !m.is_cp(id) {
        // The physical CPU interface is Linux's: acknowledge only what is
        // EL2's own, and leave the rest pending for the native context.
        match gic::highest_pending() {
            gic::KICK | gic::MAINTENANCE | gic::HYP_TIMER => {}
            gic::VIRTUAL_TIMER => {
                // Not acknowledged, because an SGI of Linux's that comes in
                // between would be: masked, it is not pending any more.
                virtual_timer(m, core);
                return Outcome::Resume;
            }
            none if gic::is_spurious(none) => return Outcome::Resume,
            _ => return lend::reclaim(m, core, Reason::Interrupt, timer::now()),
        }
    }
    let intid = gic::acknowledge();
    match intid {
        gic::KICK => {
            m.end_own(id, intid);
            kicked(m, core)
        }
        gic::HYP_TIMER => {
            timer::set_deadline(u64::MAX);
            m.end_own(id, intid);
            lend::tick(m, core)
        }
        gic::VIRTUAL_TIMER => {
            virtual_timer(m, core);
            m.end_own(id, intid);
            Outcome::Resume
        }
        gic::MAINTENANCE => {
            maintenance(m, core);
            m.end_own(id, intid);
            Outcome::Resume
        }
        none if gic::is_spurious(none) => Outcome::Resume,
        _ if !m.is_cp(id) => fault::die("acknowledged an interrupt of a DP core's Linux"),
        other => native_interrupt(m, core, other),
    }
}

/// SGI 0: act on every level that is in the mailbox.
fn kicked(m: &Machine, core: &mut Core) -> Outcome {
    let mail = m.core[core.id()].hand.take();
    let mut outcome = Outcome::Resume;
    if let Some(vcpu) = core.vcpu() {
        if mail.has(Mail::VCPU) {
            vcpu::flush_loaded(m, core, vcpu);
        }
        if mail.for_native() {
            outcome = lend::give_back(m, core, mail);
        }
        if outcome == Outcome::Switch {
            return outcome;
        }
    } else if mail.has(Mail::NATIVE_SGI) {
        native::native_sgi(m, core);
    }
    if mail.has(Mail::LOOK) {
        outcome = lend::tick(m, core);
    }
    outcome
}

/// The loaded context's timer: masked until Linux programs it anew.
fn virtual_timer(m: &Machine, core: &mut Core) {
    match core.vcpu() {
        Some(vcpu) => vcpu::timer_fired(m, core, vcpu),
        None => {
            timer::mask_loaded();
            // Below Linux's priority, so it only arrives while one is free.
            if native::pend(core, gic::VIRTUAL_TIMER, false).is_err() {
                fault::die("no list register for the timer");
            }
        }
    }
}

/// List registers are free again.
fn maintenance(m: &Machine, core: &mut Core) {
    gic::set_underflow(false);
    core.current().set_underflow(false);
    match core.vcpu() {
        Some(vcpu) => vcpu::flush_loaded(m, core, vcpu),
        None => native::list_registers_free(m, core),
    }
}

/// Acknowledged on a CP core: a device's, or an SGI above 0. Its native
/// context gets it through a list register.
fn native_interrupt(m: &Machine, core: &mut Core, intid: u32) -> Outcome {
    gic::end(intid);
    let sgi = intid < 16;
    if sgi {
        gic::deactivate(intid);
    }
    // Linux's end of a device interrupt deactivates it; SGIs are over here,
    // and LPIs have no active state.
    let physical = !sgi && intid < gic::FIRST_LPI;
    if native::pend(core, intid, physical).is_err() {
        fault::die("no list register for an interrupt that was acknowledged");
    }
    if core.vcpu().is_some() {
        lend::interrupt_while_lent(m, core)
    } else {
        Outcome::Resume
    }
}

/// SError from EL1 or EL0: an asynchronous bus error that nobody can place.
pub fn serror(_: &mut Core) -> Outcome {
    fault::die("SError (asynchronous abort) while EL1 ran")
}
