// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A vCPU leaves its core: the native context takes it back, another vCPU
//! follows, or the vCPU has nothing more to do.

use super::hot::HOT;
use super::lend::{choose, illegal, legal, lend_for, rearm, seldom};
use super::machine::{finish, kick_all};
use super::stray::stray;
use super::{native, stolen, vcpu, watch};
use core::sync::atomic::Ordering::Relaxed;
use spin::mutex::SpinMutexGuard;
use taichi_abi::doorbell::Reason;
use taichi_abi::telemetry::{CoreState as Shown, VcpuState as ShownVcpu};
use taichi_abi::trace::{self, Event};
use taichi_el2::context;
use taichi_el2::percore::Core;
use taichi_el2::vectors::Outcome;
use taichi_el2::{gic, shared, timer};
use taichi_sched::handover::Mail;
use taichi_sched::{Scheduler, Tick, Why};

/// The native context takes back a core that it gave away itself.
#[inline(always)]
fn reclaim(core: &mut Core, reason: Reason, now: u64) -> Outcome {
    if is_inside() {
        return take_back(core, reason, now);
    }
    let id = core.id();
    let mut sched = HOT.sched.lock();
    let Ok((vcpu, kicks)) = sched.reclaim_outside(id, now) else {
        drop(sched);
        return illegal();
    };
    HOT.publish_ready(&sched);
    let deadline = sched.deadline(id);
    drop(sched);
    back_to_native(core, vcpu, reason, now, deadline);
    finish(kicks, Outcome::Switch)
}

/// The native context takes its core back from a vCPU that is inside a section,
/// or had taken it by force.
#[inline(never)]
fn take_back(core: &mut Core, reason: Reason, now: u64) -> Outcome {
    count_if_taken(core, now);
    let id = core.id();
    let mut sched = HOT.sched.lock();
    let (vcpu, kicks) = legal(sched.reclaim(id, now, is_inside()));
    HOT.publish_ready(&sched);
    let deadline = sched.deadline(id);
    drop(sched);
    back_to_native(core, vcpu, reason, now, deadline);
    seldom(finish(kicks, Outcome::Switch))
}

/// Whether the loaded context is inside a section, where others may wait for
/// it. All of the kernel may hold a lock, or stand in the queue for one.
#[inline(always)]
fn is_inside() -> bool {
    !context::was_el0()
}

/// The stay that ends now was stolen from the native context if the core was
/// taken by force.
fn count_if_taken(core: &Core, now: u64) {
    if core.lend.why == Why::Forced {
        stolen::taken(core, now.wrapping_sub(core.lend.since));
    }
}

/// A DP core's own interrupt takes it back; it is never taken by force.
#[inline(never)]
pub fn reclaim_for_interrupt(core: &mut Core) -> Outcome {
    reclaim(core, Reason::Interrupt, timer::now())
}

/// The rest of every way back to the native context from `vcpu`.
#[inline(always)]
fn back_to_native(core: &mut Core, vcpu: usize, reason: Reason, now: u64, deadline: u64) {
    HOT.hand(core.id()).end_lend();
    timer::set_deadline_now(deadline);
    end_stay(core, vcpu, Event::Reclaim, reason, now);
    let counters = core.counters();
    counters.state.store(Shown::Native as u64, Relaxed);
    shared::add(&counters.reclaims[reason as usize % 8], 1);
    let register = core.lend.register;
    core.native().set_x(register, reason as u64);
}

/// Closes the account of a vCPU that leaves this core.
#[inline(always)]
fn end_stay(core: &mut Core, vcpu: usize, event: Event, reason: Reason, now: u64) {
    let stay = now.wrapping_sub(core.lend.since);
    shared::add(&core.counters().lent_ticks, stay);
    shared::add(&shared::vcpu(vcpu).run_ticks, stay);
    let argument = trace::stay(core.lend.why as u8, reason as u8, stay);
    core.trace(now, event, Some(vcpu), argument);
}

/// The mailbox of a lent core asked for it, for an SGI or a probe.
pub fn give_back(core: &mut Core, mail: Mail) -> Outcome {
    native::wanted(core, mail);
    if mail.has(Mail::RECLAIM) {
        return take_back(core, Reason::Probe, timer::now());
    }
    if mail.has(Mail::KEEP) {
        return take_back(core, Reason::Refused, timer::now());
    }
    interrupt_while_lent(core)
}

/// An interrupt for the native context of a lent core is pending there: give
/// the core back, unless it was taken by force from code that couldn't take
/// the interrupt anyway.
pub fn interrupt_while_lent(core: &mut Core) -> Outcome {
    if core.lend.why == Why::Forced && !core.native().interrupts_enabled() {
        return Outcome::Resume;
    }
    give_way(core, timer::now())
}

/// The native context has something to do. A CP core's waits for a moment if the
/// vCPU is inside a section: others may be waiting for that.
#[inline(never)]
fn give_way(core: &mut Core, now: u64) -> Outcome {
    if !core.is_dp() && is_inside() {
        let id = core.id();
        let mut sched = HOT.sched.lock();
        let may_stay = sched.want_back(id, now);
        let deadline = sched.deadline(id);
        drop(sched);
        if may_stay {
            // Its timer has said what it had to say.
            if core.lend.native_timer <= now {
                core.lend.native_timer = u64::MAX;
            }
            rearm(core, deadline);
            return Outcome::Resume;
        }
    }
    take_back(core, Reason::Interrupt, now)
}

/// The hypervisor timer fired, or the scheduler has something for this core.
#[inline]
pub fn tick(core: &mut Core) -> Outcome {
    let now = timer::now();
    if !core.is_lent() {
        return ask_scheduler(core, now, u64::MAX);
    }
    let native_timer = core.lend.native_timer;
    if native_timer > now {
        return ask_scheduler(core, now, native_timer);
    }
    if core.lend.why == Why::Forced {
        return native_timer_while_taken(core, now);
    }
    if is_inside() {
        return give_way(core, now);
    }
    reclaim(core, Reason::Interrupt, now)
}

/// The native context's timer fired on a core that was taken by force.
#[inline(never)]
fn native_timer_while_taken(core: &mut Core, now: u64) -> Outcome {
    if core.native().interrupts_enabled() {
        give_way(core, now)
    } else {
        ask_scheduler(core, now, u64::MAX)
    }
}

#[inline(never)]
fn ask_scheduler(core: &mut Core, now: u64, native_timer: u64) -> Outcome {
    let id = core.id();
    let mut sched = HOT.sched.lock();
    let watch = sched.watch(id, now).then(|| sched.kickable());
    let (tick, kicks) = legal(sched.tick(id, now, is_inside()));
    HOT.publish_ready(&sched);
    let deadline = sched.deadline(id);
    let waited = match tick {
        Tick::Rotate { to, .. } => sched.waited(to, now),
        _ => 0,
    };
    drop(sched);
    // A core that waits looks at its interrupts next.
    timer::set_deadline_now(deadline.min(native_timer));
    kick_all(kicks);
    if let Some(kickable) = watch {
        watch::look(core, kickable);
    }
    match tick {
        Tick::Continue if gic::highest_pending() == gic::HYP_TIMER => stray(core, gic::HYP_TIMER),
        Tick::Continue => Outcome::Resume,
        Tick::Rotate { from, to } => {
            count_if_taken(core, now);
            end_stay(core, from, Event::Rotate, Reason::Slice, now);
            shared::add(&core.counters().rotations, 1);
            follow(core, to, now, waited)
        }
        Tick::Return => take_back(core, Reason::Slice, now),
        Tick::Lend(why) => lend_for(core, why),
    }
}

/// Another vCPU, which was ready for `waited` ticks, on a core that stays lent.
fn follow(core: &mut Core, next: usize, now: u64, waited: u64) -> Outcome {
    core.lend.since = now;
    choose(core, next, now, waited)
}

/// The loaded vCPU executed WFI.
#[inline(never)]
pub fn vcpu_idle(core: &mut Core, vcpu: usize) -> Outcome {
    context::skip_instruction();
    vcpu_sleeps(core, vcpu)
}

/// The loaded vCPU waits for an interrupt.
#[inline(always)]
pub fn vcpu_sleeps(core: &mut Core, vcpu: usize) -> Outcome {
    let now = timer::now();
    let wakes = timer::loaded_deadline().unwrap_or(u64::MAX);
    gic::refresh(core.current().lists());
    if wakes <= now || !core.current().lists().is_empty() {
        return Outcome::Resume;
    }
    let mut sched = HOT.sched.lock();
    if vcpu::has_pending(vcpu) {
        drop(sched);
        vcpu::flush_loaded(core, vcpu);
        return Outcome::Resume;
    }
    let (next, kicks) = legal(sched.vcpu_idle(core.id(), wakes, now));
    show(vcpu, ShownVcpu::Idle);
    let outcome = leave(core, sched, vcpu, next, now);
    finish(kicks, outcome)
}

/// The loaded vCPU switched itself off.
#[inline(never)]
pub fn vcpu_off(core: &mut Core, vcpu: usize) -> Outcome {
    let now = timer::now();
    let mut sched = HOT.sched.lock();
    let next = legal(sched.vcpu_off(core.id(), now));
    show(vcpu, ShownVcpu::Off);
    leave(core, sched, vcpu, next, now)
}

/// Where a core goes when its `vcpu` gave it up.
fn leave(
    core: &mut Core,
    sched: SpinMutexGuard<Scheduler>,
    vcpu: usize,
    next: Option<usize>,
    now: u64,
) -> Outcome {
    HOT.publish_ready(&sched);
    let deadline = sched.deadline(core.id());
    let waited = next.map_or(0, |next| sched.waited(next, now));
    drop(sched);
    let Some(next) = next else {
        count_if_taken(core, now);
        back_to_native(core, vcpu, Reason::Nothing, now, deadline);
        return Outcome::Switch;
    };
    rearm(core, deadline);
    end_stay(core, vcpu, Event::Idle, Reason::Nothing, now);
    follow(core, next, now, waited)
}

/// Says in telemetry what a vCPU does. Call with the scheduler locked.
pub fn show(vcpu: usize, state: ShownVcpu) {
    shared::vcpu(vcpu).state.store(state as u64, Relaxed);
}
