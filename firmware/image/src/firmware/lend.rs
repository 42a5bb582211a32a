// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A native context gives its core away, or waits until it can.
//!
//! What guards a lend, whatever the scheduler says: nothing for the native
//! context is in the mailbox, no physical interrupt is pending, and Linux is
//! not inside an interrupt handler whose priority is active in hardware.

use super::hot::HOT;
use super::machine::{kick_all, machine};
use super::native::{self, native_sgi};
use super::park;
use super::reclaim::tick;
use super::vcpu;
use core::sync::atomic::Ordering::Relaxed;
use taichi_abi::doorbell::Reason;
use taichi_abi::telemetry::CoreState as Shown;
use taichi_abi::trace::Event;
use taichi_el2::context;
use taichi_el2::percore::{Core, Lend};
use taichi_el2::vectors::Outcome;
use taichi_el2::{boot, fault, gic, shared, timer};
use taichi_sched::Why;
use taichi_sched::handover::Mail;
use taichi_sched::state::{CoreState, Illegal};

/// XZR: no register of the native context waits for a reason.
const NO_REGISTER: u8 = 31;

/// The native context executed WFI, which is executed again afterwards.
#[inline(never)]
pub fn idle(core: &mut Core) -> Outcome {
    if has_virtual_interrupt(core) {
        context::skip_instruction();
        return Outcome::Resume;
    }
    sleep(core)
}

/// Whether the loaded native context of a CP core has interrupts in list
/// registers.
pub fn has_virtual_interrupt(core: &mut Core) -> bool {
    if core.is_dp() {
        return false;
    }
    gic::refresh(core.current().lists());
    !core.current().lists().is_empty()
}

/// The native context waits for an interrupt: lend the core, or wait here for
/// one or for a vCPU.
#[inline(always)]
pub fn sleep(core: &mut Core) -> Outcome {
    if HOT.ready.load(Relaxed) == 0 {
        return wait(core);
    }
    lend(core, Why::Idle, NO_REGISTER)
}

/// The native context loaded from the doorbell into `register` (and has been
/// stepped over that).
#[inline(never)]
pub fn yielded(core: &mut Core, register: u8) -> Outcome {
    if HOT.ready.load(Relaxed) == 0 {
        return nothing_to_run(core, register);
    }
    if core.is_lent() {
        return core.give(register, Reason::Refused as u64);
    }
    lend(core, Why::Yield, register)
}

#[inline]
fn nothing_to_run(core: &mut Core, register: u8) -> Outcome {
    core.end_step();
    shared::add(&core.counters().yields_empty, 1);
    core.give(register, Reason::Nothing as u64)
}

/// A vCPU starves, or a waiting core may run one: the scheduler chose this core.
pub fn lend_for(core: &mut Core, why: Why) -> Outcome {
    let outcome = lend(core, why, NO_REGISTER);
    if why == Why::Forced && outcome == Outcome::Switch {
        shared::add(&core.counters().forced, 1);
    }
    outcome
}

/// Lends this core, whose native context is loaded. `register` gets the reason
/// why it came back. What happens seldom is a call at the end, which needs no
/// stack frame.
#[inline(always)]
fn lend(core: &mut Core, why: Why, register: u8) -> Outcome {
    let id = core.id();
    if let Err(mail) = HOT.hand(id).begin_lend() {
        return wanted_by_native(core, why, register, mail);
    }
    if why != Why::Forced && (gic::is_pending() || gic::is_priority_active()) {
        return interrupted(core, why, register);
    }
    lend_now(core, id, why, register)
}

/// The core is published as lent, and nothing speaks against it.
#[inline(always)]
fn lend_now(core: &mut Core, id: usize, why: Why, register: u8) -> Outcome {
    let now = timer::now();
    let mut sched = HOT.sched.lock();
    let vcpu = match sched.lend(id, why, now) {
        Ok(Some(vcpu)) => vcpu,
        Ok(None) => {
            drop(sched);
            return nobody(core, why, register);
        }
        Err(Illegal) => {
            drop(sched);
            return illegal();
        }
    };
    HOT.publish_ready(&sched);
    let deadline = sched.deadline(id);
    let waited = sched.waited(vcpu, now);
    drop(sched);
    let native_timer = timer::loaded_deadline().unwrap_or(u64::MAX);
    timer::set_deadline(deadline.min(native_timer));
    core.lend = Lend {
        since: now,
        native_timer,
        why,
        register,
    };
    choose(core, vcpu, now, waited)
}

/// The mailbox holds something for the native context.
#[cold]
#[inline(never)]
fn wanted_by_native(core: &mut Core, why: Why, register: u8, mail: Mail) -> Outcome {
    native::wanted(core, mail);
    if why == Why::Forced {
        let id = core.id();
        HOT.hand(id).lend_anyway();
        return lend_now(core, id, why, register);
    }
    core.trace(timer::now(), Event::Refuse, None, u64::from(mail.0));
    let reason = match mail {
        mail if mail.has(Mail::NATIVE_SGI) => Reason::Interrupt,
        mail if mail.has(Mail::RECLAIM) => Reason::Probe,
        _ if why == Why::Idle => return stay(core),
        _ => Reason::Refused,
    };
    refuse(core, why, register, reason)
}

/// The native context idles, and keeps its core.
fn stay(core: &mut Core) -> Outcome {
    let waiting = HOT.sched.lock().core(core.id()) == CoreState::Waiting;
    if waiting {
        return Outcome::Resume;
    }
    wait(core)
}

/// An interrupt for the native context is pending, or being handled.
#[cold]
#[inline(never)]
fn interrupted(core: &mut Core, why: Why, register: u8) -> Outcome {
    HOT.hand(core.id()).end_lend();
    refuse(core, why, register, Reason::Interrupt)
}

#[cold]
#[inline(never)]
fn refuse(core: &mut Core, why: Why, register: u8, reason: Reason) -> Outcome {
    shared::add(&core.counters().refusals, 1);
    if why == Why::Yield {
        core.end_step();
        return core.give(register, reason as u64);
    }
    let waiting = HOT.sched.lock().core(core.id()) == CoreState::Waiting;
    if waiting {
        wake(core);
    }
    Outcome::Resume
}

/// No vCPU wants the core, after all.
#[cold]
#[inline(never)]
fn nobody(core: &mut Core, why: Why, register: u8) -> Outcome {
    HOT.hand(core.id()).end_lend();
    match why {
        Why::Yield => nothing_to_run(core, register),
        Why::Idle | Why::Forced => Outcome::Resume,
    }
}

/// Prepares a vCPU that the scheduler gave this core, for the switch. It was
/// ready for `waited` ticks.
#[inline(always)]
pub fn choose(core: &mut Core, vcpu: usize, now: u64, waited: u64) -> Outcome {
    let counters = shared::vcpu(vcpu);
    shared::add(&counters.steal_ticks, waited);
    if waited > counters.longest_wait.load(Relaxed) {
        counters.longest_wait.store(waited, Relaxed);
    }
    let state = Shown::Lent as u64 | (vcpu as u64) << 8;
    core.counters().state.store(state, Relaxed);
    match core.try_choose(vcpu) {
        Some(chosen) => vcpu::flush_chosen(core, vcpu, chosen, now),
        None => choose_patiently(core, vcpu, now),
    }
}

/// The vCPU's last core is still saving it.
#[cold]
#[inline(never)]
fn choose_patiently(core: &mut Core, vcpu: usize, now: u64) -> Outcome {
    let chosen = core.choose(vcpu);
    seldom(vcpu::flush_chosen(core, vcpu, chosen, now))
}

/// Sets this core's hypervisor timer anew, as every call of the scheduler asks
/// for; the native context's own timer counts while it is not loaded.
#[inline]
pub fn rearm(core: &mut Core, deadline: u64) {
    let native_timer = if core.is_lent() {
        core.lend.native_timer
    } else {
        u64::MAX
    };
    timer::set_deadline(deadline.min(native_timer));
}

/// The native context is loaded and idles, and no vCPU wants the core.
#[inline(never)]
fn wait(core: &mut Core) -> Outcome {
    let id = core.id();
    let spin = machine().spin;
    // Its SGI 0 may have come before the level, or not at all.
    if HOT.hand(id).peek().has(Mail::NATIVE_SGI) {
        HOT.hand(id).take_only(Mail::NATIVE_SGI);
        native_sgi(core);
        return Outcome::Resume;
    }
    let mut sched = HOT.sched.lock();
    let kicks = legal(sched.wait(id));
    drop(sched);
    kick_all(kicks);
    let counters = core.counters();
    counters.state.store(Shown::Waiting as u64, Relaxed);
    let since = timer::now();
    // Physical interrupts must wake EL2, on DP cores too.
    let _routed = context::route_interrupts_here();
    let outcome = loop {
        if !gic::is_pending() {
            if spin {
                core::hint::spin_loop();
            } else {
                boot::wait_for_interrupt();
            }
            continue;
        }
        let (look, sgi) = match gic::highest_pending() {
            gic::HYP_TIMER => (true, false),
            gic::KICK => {
                // Which of EL2's own it was may have changed since.
                let intid = gic::acknowledge();
                gic::end_own(intid, core.is_dp());
                let mail = HOT.hand(id).take();
                if mail.has(Mail::KEEP) {
                    park::taken(id);
                }
                let look = intid == gic::HYP_TIMER || mail.has(Mail::LOOK);
                (look, mail.has(Mail::NATIVE_SGI))
            }
            _ => {
                wake(core);
                break Outcome::Resume;
            }
        };
        if sgi {
            wake(core);
            native_sgi(core);
            break Outcome::Resume;
        }
        if look && tick(core) == Outcome::Switch {
            break Outcome::Switch;
        }
        // A lend that was refused has woken the core already.
        if HOT.sched.lock().core(id) != CoreState::Waiting {
            break Outcome::Resume;
        }
    };
    shared::add(&counters.waiting_ticks, timer::now().wrapping_sub(since));
    if outcome == Outcome::Resume {
        counters.state.store(Shown::Native as u64, Relaxed);
    }
    outcome
}

/// A waiting core turns to its native context.
fn wake(core: &mut Core) {
    let mut sched = HOT.sched.lock();
    let kicks = legal(sched.wake(core.id()));
    let deadline = sched.deadline(core.id());
    drop(sched);
    rearm(core, deadline);
    kick_all(kicks);
}

/// A step that the state machines refuse means that EL2's view of itself is
/// wrong; going on could lose a CPU.
#[inline]
pub fn legal<T>(step: Result<T, Illegal>) -> T {
    match step {
        Ok(value) => value,
        Err(Illegal) => fault::die(ILLEGAL),
    }
}

/// The same as the last thing that a handler does.
#[cold]
#[inline(never)]
pub fn illegal() -> Outcome {
    if core::hint::black_box(true) {
        fault::die(ILLEGAL);
    }
    seldom(Outcome::Resume)
}

/// The answer of a function that handlers call seldom and last. Were it known
/// to the compiler, the call would not be the last thing any more, and cost
/// everybody a stack frame.
#[inline(always)]
pub fn seldom(outcome: Outcome) -> Outcome {
    core::hint::black_box(outcome)
}

const ILLEGAL: &str = "a step that the core's or vCPU's state doesn't allow";
