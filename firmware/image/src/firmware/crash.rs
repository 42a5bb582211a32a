// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Linux has crashed, and its boot core, where device interrupts for vCPUs
//! arrive, switches itself off: only a crash does that (`taichi_machine::psci`).
//! A crash kernel may be running on a vCPU and need its devices. So the core
//! stays, lends itself for good, and passes device interrupts on.

use super::machine::{Machine, machine};
use super::{lend, power, vcpu};
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use spin::mutex::SpinMutex;
use taichi_el2::percore::Core;
use taichi_el2::vectors::Outcome;
use taichi_el2::{context, fault, gic};
use taichi_machine::devices::Devices;
use taichi_machine::list_registers::Full;
use taichi_machine::psci::{CpuId, CpuState};

/// See the module.
pub struct Crash {
    /// The boot core runs no Linux any more.
    parked: AtomicBool,
    /// Its device interrupts, and the vCPU that last routed one: it runs the
    /// crash kernel.
    devices: SpinMutex<(Devices, Option<usize>)>,
}

impl Crash {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            parked: AtomicBool::new(false),
            devices: SpinMutex::new((Devices::new(), None)),
        }
    }
}

/// The boot core called CPU_OFF.
pub fn park(m: &Machine, core: &mut Core) -> Outcome {
    context::stop_executing();
    power::return_interrupts(m, core);
    gic::discard(core.current().lists());
    m.crash.parked.store(true, Relaxed);
    lend::sleep(core)
}

/// Whether the context that is loaded executes nothing: it sleeps again
/// ([`lend::sleep`]) as often as it is entered and faults.
pub fn is_parked(core: &Core) -> bool {
    !core.is_lent() && inherits(core)
}

/// A vCPU routes a device interrupt.
pub fn routed_by(m: &Machine, vcpu: usize) {
    m.crash.devices.lock().1 = Some(vcpu);
}

/// A device interrupt was acknowledged at the boot core.
#[cold]
pub fn device(core: &mut Core, intid: u32) {
    let m = machine();
    let mut devices = m.crash.devices.lock();
    if devices.0.push(intid) == Err(Full) {
        fault::die("too many device interrupts wait for the crash kernel");
    }
    let heir = devices.1;
    drop(devices);
    let on = |vcpu: &usize| m.psci.lock().state(CpuId::Vcpu(*vcpu)) == CpuState::On;
    let heir = heir.filter(on).or_else(|| (0..m.vcpus).find(on));
    // Without a vCPU the crash kernel routed it to a core that it has.
    if let Some(heir) = heir {
        vcpu::pend_devices(core, heir);
    }
}

/// Gives list registers to device interrupts; says whether all have one.
#[cold]
pub fn drain(mut pend: impl FnMut(u32, bool) -> Result<(), Full>) -> bool {
    // The end of one that is not an LPI deactivates it, on whichever core.
    let pend = |intid| pend(intid, intid < gic::FIRST_LPI);
    machine().crash.devices.lock().0.drain(pend)
}

/// Whether this core's device interrupts are for the crash kernel's vCPU.
pub fn inherits(core: &Core) -> bool {
    let m = machine();
    m.crash.parked.load(Relaxed) && core.id() == m.boot_core
}
