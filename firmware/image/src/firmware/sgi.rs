// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupts between CPUs: EL1 writes ICC_SGI1R_EL1, which traps everywhere.

use super::hot::HOT;
use super::lend::seldom;
use super::machine::{Machine, machine};
use super::vcpu;
use core::sync::atomic::Ordering::Relaxed;
use taichi_el2::percore::Core;
use taichi_el2::vectors::Outcome;
use taichi_el2::{gic, shared};
use taichi_machine::affinity::Mpidr;
use taichi_machine::trap::SgiTargets;
use taichi_sched::handover::Mail;

/// ICC_SGI1R_EL1: affinity fields above Aff0, range selector, IRM.
const CLUSTER: u64 = 0xff << 48 | 0xf << 44 | 1 << 40 | 0xff << 32 | 0xff << 16;

/// Sends what the current context asked for.
#[inline]
pub fn send(core: &mut Core, sgi1r: u64) -> Outcome {
    shared::add(&core.counters().sgis, 1);
    if sgi1r & CLUSTER != HOT.core_cluster.load(Relaxed) {
        return send_anywhere(core, sgi1r);
    }
    // The common case: real cores of the one cluster there is. Their own
    // interrupt controllers do the work.
    if sgi1r >> 24 & 0xf == 0 {
        return send_zero(sgi1r);
    }
    gic::send_sgi(sgi1r);
    Outcome::Resume
}

/// SGI 0 to native contexts of cores in the one cluster, which learn from their
/// mailboxes that it follows; see `Handover`.
#[inline(never)]
fn send_zero(sgi1r: u64) -> Outcome {
    let m = machine();
    let mut targets = sgi1r & 0xffff;
    while targets != 0 {
        let aff0 = targets.trailing_zeros() as u8;
        if let Some(target) = core_at(m, aff0) {
            HOT.hand(target).post(Mail::NATIVE_SGI);
            #[cfg(feature = "faults")]
            super::faults::raise(m, target);
        }
        targets &= targets - 1;
    }
    if cfg!(not(feature = "faults")) {
        gic::send_sgi(sgi1r);
    }
    seldom(Outcome::Resume)
}

/// The core with this Aff0 in the one cluster; index and Aff0 nearly always
/// agree.
#[inline]
fn core_at(m: &Machine, aff0: u8) -> Option<usize> {
    let guess = usize::from(aff0);
    let hit = |i: &usize| m.core[*i].mpidr.aff0() == aff0;
    if guess < m.cores && hit(&guess) {
        return Some(guess);
    }
    (0..m.cores).find(hit)
}

/// vCPUs, everybody, or several clusters of cores.
#[inline(never)]
fn send_anywhere(core: &mut Core, sgi1r: u64) -> Outcome {
    send_to_each(machine(), core, sgi1r);
    seldom(Outcome::Resume)
}

fn send_to_each(m: &Machine, core: &mut Core, sgi1r: u64) {
    let targets = SgiTargets::decode(sgi1r);
    let intid = u32::from(targets.intid);
    if sgi1r & CLUSTER == m.vcpu_cluster {
        let mut left = sgi1r & 0xffff;
        while left != 0 {
            vcpu::pend(core, left.trailing_zeros() as usize, intid);
            left &= left - 1;
        }
        return;
    }
    let sender = match core.vcpu() {
        Some(v) => m.vcpu[v],
        None => m.core[core.id()].mpidr,
    };
    for target in 0..m.cores {
        if targets.includes(m.core[target].mpidr, sender) {
            to_core(m, target, intid);
        }
    }
    for target in 0..m.vcpus {
        if targets.includes(m.vcpu[target], sender) {
            vcpu::pend(core, target, intid);
        }
    }
}

/// Sends one SGI to one native context.
pub fn to_core(m: &Machine, target: usize, intid: u32) {
    if intid == gic::KICK {
        return m.kick(target, Mail::NATIVE_SGI);
    }
    gic::send_sgi(m.core[target].kick | u64::from(intid) << 24);
}

/// ICC_SGI1R_EL1 that sends SGI 0 to one CPU.
pub fn kick_value(mpidr: Mpidr) -> u64 {
    let aff0 = u64::from(mpidr.aff0());
    u64::from(mpidr.aff3()) << 48
        | (aff0 >> 4) << 44
        | u64::from(mpidr.aff2()) << 32
        | u64::from(mpidr.aff1()) << 16
        | 1 << (aff0 & 0xf)
}

/// The fields of [`kick_value`] that a whole cluster shares; `u64::MAX` if
/// `cpus` are not one cluster with Aff0 below 16.
pub fn cluster_of(cpus: &[Mpidr]) -> u64 {
    let Some(&first) = cpus.first() else {
        return u64::MAX;
    };
    let cluster = kick_value(first) & CLUSTER;
    let same = |c: &Mpidr| kick_value(*c) & CLUSTER == cluster && c.aff0() < 16;
    if cpus.iter().all(same) {
        cluster
    } else {
        u64::MAX
    }
}
