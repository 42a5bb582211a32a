// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the shortest paths need of the machine, in a static of its own: it is
//! reached without a question whether it is there.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use spin::mutex::SpinMutex;
use taichi_abi::{MAX_CORES, MAX_VCPUS};
use taichi_el2::shared;
use taichi_sched::Scheduler;
use taichi_sched::handover::Handover;

/// See the module.
pub struct Hot {
    /// The doorbell, as HPFAR_EL2 shows a fault there.
    pub doorbell_hpfar: AtomicU64,
    /// Affinity fields above Aff0 of the cores' SGI cluster, as they stand in
    /// ICC_SGI1R_EL1, when all cores share one; else `u64::MAX`.
    pub core_cluster: AtomicU64,
    /// vCPUs that are ready: what [`Scheduler::ready`] last said.
    pub ready: AtomicU32,
    /// Policy.
    pub sched: SpinMutex<Scheduler>,
    hands: [Handover; MAX_CORES],
    vcpus: [Pending; MAX_VCPUS],
    /// DP cores are kept for their native contexts (`park.rs`).
    pub keep: AtomicBool,
}

/// The interrupts of a vCPU that are in no list register.
pub struct Pending {
    /// Bit n: virtual interrupt n is pending.
    pub pending: AtomicU32,
    /// Bit n: virtual interrupt n is enabled.
    pub enabled: AtomicU32,
}

/// See [`Hot`].
pub static HOT: Hot = Hot {
    doorbell_hpfar: AtomicU64::new(u64::MAX),
    core_cluster: AtomicU64::new(u64::MAX),
    ready: AtomicU32::new(0),
    sched: SpinMutex::new(Scheduler::empty()),
    hands: [const { Handover::new() }; MAX_CORES],
    vcpus: [const {
        Pending {
            pending: AtomicU32::new(0),
            enabled: AtomicU32::new(0),
        }
    }; MAX_VCPUS],
    keep: AtomicBool::new(false),
};

impl Hot {
    /// The hand-over protocol of a core. (The remainder spares a check.)
    #[inline]
    pub fn hand(&self, core: usize) -> &Handover {
        &self.hands[core % MAX_CORES]
    }

    /// What is pending for a vCPU.
    #[inline]
    pub fn vcpu(&self, vcpu: usize) -> &Pending {
        &self.vcpus[vcpu % MAX_VCPUS]
    }

    /// Publishes how many vCPUs are ready. Call with the scheduler locked.
    #[inline]
    pub fn publish_ready(&self, sched: &Scheduler) {
        let ready = sched.ready() as u32;
        self.ready.store(ready, Relaxed);
        shared::header().ready.store(ready, Relaxed);
    }
}
