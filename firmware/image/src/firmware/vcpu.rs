// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupts for vCPUs: SGIs and the virtual timer, from "pending" to a list
//! register.
//!
//! A pending bit is set before the scheduler's lock is taken to see where the
//! vCPU is, and a vCPU goes idle under the same lock only while no bit is set:
//! so none is overlooked.

use super::hot::HOT;
use super::machine::{kick_all, machine};
use super::{crash, lend, reclaim, stolen};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use taichi_abi::telemetry::VcpuState as Shown;
use taichi_abi::trace::Event;
use taichi_el2::gic::Full;
use taichi_el2::percore::{Chosen, Core};
use taichi_el2::vectors::Outcome;
use taichi_el2::{gic, shared, timer};
use taichi_sched::VcpuState;
use taichi_sched::handover::Mail;

const TIMER_BIT: u32 = 1 << gic::VIRTUAL_TIMER;
/// Device interrupts wait (`crash.rs`). As an interrupt this would be PPI 31,
/// which nothing of a vCPU's is wired to.
const DEVICES_BIT: u32 = 1 << 31;

/// Any core: makes `intid` pending at a vCPU, wherever that is.
pub fn pend(core: &mut Core, vcpu: usize, intid: u32) {
    if vcpu < machine().vcpus {
        HOT.vcpu(vcpu).pending.fetch_or(1 << intid, SeqCst);
        notify(core, vcpu);
    }
}

/// Any core: device interrupts wait for a vCPU.
pub fn pend_devices(core: &mut Core, vcpu: usize) {
    HOT.vcpu(vcpu).pending.fetch_or(DEVICES_BIT, SeqCst);
    notify(core, vcpu);
}

/// Any core: sees to it that a vCPU takes what is pending for it.
pub fn notify(core: &mut Core, vcpu: usize) {
    if core.vcpu() == Some(vcpu) {
        flush_loaded(core, vcpu);
        return;
    }
    let now = timer::now();
    let mut sched = HOT.sched.lock();
    let place = sched.vcpu(vcpu);
    if let VcpuState::Running { core: runs_on } = place {
        drop(sched);
        machine().kick(runs_on, Mail::VCPU);
        return;
    }
    let kicks = sched.vcpu_interrupt(vcpu, core.id(), now);
    HOT.publish_ready(&sched);
    let deadline = sched.deadline(core.id());
    if place == VcpuState::Idle {
        reclaim::show(vcpu, Shown::Runnable);
    }
    drop(sched);
    lend::rearm(core, deadline);
    if place == VcpuState::Idle {
        core.trace(now, Event::Ready, Some(vcpu), 0);
    }
    kick_all(kicks);
}

/// The loaded vCPU's timer fired: Linux's handler programs it anew.
#[inline]
pub fn timer_fired(core: &mut Core, vcpu: usize) {
    timer::mask_loaded();
    shared::add(&shared::vcpu(vcpu).timer_irqs, 1);
    stolen::publish(vcpu);
    HOT.vcpu(vcpu).pending.fetch_or(TIMER_BIT, Relaxed);
    flush_loaded(core, vcpu);
}

/// Moves pending interrupts into the list registers of the loaded vCPU.
#[inline]
pub fn flush_loaded(core: &mut Core, vcpu: usize) {
    let lists = core.current().lists();
    if !place(vcpu, |intid, physical| gic::pend(lists, intid, physical)) {
        gic::set_underflow(true);
    }
}

/// Moves pending interrupts, and that of a timer that has fired, into the list
/// registers of the vCPU that was chosen.
#[inline(always)]
pub fn flush_chosen(core: &mut Core, vcpu: usize, chosen: Chosen, now: u64) -> Outcome {
    if chosen.timer.is_some_and(|t| t <= now) {
        return flush_some(core, vcpu, true);
    }
    // Whoever makes an interrupt pending after the scheduler chose this core
    // finds the vCPU running, and kicks; the lock orders the rest.
    if HOT.vcpu(vcpu).pending.load(Relaxed) != 0 {
        return flush_some(core, vcpu, false);
    }
    Outcome::Switch
}

#[inline(never)]
fn flush_some(core: &mut Core, vcpu: usize, fired: bool) -> Outcome {
    let context = core.chosen();
    if fired {
        context.mask_timer();
        reclaim::show(vcpu, Shown::Runnable);
        shared::add(&shared::vcpu(vcpu).timer_irqs, 1);
        stolen::publish(vcpu);
        HOT.vcpu(vcpu).pending.fetch_or(TIMER_BIT, Relaxed);
    }
    let lists = context.lists();
    let pend = |intid, physical| {
        let pended = lists.pend(intid, gic::LINUX_PRIORITY, physical);
        pended.map(|_| ())
    };
    if !place(vcpu, pend) {
        context.set_underflow(true);
    }
    lend::seldom(Outcome::Switch)
}

/// Gives what is pending to `pend`, and says whether it had room for all.
#[inline(always)]
fn place(vcpu: usize, mut pend: impl FnMut(u32, bool) -> Result<(), Full>) -> bool {
    let mut left = take(vcpu);
    while left != 0 {
        let intid = left.trailing_zeros();
        let placed = if left == DEVICES_BIT {
            crash::drain(&mut pend)
        } else {
            pend(intid, false).is_ok()
        };
        if !placed {
            HOT.vcpu(vcpu).pending.fetch_or(left, SeqCst);
            return false;
        }
        left &= left - 1;
    }
    true
}

#[inline]
fn take(vcpu: usize) -> u32 {
    let vcpu = HOT.vcpu(vcpu);
    if vcpu.pending.load(SeqCst) == 0 {
        return 0;
    }
    let enabled = vcpu.enabled.load(SeqCst) | DEVICES_BIT;
    vcpu.pending.fetch_and(!enabled, SeqCst) & enabled
}

/// Whether a vCPU has an interrupt that it would take.
#[inline]
pub fn has_pending(vcpu: usize) -> bool {
    let vcpu = HOT.vcpu(vcpu);
    vcpu.pending.load(SeqCst) & (vcpu.enabled.load(SeqCst) | DEVICES_BIT) != 0
}
