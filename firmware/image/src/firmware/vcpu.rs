// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupts for vCPUs: SGIs and the virtual timer, from "pending" to a list
//! register.
//!
//! A pending bit is set before the scheduler's lock is taken to see where the
//! vCPU is, and a vCPU goes idle under the same lock only while no bit is set:
//! so none is overlooked.

use super::lend;
use super::machine::{Machine, machine};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use taichi_abi::trace::Event;
use taichi_el2::context::Context;
use taichi_el2::percore::Core;
use taichi_el2::{gic, shared, timer};
use taichi_sched::VcpuState;
use taichi_sched::handover::Mail;

const TIMER_BIT: u32 = 1 << gic::VIRTUAL_TIMER;

/// Any core: makes `intid` pending at a vCPU, wherever that is.
pub fn pend(core: &mut Core, vcpu: usize, intid: u32) {
    let m = machine();
    let Some(target) = m.vcpu.get(vcpu) else {
        return;
    };
    target.pending.fetch_or(1 << intid, SeqCst);
    notify(core, vcpu);
}

/// Any core: sees to it that a vCPU takes what is pending for it.
pub fn notify(core: &mut Core, vcpu: usize) {
    let m = machine();
    if core.vcpu() == Some(vcpu) {
        flush_loaded(m, core, vcpu);
        return;
    }
    let now = timer::now();
    let mut sched = m.sched.lock();
    let place = sched.vcpu(vcpu);
    if let VcpuState::Running { core: runs_on } = place {
        drop(sched);
        m.kick(runs_on, Mail::VCPU);
        return;
    }
    let kicks = sched.vcpu_interrupt(vcpu, core.id(), now);
    m.publish_ready(&sched);
    let deadline = sched.deadline(core.id());
    drop(sched);
    lend::rearm(core, deadline);
    if place == VcpuState::Idle {
        core.trace(now, Event::Ready, Some(vcpu), 0);
    }
    m.kick_all(kicks);
}

/// The loaded vCPU's timer fired: Linux's handler programs it anew.
#[inline]
pub fn timer_fired(m: &Machine, core: &mut Core, vcpu: usize) {
    timer::mask_loaded();
    shared::add(&shared::vcpu(vcpu).timer_irqs, 1);
    m.vcpu[vcpu].pending.fetch_or(TIMER_BIT, Relaxed);
    flush_loaded(m, core, vcpu);
}

/// Moves pending interrupts into the list registers of the loaded vCPU.
#[inline]
pub fn flush_loaded(m: &Machine, core: &mut Core, vcpu: usize) {
    let mut left = take(m, vcpu);
    while left != 0 {
        let intid = left.trailing_zeros();
        if gic::pend(core.current().lists(), intid, false).is_err() {
            m.vcpu[vcpu].pending.fetch_or(left, SeqCst);
            gic::set_underflow(true);
            return;
        }
        left &= left - 1;
    }
}

/// Moves pending interrupts, and a timer that has expired, into the list
/// registers of a vCPU that is about to be loaded.
#[inline]
pub fn flush_chosen(m: &Machine, context: &mut Context, vcpu: usize, now: u64) {
    if context.timer().is_some_and(|t| t <= now) {
        context.mask_timer();
        shared::add(&shared::vcpu(vcpu).timer_irqs, 1);
        m.vcpu[vcpu].pending.fetch_or(TIMER_BIT, Relaxed);
    }
    let mut left = take(m, vcpu);
    while left != 0 {
        let intid = left.trailing_zeros();
        if context.lists().pend(intid, 0xa0, false).is_err() {
            m.vcpu[vcpu].pending.fetch_or(left, SeqCst);
            context.set_underflow(true);
            return;
        }
        left &= left - 1;
    }
}

#[inline]
fn take(m: &Machine, vcpu: usize) -> u32 {
    let vcpu = &m.vcpu[vcpu];
    if vcpu.pending.load(SeqCst) == 0 {
        return 0;
    }
    let enabled = vcpu.enabled.load(SeqCst);
    vcpu.pending.fetch_and(!enabled, SeqCst) & enabled
}

/// Whether a vCPU has an interrupt that it would take.
#[inline]
pub fn has_pending(m: &Machine, vcpu: usize) -> bool {
    let vcpu = &m.vcpu[vcpu];
    vcpu.pending.load(SeqCst) & vcpu.enabled.load(SeqCst) != 0
}
