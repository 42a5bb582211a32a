// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The state that all cores share.
//!
//! Locks: `psci` before `sched`; `frames` alone. None is held across a world
//! switch, nor while another core is waited for.

use core::sync::atomic::{AtomicU32, AtomicU64};
use spin::Once;
use spin::mutex::SpinMutex;
use taichi_abi::{MAX_CORES, MAX_VCPUS};
use taichi_el2::gic;
use taichi_el2::mmio::Frame;
use taichi_machine::affinity::{CoreSet, Mpidr};
use taichi_machine::irouter::Router;
use taichi_machine::psci::Psci;
use taichi_machine::redist::VirtualRedistributor;
use taichi_sched::handover::{Handover, Mail};
use taichi_sched::{Kicks, Scheduler};

/// See the module.
pub struct Machine {
    /// Real cores.
    pub cores: usize,
    /// vCPUs.
    pub vcpus: usize,
    /// The core that never goes offline while there are vCPUs.
    pub boot_core: usize,
    /// DP cores.
    pub dp: CoreSet,
    /// Waiting cores spin.
    pub spin: bool,
    /// By core.
    pub core: [CoreShared; MAX_CORES],
    /// By vCPU.
    pub vcpu: [VcpuShared; MAX_VCPUS],
    /// Affinity fields above Aff0 of the vCPUs' SGI cluster, as they stand in
    /// ICC_SGI1R_EL1, when all share one; else `u64::MAX`.
    pub vcpu_cluster: u64,
    /// Policy.
    pub sched: SpinMutex<Scheduler>,
    /// CPUs that come and go.
    pub psci: SpinMutex<Psci>,
    /// Emulated frames.
    pub frames: SpinMutex<Frames>,
    /// Where pages are.
    pub pages: Pages,
    /// The distributor.
    pub distributor: Frame,
}

/// What the shortest paths need of the machine, each in a place of its own, so
/// that reading one is two instructions.
pub struct Hot {
    /// The doorbell, as HPFAR_EL2 shows a fault there.
    pub doorbell_hpfar: AtomicU64,
    /// Affinity fields above Aff0 of the cores' SGI cluster, as they stand in
    /// ICC_SGI1R_EL1, when all cores share one; else `u64::MAX`.
    pub core_cluster: AtomicU64,
    /// vCPUs that are ready: what [`Scheduler::ready`] last said.
    pub ready: AtomicU32,
}

/// See [`Hot`].
pub static HOT: Hot = Hot {
    doorbell_hpfar: AtomicU64::new(u64::MAX),
    core_cluster: AtomicU64::new(u64::MAX),
    ready: AtomicU32::new(0),
};

/// What others may touch of a core.
pub struct CoreShared {
    /// Affinity.
    pub mpidr: Mpidr,
    /// ICC_SGI1R_EL1 that sends SGI 0 here.
    pub kick: u64,
    /// The hand-over protocol.
    pub hand: Handover,
    /// Its redistributor's RD_base and SGI_base frames.
    pub redistributor: Frame,
    /// Register that the yield load fills, while the core is lent by yield.
    pub yield_register: AtomicU32,
    /// When the core was lent, in ticks.
    pub lent_at: AtomicU64,
}

/// What others may touch of a vCPU.
pub struct VcpuShared {
    /// Affinity.
    pub mpidr: Mpidr,
    /// Bit n: virtual interrupt n is pending and not in a list register.
    pub pending: AtomicU32,
    /// Bit n: virtual interrupt n is enabled.
    pub enabled: AtomicU32,
    /// The core it ran on last.
    pub last_core: AtomicU32,
}

/// Emulated registers.
pub struct Frames {
    /// One per vCPU.
    pub redistributors: [VirtualRedistributor; MAX_VCPUS],
    /// Device interrupts that Linux routed to vCPUs.
    pub router: Router,
    /// The vCPUs' affinities.
    pub names: [Mpidr; MAX_VCPUS],
}

/// Page addresses, in bytes.
#[derive(Clone, Copy)]
pub struct Pages {
    /// The doorbell.
    pub doorbell: u64,
    /// The control page.
    pub control: u64,
    /// The first vCPU's redistributor; 128 KiB each.
    pub redistributors: u64,
}

static MACHINE: Once<Machine> = Once::new();

/// The machine. Handlers only run once it is there.
#[inline]
pub fn machine() -> &'static Machine {
    match MACHINE.get() {
        Some(machine) => machine,
        None => panic!("an exception before the machine is set up"),
    }
}

/// Sets the machine up, once.
pub fn set(machine: Machine) {
    MACHINE.call_once(|| machine);
}

impl Machine {
    /// Whether EL2 owns a core's physical CPU interface.
    #[inline]
    pub fn is_cp(&self, core: usize) -> bool {
        !self.dp.contains(core)
    }

    /// Says to `core` what is wanted of it.
    #[inline]
    pub fn kick(&self, core: usize, mail: Mail) {
        let core = &self.core[core % MAX_CORES];
        core.hand.post(mail);
        gic::send_sgi(core.kick);
    }

    /// Carries out what the scheduler asked for.
    #[inline]
    pub fn kick_all(&self, kicks: Kicks) {
        let mut left = kicks.0;
        while left != 0 {
            self.kick(left.trailing_zeros() as usize, Mail::LOOK);
            left &= left - 1;
        }
    }

    /// Ends an interrupt of EL2's own.
    #[inline]
    pub fn end_own(&self, core: usize, intid: u32) {
        gic::end(intid);
        if self.is_cp(core) {
            gic::deactivate(intid);
        }
    }

    /// Publishes how many vCPUs are ready. Call with the scheduler locked.
    #[inline]
    pub fn publish_ready(&self, sched: &Scheduler) {
        use core::sync::atomic::Ordering::Relaxed;
        let ready = sched.ready() as u32;
        HOT.ready.store(ready, Relaxed);
        taichi_el2::shared::header().ready.store(ready, Relaxed);
    }
}
