// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The state that all cores share, but for what is in `hot.rs`.
//!
//! Locks: `psci` before `sched`; `frames` and
//! `crash` alone. None is held across a world
//! switch, nor while another core is waited for.

use super::crash::Crash;
use super::hot::HOT;
use super::watch::Seen;
use core::sync::atomic::AtomicU32;
use spin::Once;
use spin::mutex::SpinMutex;
use taichi_abi::{MAX_CORES, MAX_VCPUS};
use taichi_el2::mmio::Frame;
use taichi_el2::vectors::Outcome;
use taichi_machine::affinity::{CoreSet, Mpidr};
use taichi_machine::irouter::Router;
use taichi_machine::psci::Psci;
use taichi_machine::redist::VirtualRedistributor;
use taichi_machine::smccc::{Nanoseconds, Smccc};
use taichi_sched::Kicks;
use taichi_sched::handover::Mail;

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
    /// The vCPUs' affinities.
    pub vcpu: [Mpidr; MAX_VCPUS],
    /// Affinity fields above Aff0 of the vCPUs' SGI cluster, as they stand in
    /// ICC_SGI1R_EL1, when all share one; else `u64::MAX`.
    pub vcpu_cluster: u64,
    /// CPUs that come and go.
    pub psci: SpinMutex<Psci>,
    /// Emulated frames.
    pub frames: SpinMutex<Frames>,
    /// Where pages are.
    pub pages: Pages,
    /// The distributor.
    pub distributor: Frame,
    /// What happens once Linux has crashed.
    pub crash: Crash,
    /// What the watchman saw last, by core.
    pub seen: [Seen; MAX_CORES],
    /// How bad it looked lately (`watch.rs`).
    pub bad_looks: AtomicU32,
    /// Calls that aren't PSCI's.
    pub smccc: Smccc,
    /// The system counter's ticks, in nanoseconds.
    pub nanoseconds: Nanoseconds,
}

/// What others may touch of a core.
pub struct CoreShared {
    /// Affinity.
    pub mpidr: Mpidr,
    /// ICC_SGI1R_EL1 that sends SGI 0 here.
    pub kick: u64,
    /// Its redistributor's RD_base and SGI_base frames.
    pub redistributor: Frame,
}

/// Emulated registers.
pub struct Frames {
    /// One per vCPU.
    pub redistributors: [VirtualRedistributor; MAX_VCPUS],
    /// Device interrupts that Linux routed to vCPUs.
    pub router: Router,
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
        HOT.hand(core).post(mail);
        self.raise(core % MAX_CORES);
    }

    /// Raises SGI 0 at `core`, whose mailbox says why.
    #[inline]
    pub fn raise(&self, core: usize) {
        #[cfg(feature = "faults")]
        super::faults::raise(self, core);
        #[cfg(not(feature = "faults"))]
        taichi_el2::gic::send_sgi(self.core[core].kick);
    }
}

/// Carries out what the scheduler asked for.
#[inline]
pub fn kick_all(kicks: Kicks) {
    if kicks != Kicks::NONE {
        let _ = kick_and(kicks, Outcome::Resume);
    }
}

/// The same as the last thing that a handler does, whose outcome it passes on:
/// a call that ends a function needs no stack frame.
#[inline]
pub fn finish(kicks: Kicks, outcome: Outcome) -> Outcome {
    if kicks == Kicks::NONE {
        outcome
    } else {
        kick_and(kicks, outcome)
    }
}

#[inline(never)]
fn kick_and(kicks: Kicks, outcome: Outcome) -> Outcome {
    let mut left = kicks.0;
    while left != 0 {
        machine().kick(left.trailing_zeros() as usize, Mail::LOOK);
        left &= left - 1;
    }
    outcome
}
