// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fall-back to static partition: no DP core is lent, vCPUs run on CP cores
//! alone, where they idle or by force. Linux keeps all its CPUs.
//!
//! A level in each DP core's mailbox says that the native context keeps its
//! core. A lend looks there anyway, so it is refused without an instruction more
//! on the way that isn't.

use super::hot::HOT;
use super::lend::rearm;
use super::machine::{Machine, kick_all, machine};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use taichi_abi::telemetry::Parked;
use taichi_el2::percore::Core;
use taichi_el2::shared;
use taichi_sched::handover::Mail;

/// Parks for a reason, or lends again.
#[cold]
#[inline(never)]
pub fn set(m: &Machine, core: &mut Core, why: Parked) {
    let keep = why != Parked::No;
    // One at a time: under the lock. Whoever takes the level from a mailbox
    // looks at this first, and posts it again or not.
    let mut sched = HOT.sched.lock();
    HOT.keep.store(keep, SeqCst);
    let kicks = sched.keep_dp_cores(keep);
    for dp in m.dp_cores() {
        match keep {
            true => HOT.hand(dp).post(Mail::KEEP),
            false => HOT.hand(dp).withdraw_keep(),
        }
    }
    m.bad_looks.store(0, Relaxed);
    shared::header().parked.store(why as u32, Relaxed);
    let deadline = sched.deadline(core.id());
    drop(sched);
    rearm(core, deadline);
    kick_all(kicks);
    if keep {
        // Who publishes "lent" after this finds the level.
        for dp in m.dp_cores().filter(|&dp| HOT.hand(dp).is_lent()) {
            m.raise(dp);
        }
    }
}

/// A core took the level from its mailbox.
#[cold]
#[inline(never)]
pub fn taken(id: usize) {
    if HOT.keep.load(SeqCst) {
        HOT.hand(id).post(Mail::KEEP);
    }
}

impl Machine {
    /// DP cores.
    fn dp_cores(&self) -> impl Iterator<Item = usize> {
        (0..self.cores).filter(|&core| !self.is_cp(core))
    }
}

/// Kicks get lost again and again: a DP core that is lent may not be told to come
/// back.
#[cold]
pub fn because_kicks_get_lost(core: &mut Core) {
    if !HOT.keep.load(Relaxed) {
        set(machine(), core, Parked::LostKicks);
    }
}
