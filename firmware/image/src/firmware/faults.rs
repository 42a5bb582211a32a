// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kicks that get lost, come twice or come for nothing: built with the feature
//! `faults` alone. What Linux sends from core to core is spared where Linux
//! takes it itself: were that lost, it would be lost without the firmware too.

use super::machine::Machine;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;
use taichi_abi::control::Fault;
use taichi_abi::telemetry::CoreState;
use taichi_el2::{gic, shared};

/// By [`Fault`]: how many kicks there are to each that is hit; 0: none is.
static EVERY: [AtomicU32; Fault::ALL.len()] = [const { AtomicU32::new(0) }; Fault::ALL.len()];
/// Kicks so far.
static KICKS: AtomicU32 = AtomicU32::new(0);

/// Somebody stored this at [`taichi_abi::control::FAULT`].
pub fn set(value: u64) {
    if let Some(every) = EVERY.get(value as usize & 0xff) {
        every.store(value as u32 >> 8, Relaxed);
    }
}

/// Whether a core that starts finds its redistributor asleep for ever.
pub fn is_kept_asleep() -> bool {
    EVERY[Fault::Asleep as usize].load(Relaxed) != 0
}

/// Raises SGI 0 at a core, or what the faults make of that.
pub fn raise(m: &Machine, target: usize) {
    let n = KICKS.fetch_add(1, Relaxed);
    let hits = |fault: Fault| match EVERY[fault as usize].load(Relaxed) {
        0 => false,
        every => n.is_multiple_of(every),
    };
    let state = shared::core(target).state.load(Relaxed) & 0xff;
    let taken_by_linux = !m.is_cp(target) && state == CoreState::Native as u64;
    if !hits(Fault::Lost) || taken_by_linux {
        gic::send_sgi(m.core[target].kick);
    }
    if hits(Fault::Doubled) {
        gic::send_sgi(m.core[target].kick);
    }
    if hits(Fault::Spurious) {
        gic::send_sgi(m.core[n as usize / 7 % m.cores].kick);
    }
}
