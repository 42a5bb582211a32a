// SPDX-License-Identifier: Apache-2.0 OR MIT
//! PSCI: carries out what `taichi_machine::psci` decides.

use super::hot::HOT;
use super::machine::{Machine, kick_all, machine};
use super::{crash, lend, reclaim, stolen};
use core::sync::atomic::Ordering;
use taichi_abi::telemetry::{CoreState, VcpuState};
use taichi_abi::trace::Event;
use taichi_el2::context::Controls;
use taichi_el2::percore::Core;
use taichi_el2::vcpus::Claim;
use taichi_el2::vectors::Outcome;
use taichi_el2::{boot, fault, gic, shared, smc, timer};
use taichi_machine::psci::{ALREADY_ON, Action, CpuId, DENIED, ON_PENDING, SUCCESS};
use taichi_machine::smccc::Answer;
use taichi_machine::spi::Spi;

/// How often CPU_ON is tried again while the core is still on its way off.
const ATTEMPTS: u32 = 1_000_000;

/// The current context executed SMC (and has been stepped over it).
#[inline(never)]
pub fn call(core: &mut Core) -> Outcome {
    shared::add(&core.counters().calls, 1);
    let m = machine();
    let x = *core.current().arguments();
    let function = x[0] as u32;
    let arguments = [x[1], x[2], x[3]];
    let caller = core.vcpu().map_or(CpuId::Core(core.id()), CpuId::Vcpu);
    core.trace(timer::now(), Event::Psci, core.vcpu(), u64::from(function));
    let action = m.psci.lock().call(caller, function, arguments);
    match action {
        Action::Return(value) => give(core, value),
        Action::StartVcpu {
            index,
            entry,
            context,
        } => {
            let result = start_vcpu(m, core, index, entry, context);
            give(core, result)
        }
        Action::StopVcpu => {
            if let CpuId::Vcpu(vcpu) = caller {
                m.psci.lock().stopped(CpuId::Vcpu(vcpu));
                reclaim::vcpu_off(core, vcpu)
            } else {
                Outcome::Resume
            }
        }
        Action::StartCore {
            index,
            entry,
            context,
        } => {
            let result = start_core(m, index, entry, context);
            give(core, result)
        }
        Action::StopCore => stop_core(m, core),
        Action::Park => crash::park(m, core),
        Action::Suspend => suspend(core),
        Action::Forward => other(m, core, caller, function, x[1] as u32),
        Action::SystemOff => smc::off(),
        Action::SystemReset => smc::reset(),
    }
}

/// Sleeps like WFI, but that the call doesn't happen again. It may end early.
fn suspend(core: &mut Core) -> Outcome {
    core.current().set_x(0, SUCCESS as u64);
    if let Some(vcpu) = core.vcpu() {
        return reclaim::vcpu_sleeps(core, vcpu);
    }
    if lend::has_virtual_interrupt(core) {
        return Outcome::Resume;
    }
    lend::sleep(core)
}

/// A call that isn't PSCI's.
fn other(m: &Machine, core: &mut Core, caller: CpuId, function: u32, argument: u32) -> Outcome {
    match m.smccc.call(function, argument) {
        Answer::Return(value) => give(core, value),
        Answer::StolenTime => give(core, stolen::address(caller) as i64),
        Answer::Forward => {
            smc::forward(core.current(), m.smccc.keeps_registers());
            Outcome::Resume
        }
    }
}

fn give(core: &mut Core, value: i64) -> Outcome {
    core.current().set_x(0, value as u64);
    Outcome::Resume
}

fn start_vcpu(m: &Machine, core: &mut Core, vcpu: usize, entry: u64, context: u64) -> i64 {
    let id = core.id();
    // Its last core may still be saving what it was before it went off.
    let Some(mut claim) = Claim::new(vcpu, id) else {
        m.psci.lock().failed(CpuId::Vcpu(vcpu));
        return DENIED;
    };
    claim
        .context()
        .reset(Controls::VCPU, m.vcpu[vcpu].value(), entry, context);
    drop(claim);
    HOT.vcpu(vcpu).pending.store(0, Ordering::SeqCst);
    m.psci.lock().started(CpuId::Vcpu(vcpu));
    reclaim::show(vcpu, VcpuState::Runnable);
    let mut sched = HOT.sched.lock();
    let Ok(kicks) = sched.vcpu_on(vcpu, id, timer::now()) else {
        fault::die("CPU_ON of a vCPU that the scheduler has as running")
    };
    HOT.publish_ready(&sched);
    let deadline = sched.deadline(id);
    drop(sched);
    lend::rearm(core, deadline);
    kick_all(kicks);
    SUCCESS
}

fn start_core(m: &Machine, target: usize, entry: u64, context: u64) -> i64 {
    let controls = if m.is_cp(target) {
        Controls::CP
    } else {
        Controls::DP
    };
    let mpidr = m.core[target].mpidr.value();
    let mut result = DENIED;
    for _ in 0..ATTEMPTS {
        result = boot::start_core(target, mpidr, entry, context, controls);
        // The last CPU_OFF, which we have already reported, may take a while.
        if result != ALREADY_ON && result != ON_PENDING {
            break;
        }
    }
    if result != SUCCESS {
        m.psci.lock().failed(CpuId::Core(target));
    }
    result
}

fn stop_core(m: &Machine, core: &mut Core) -> Outcome {
    let id = core.id();
    let mut sched = HOT.sched.lock();
    let Ok(kicks) = sched.core_off(id, timer::now()) else {
        fault::die("CPU_OFF of a core that is not native")
    };
    drop(sched);
    timer::set_deadline(u64::MAX);
    kick_all(kicks);
    return_interrupts(m, core);
    let state = &shared::core(id).state;
    state.store(CoreState::Off as u64, Ordering::Relaxed);
    m.psci.lock().stopped(CpuId::Core(id));
    let denied = boot::stop_core(core);
    // Still here: the firmware below refused.
    m.psci.lock().started(CpuId::Core(id));
    let mut sched = HOT.sched.lock();
    if sched.core_on(id).is_err() {
        fault::die("a core that could not go off is not off");
    }
    let deadline = sched.deadline(id);
    drop(sched);
    lend::rearm(core, deadline);
    state.store(CoreState::Native as u64, Ordering::Relaxed);
    give(core, denied)
}

/// Gives device interrupts that wait in a leaving CP core's list registers back
/// to the distributor, which sends them where Linux routed them meanwhile. (An
/// LPI can't be made pending again that way; Linux moves those by the ITS.)
pub fn return_interrupts(m: &Machine, core: &mut Core) {
    if core.is_dp() {
        return;
    }
    let lists = core.current().lists();
    gic::refresh(lists);
    let waiting = lists.lr.map(|lr| if lr >> 62 != 0 { lr as u32 } else { 0 });
    for intid in waiting {
        if let Some(spi) = Spi::new(intid) {
            let (offset, bit) = spi.pending();
            m.distributor.write32(u64::from(offset), bit);
            gic::deactivate(intid);
        }
    }
}
