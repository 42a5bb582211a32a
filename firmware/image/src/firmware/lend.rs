// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cores change hands: native → lent → native, and waiting in between.
//!
//! What guards a lend, whatever the scheduler says: nothing for the native
//! context is in the mailbox, no physical interrupt is pending, and Linux is
//! not inside an interrupt handler whose priority is active in hardware.

use super::machine::{Machine, machine};
use super::native::native_sgi;
use super::vcpu;
use core::sync::atomic::Ordering::Relaxed;
use taichi_abi::doorbell::Reason;
use taichi_abi::telemetry::{CoreState as Shown, VcpuState as ShownVcpu};
use taichi_abi::trace::Event;
use taichi_el2::context;
use taichi_el2::percore::Core;
use taichi_el2::vectors::Outcome;
use taichi_el2::{boot, fault, gic, shared, timer};
use taichi_sched::handover::Mail;
use taichi_sched::state::{CoreState, Illegal};
use taichi_sched::{Scheduler, Tick, Why};

/// `yield_register` while the core is not lent by yield.
pub const NO_REGISTER: u32 = u32::MAX;

/// The native context idles: lend the core, or wait here for an interrupt or a
/// vCPU. WFI is executed again afterwards.
pub fn idle(core: &mut Core) -> Outcome {
    let m = machine();
    if m.is_cp(core.id()) {
        gic::refresh(core.current().lists());
        if !core.current().lists().is_empty() {
            context::skip_instruction();
            return Outcome::Resume;
        }
    }
    if m.vcpus == 0 {
        return wait(m, core);
    }
    match lend(m, core, Why::Idle) {
        Lend::Chosen => Outcome::Switch,
        Lend::Nobody => wait(m, core),
        Lend::Refused(_) => Outcome::Resume,
    }
}

/// The native context loaded from the doorbell into `register` (and has been
/// stepped over that), and some vCPU was ready a moment ago.
#[inline(never)]
pub fn yielded(core: &mut Core, register: u8) -> Outcome {
    let m = machine();
    if core.vcpu().is_some() {
        return core.give(register, Reason::Refused as u64);
    }
    m.core[core.id()]
        .yield_register
        .store(u32::from(register), Relaxed);
    let reason = match lend(m, core, Why::Yield) {
        Lend::Chosen => return Outcome::Switch,
        Lend::Refused(reason) => reason,
        Lend::Nobody => {
            shared::add(&core.counters().yields_empty, 1);
            Reason::Nothing
        }
    };
    m.core[core.id()].yield_register.store(NO_REGISTER, Relaxed);
    core.give(register, reason as u64)
}

enum Lend {
    /// A vCPU is chosen: switch.
    Chosen,
    /// No vCPU wants the core.
    Nobody,
    /// Something for the native context is pending.
    Refused(Reason),
}

/// Lends this core, whose native context is loaded.
#[inline]
fn lend(m: &Machine, core: &mut Core, why: Why) -> Lend {
    let id = core.id();
    let hand = &m.core[id].hand;
    if let Err(mail) = hand.begin_lend() {
        if mail.has(Mail::NATIVE_SGI) {
            native_sgi(m, core);
        }
        if why != Why::Forced {
            return refused(core, mail);
        }
        hand.lend_anyway();
    }
    if why != Why::Forced && (gic::is_pending() || !m.is_cp(id) && gic::is_priority_active()) {
        hand.end_lend();
        shared::add(&core.counters().refusals, 1);
        return Lend::Refused(Reason::Interrupt);
    }
    let now = timer::now();
    let mut sched = m.sched.lock();
    let chosen = legal(sched.lend(id, why, now));
    m.publish_ready(&sched);
    let deadline = sched.deadline(id);
    let waited = chosen.map_or(0, |v| sched.waited(v, now));
    drop(sched);
    let Some(vcpu) = chosen else {
        hand.end_lend();
        return Lend::Nobody;
    };
    arm(deadline, timer::loaded_deadline());
    let counters = core.counters();
    shared::add(&counters.lends, 1);
    if why == Why::Forced {
        shared::add(&counters.forced, 1);
    }
    m.core[id].lent_at.store(now, Relaxed);
    core.trace(now, Event::Lend, Some(vcpu), why as u64);
    choose(m, core, vcpu, now, waited);
    Lend::Chosen
}

fn refused(core: &Core, mail: Mail) -> Lend {
    shared::add(&core.counters().refusals, 1);
    core.trace(timer::now(), Event::Refuse, None, u64::from(mail.0));
    let probe = !mail.has(Mail::NATIVE_SGI);
    Lend::Refused(if probe {
        Reason::Probe
    } else {
        Reason::Interrupt
    })
}

/// Prepares a vCPU that the scheduler gave this core, for the switch.
#[inline]
fn choose(m: &Machine, core: &mut Core, vcpu: usize, now: u64, waited: u64) {
    let id = core.id();
    let _switch = core.choose_vcpu(vcpu);
    if let Some(context) = core.chosen() {
        vcpu::flush_chosen(m, context, vcpu, now);
    }
    core.counters()
        .state
        .store(Shown::Lent as u64 | (vcpu as u64) << 8, Relaxed);
    let counters = shared::vcpu(vcpu);
    shared::add(&counters.runs, 1);
    shared::add(&counters.steal_ticks, waited);
    if waited > counters.longest_wait.load(Relaxed) {
        counters.longest_wait.store(waited, Relaxed);
    }
    if m.vcpu[vcpu].last_core.swap(id as u32, Relaxed) != id as u32 {
        shared::add(&counters.migrations, 1);
    }
    counters
        .state
        .store(ShownVcpu::Running as u64 | (id as u64) << 8, Relaxed);
}

/// The native context takes its core back from a running vCPU.
#[inline]
pub fn reclaim(m: &Machine, core: &mut Core, reason: Reason, now: u64) -> Outcome {
    let id = core.id();
    let mut sched = m.sched.lock();
    let kicks = legal(sched.reclaim(id, now));
    m.publish_ready(&sched);
    let deadline = sched.deadline(id);
    drop(sched);
    if let Some(vcpu) = core.vcpu() {
        shared::vcpu(vcpu)
            .state
            .store(ShownVcpu::Ready as u64, Relaxed);
    }
    let outcome = back_to_native(m, core, reason, now, deadline);
    m.kick_all(kicks);
    outcome
}

/// The rest of every way back to the native context.
#[inline]
fn back_to_native(
    m: &Machine,
    core: &mut Core,
    reason: Reason,
    now: u64,
    deadline: u64,
) -> Outcome {
    let id = core.id();
    let this = &m.core[id];
    this.hand.end_lend();
    timer::set_deadline(deadline);
    let counters = core.counters();
    counters.state.store(Shown::Native as u64, Relaxed);
    let lent = now.wrapping_sub(this.lent_at.load(Relaxed));
    shared::add(&counters.lent_ticks, lent);
    if let Some(vcpu) = core.vcpu() {
        shared::add(&shared::vcpu(vcpu).run_ticks, lent);
    }
    let counter = match reason {
        Reason::Probe => &counters.reclaims_probe,
        Reason::Interrupt => &counters.reclaims_interrupt,
        Reason::Slice | Reason::Nothing | Reason::Refused => &counters.reclaims_slice,
    };
    shared::add(counter, 1);
    core.trace(now, Event::Reclaim, core.vcpu(), reason as u64);
    let register = this.yield_register.load(Relaxed);
    if register != NO_REGISTER {
        core.native().set_x(register as u8, reason as u64);
        this.yield_register.store(NO_REGISTER, Relaxed);
    }
    core.choose_native()
}

/// The mailbox of a lent core asked for it, for an SGI or a probe.
pub fn give_back(m: &Machine, core: &mut Core, mail: Mail) -> Outcome {
    if mail.has(Mail::NATIVE_SGI) {
        native_sgi(m, core);
    }
    if mail.has(Mail::RECLAIM) {
        return reclaim(m, core, Reason::Probe, timer::now());
    }
    interrupt_while_lent(m, core)
}

/// An interrupt for the native context of a lent core is pending there: give
/// the core back, unless it was taken by force from code that couldn't take
/// the interrupt anyway.
pub fn interrupt_while_lent(m: &Machine, core: &mut Core) -> Outcome {
    let forced = matches!(
        m.sched.lock().core(core.id()),
        CoreState::Lent {
            why: Why::Forced,
            ..
        }
    );
    if forced && !core.native().interrupts_enabled() {
        return Outcome::Resume;
    }
    reclaim(m, core, Reason::Interrupt, timer::now())
}

/// The hypervisor timer fired, or the scheduler has something for this core.
pub fn tick(m: &Machine, core: &mut Core) -> Outcome {
    let id = core.id();
    let now = timer::now();
    let lent = core.vcpu().is_some();
    let native_timer = if lent { core.native().timer() } else { None };
    if native_timer.is_some_and(|t| t <= now) && !forced_and_masked(m, core) {
        return reclaim(m, core, Reason::Interrupt, now);
    }
    let mut sched = m.sched.lock();
    let (tick, kicks) = legal(sched.tick(id, now));
    m.publish_ready(&sched);
    let deadline = sched.deadline(id);
    drop(sched);
    m.kick_all(kicks);
    match tick {
        Tick::Continue => {
            arm(deadline, native_timer.filter(|&t| t > now));
            Outcome::Resume
        }
        Tick::Rotate(next) => {
            arm(deadline, native_timer.filter(|&t| t > now));
            rotate(m, core, next, now)
        }
        Tick::Return => reclaim(m, core, Reason::Slice, now),
        Tick::Lend(why) => {
            arm(deadline, None);
            match lend(m, core, why) {
                Lend::Chosen => Outcome::Switch,
                Lend::Nobody => Outcome::Resume,
                Lend::Refused(_) => {
                    let waiting = m.sched.lock().core(id) == CoreState::Waiting;
                    if waiting {
                        wake(m, core);
                    }
                    Outcome::Resume
                }
            }
        }
    }
}

fn forced_and_masked(m: &Machine, core: &mut Core) -> bool {
    let forced = |state| {
        matches!(
            state,
            CoreState::Lent {
                why: Why::Forced,
                ..
            }
        )
    };
    // Cheap and nearly always enough; the state needs the lock.
    !core.native().interrupts_enabled() && forced(m.sched.lock().core(core.id()))
}

/// Sets this core's hypervisor timer anew, as every call of the scheduler asks
/// for; the native context's own timer counts while it is not loaded.
#[inline]
pub fn rearm(core: &mut Core, deadline: u64) {
    let native_timer = if core.vcpu().is_some() {
        core.native().timer()
    } else {
        None
    };
    arm(deadline, native_timer);
}

/// Sets the hypervisor timer: for vCPUs, and for the native context while the
/// core is lent.
fn arm(deadline: u64, native_timer: Option<u64>) {
    timer::set_deadline(deadline.min(native_timer.unwrap_or(u64::MAX)));
}

/// Another vCPU on a lent core.
fn rotate(m: &Machine, core: &mut Core, next: usize, now: u64) -> Outcome {
    account_vcpu(m, core, now, ShownVcpu::Ready);
    core.trace(now, Event::Rotate, Some(next), 0);
    choose(m, core, next, now, 0);
    Outcome::Switch
}

/// Closes the account of the vCPU that leaves a core which stays lent.
fn account_vcpu(m: &Machine, core: &mut Core, now: u64, state: ShownVcpu) {
    let lent = now.wrapping_sub(m.core[core.id()].lent_at.swap(now, Relaxed));
    shared::add(&core.counters().lent_ticks, lent);
    if let Some(vcpu) = core.vcpu() {
        shared::add(&shared::vcpu(vcpu).run_ticks, lent);
        shared::vcpu(vcpu).state.store(state as u64, Relaxed);
    }
}

/// The loaded vCPU executed WFI.
pub fn vcpu_idle(core: &mut Core, vcpu: usize) -> Outcome {
    let m = machine();
    let id = core.id();
    context::skip_instruction();
    let now = timer::now();
    let deadline = timer::loaded_deadline().unwrap_or(u64::MAX);
    gic::refresh(core.current().lists());
    if deadline <= now || !core.current().lists().is_empty() {
        return Outcome::Resume;
    }
    let mut sched = m.sched.lock();
    if vcpu::has_pending(m, vcpu) {
        drop(sched);
        vcpu::flush_loaded(m, core, vcpu);
        return Outcome::Resume;
    }
    let (next, kicks) = legal(sched.vcpu_idle(id, deadline, now));
    let outcome = leave_vcpu(m, core, &mut sched, next, now, ShownVcpu::Idle);
    drop(sched);
    core.trace(now, Event::Idle, Some(vcpu), 0);
    m.kick_all(kicks);
    outcome.finish(m, core, now)
}

/// The loaded vCPU switched itself off.
pub fn vcpu_off(core: &mut Core) -> Outcome {
    let m = machine();
    let now = timer::now();
    let mut sched = m.sched.lock();
    let next = legal(sched.vcpu_off(core.id(), now));
    let outcome = leave_vcpu(m, core, &mut sched, next, now, ShownVcpu::Off);
    drop(sched);
    outcome.finish(m, core, now)
}

/// Where a core goes when its vCPU gave it up.
struct Leave {
    next: Option<usize>,
    deadline: u64,
}

fn leave_vcpu(
    m: &Machine,
    core: &mut Core,
    sched: &mut Scheduler,
    next: Option<usize>,
    now: u64,
    state: ShownVcpu,
) -> Leave {
    m.publish_ready(sched);
    if let Some(vcpu) = core.vcpu() {
        shared::vcpu(vcpu).state.store(state as u64, Relaxed);
    }
    if next.is_some() {
        account_vcpu(m, core, now, state);
    }
    Leave {
        next,
        deadline: sched.deadline(core.id()),
    }
}

impl Leave {
    fn finish(self, m: &Machine, core: &mut Core, now: u64) -> Outcome {
        match self.next {
            Some(next) => {
                arm(self.deadline, core.native().timer());
                choose(m, core, next, now, 0);
                Outcome::Switch
            }
            None => back_to_native(m, core, Reason::Nothing, now, self.deadline),
        }
    }
}

/// The native context is loaded and idles, and no vCPU wants the core.
fn wait(m: &Machine, core: &mut Core) -> Outcome {
    let id = core.id();
    let mut sched = m.sched.lock();
    let kicks = legal(sched.wait(id));
    drop(sched);
    m.kick_all(kicks);
    let counters = core.counters();
    counters.state.store(Shown::Waiting as u64, Relaxed);
    let since = timer::now();
    // Physical interrupts must wake EL2, on DP cores too.
    let _routed = context::route_interrupts_here();
    let outcome = loop {
        if !gic::is_pending() {
            if m.spin {
                core::hint::spin_loop();
            } else {
                boot::wait_for_interrupt();
            }
            continue;
        }
        match gic::highest_pending() {
            gic::KICK | gic::HYP_TIMER => {
                // Which of the two it was may have changed since.
                let intid = gic::acknowledge();
                if intid == gic::HYP_TIMER {
                    timer::set_deadline(u64::MAX);
                }
                m.end_own(id, intid);
                let mail = m.core[id].hand.take();
                if mail.has(Mail::NATIVE_SGI) {
                    wake(m, core);
                    native_sgi(m, core);
                    break Outcome::Resume;
                }
                let look = intid == gic::HYP_TIMER || mail.has(Mail::LOOK);
                if look && tick(m, core) == Outcome::Switch {
                    break Outcome::Switch;
                }
            }
            _ => {
                wake(m, core);
                break Outcome::Resume;
            }
        }
        // A lend that was refused has woken the core already.
        if m.sched.lock().core(id) != CoreState::Waiting {
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
fn wake(m: &Machine, core: &mut Core) {
    let mut sched = m.sched.lock();
    let kicks = legal(sched.wake(core.id()));
    let deadline = sched.deadline(core.id());
    drop(sched);
    rearm(core, deadline);
    m.kick_all(kicks);
}

/// A step that the state machines refuse means that EL2's view of itself is
/// wrong; going on could lose a CPU.
#[inline]
fn legal<T>(step: Result<T, Illegal>) -> T {
    match step {
        Ok(value) => value,
        Err(Illegal) => fault::die("a step that the core's or vCPU's state doesn't allow"),
    }
}
