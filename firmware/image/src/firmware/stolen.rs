// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stolen time, as Linux sees it (Arm DEN 0057).
//!
//! A vCPU's is counted in ticks whenever it gets a core, in telemetry. Linux
//! looks at it in its tick, so it is made nanoseconds where a timer interrupt
//! is given to the vCPU, and not at every switch.
//!
//! Of a real core's time, that is stolen in which a starving vCPU had taken it
//! by force. A yield is the poller's own gift, within one load instruction as
//! Linux sees it, and nobody misses a core that idles.

use super::machine::machine;
use core::sync::atomic::Ordering::Relaxed;
use taichi_abi::stolen::FIRST_VCPU;
use taichi_el2::percore::Core;
use taichi_el2::{shared, stolen};
use taichi_machine::psci::CpuId;

/// Brings a vCPU's structure up to date.
pub fn publish(vcpu: usize) {
    let ticks = shared::vcpu(vcpu).steal_ticks.load(Relaxed);
    set(FIRST_VCPU + vcpu, ticks);
}

/// This core comes back, which had been taken by force `ticks` ago.
pub fn taken(core: &Core, ticks: u64) {
    let counter = &core.counters().stolen_ticks;
    shared::add(counter, ticks);
    set(core.id(), counter.load(Relaxed));
}

fn set(index: usize, ticks: u64) {
    let ns = machine().nanoseconds.of(ticks);
    stolen::structure(index).stolen_ns.store(ns, Relaxed);
}

/// Where a CPU's structure is.
pub fn address(cpu: CpuId) -> u64 {
    stolen::address(match cpu {
        CpuId::Core(core) => core,
        CpuId::Vcpu(vcpu) => FIRST_VCPU + vcpu,
    })
}
