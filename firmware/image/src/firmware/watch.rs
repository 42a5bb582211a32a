// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Levels whose SGI 0 got lost. Interrupt controllers lose none; a mistake here
//! or in the firmware below would look so, and no CPU may stop for it. The boot
//! core, which never leaves, looks into all mailboxes now and then
//! (`taichi_sched`'s watchman) and raises SGI 0 again where a level has been
//! waiting since the last time.

use super::hot::HOT;
use super::machine::{Machine, machine};
use super::park;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use taichi_abi::MAX_CORES;
use taichi_el2::percore::Core;
use taichi_el2::{gic, shared};
use taichi_sched::Kicks;
use taichi_sched::handover::Mail;

/// What the watchman saw of a core when it last looked.
pub struct Seen {
    /// Levels in the mailbox.
    mail: AtomicU64,
    /// Ticks that the core was lent or waiting.
    away: AtomicU64,
}

impl Seen {
    /// Nothing yet.
    pub const fn nothing() -> Self {
        Self {
            mail: AtomicU64::new(0),
            away: AtomicU64::new(0),
        }
    }
}

/// A look that finds lost kicks counts so much, and one that finds none takes 1
/// away: more than one in five is no chance.
const BAD: u32 = 4;
/// When it comes to so much, DP cores are kept.
const TOO_BAD: u32 = 32;

/// Looks into all mailboxes. `kickable`: cores that take SGI 0 at EL2.
#[cold]
#[inline(never)]
pub fn look(watchman: &mut Core, kickable: Kicks) {
    let m = machine();
    let mut lost = 0;
    for core in 0..m.cores.min(MAX_CORES) {
        let found = inspect(m, core, kickable);
        lost += u64::from(found == Found::Lost);
        if found != Found::Nothing {
            // Past the tests' faults: these may lose all others.
            gic::send_sgi(m.core[core].kick);
        }
    }
    let bad = m.bad_looks.load(Relaxed);
    if lost == 0 {
        m.bad_looks.store(bad.saturating_sub(1), Relaxed);
        return;
    }
    shared::add(&shared::header().kicks_again, lost);
    m.bad_looks.store(bad + BAD, Relaxed);
    if bad + BAD >= TOO_BAD {
        park::because_kicks_get_lost(watchman);
    }
}

/// What there is to say of a mailbox.
#[derive(PartialEq)]
enum Found {
    /// Nothing.
    Nothing,
    /// An SGI 0 that may have been lost.
    Perhaps,
    /// One that was.
    Lost,
}

fn inspect(m: &Machine, core: usize, kickable: Kicks) -> Found {
    let (seen, counters) = (&m.seen[core], shared::core(core));
    let mut mail = HOT.hand(core).peek();
    if !HOT.hand(core).is_lent() {
        // A level that stays.
        mail = mail.without(Mail::KEEP);
    }
    let ticks = [&counters.lent_ticks, &counters.waiting_ticks];
    let away = ticks.map(|t| t.load(Relaxed)).iter().sum();
    let before = Mail(seen.mail.swap(mail.0.into(), Relaxed) as u32);
    let was_away = seen.away.swap(away, Relaxed) != away;
    if kickable.0 & 1 << core != 0 {
        return if mail.has(before) {
            Found::Lost
        } else {
            Found::Nothing
        };
    }
    // A DP core's Linux takes SGI 0 itself and leaves the level behind, so there
    // it says nothing; unless the core was EL2's meanwhile, which may have lost
    // the SGI before Linux got its core back.
    if was_away && mail.has(Mail::NATIVE_SGI) {
        Found::Perhaps
    } else {
        Found::Nothing
    }
}
