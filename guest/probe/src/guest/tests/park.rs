// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Parked, no DP core is lent; vCPUs go on, on CP cores.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed};

use taichi_abi::control::PARK;
use taichi_abi::doorbell::{Reason, YIELD};
use taichi_abi::telemetry::Parked;

use crate::guest::cpu::{self, Cpu};
use crate::guest::report::check;
use crate::guest::sys;
use crate::guest::tests::switches::with_one_free;
use crate::guest::tests::{GO, await_or_fail, dp_core, hold, release};

const YIELDS: u64 = 200;
/// How far a vCPU must get by force.
const PROGRESS: u32 = 2_000;
const ROUNDS: usize = 3;

/// Turns of the vCPU's loop.
static TURNS: AtomicU32 = AtomicU32::new(0);
/// Yields that were told that the core may not be lent.
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// Parks and lends again, while a vCPU that computes has the DP core.
pub fn keeps_dp_cores() {
    let (Some(dp), Some(vcpu)) = (dp_core(), cpu::vcpus().next()) else {
        return;
    };
    hold();
    with_one_free(dp, || {
        vcpu.post(compute, 0);
        for _ in 0..ROUNDS {
            await_or_fail("an idle DP core that is lent", || dp.is_lent());
            park(Parked::Asked);
            await_or_fail("a DP core that comes back", || !dp.is_lent());
            stays_native(dp);
            park(Parked::No);
        }
        release();
        vcpu.join();
    });
}

/// A poller that yields once and then never polls again keeps its core, and
/// nobody waits for it.
pub fn yields_once() {
    let (Some(dp), Some(vcpu)) = (dp_core(), cpu::vcpus().next()) else {
        return;
    };
    hold();
    with_one_free(dp, || {
        vcpu.post(compute, 0);
        SLICE.store(0, Relaxed);
        dp.post(yield_once, 0);
        await_or_fail("a slice", || SLICE.load(Acquire) != 0);
        let lends = || cpu::core_block(dp.number).lends();
        let (before, turns) = (lends(), TURNS.load(Relaxed));
        let progress = || TURNS.load(Acquire).wrapping_sub(turns) > PROGRESS;
        await_or_fail("a vCPU that goes on by force", progress);
        check!(lends() == before, "a DP core was lent without a yield");
        release();
        dp.join();
        vcpu.join();
    });
}

/// A yield has lasted a slice.
static SLICE: AtomicU32 = AtomicU32::new(0);

fn yield_once(_: u64) {
    let base = cpu::machine().windows.map_or(0, |w| w.doorbell.base);
    while sys::read64(base + YIELD as u64) != Reason::Slice as u64 {}
    SLICE.store(1, Relaxed);
    while GO.load(Acquire) == 0 {
        core::hint::spin_loop();
    }
}

fn stays_native(dp: &Cpu) {
    let lends = || cpu::core_block(dp.number).lends();
    let (before, turns) = (lends(), TURNS.load(Relaxed));
    REFUSED.store(0, Relaxed);
    dp.run(yields, 0);
    let progress = || TURNS.load(Acquire).wrapping_sub(turns) > PROGRESS;
    await_or_fail("a vCPU that goes on by force", progress);
    dp.run(|_| {}, 0);
    check!(lends() == before, "a DP core was lent while parked");
    // The others found no vCPU ready.
    let refused = REFUSED.load(Relaxed);
    check!(refused > 0, "no yield of {YIELDS} was refused");
}

fn yields(_: u64) {
    let base = cpu::machine().windows.map_or(0, |w| w.doorbell.base);
    for _ in 0..YIELDS {
        let reason = sys::read64(base + YIELD as u64);
        match Reason::from_value(reason) {
            Some(Reason::Refused) => _ = REFUSED.fetch_add(1, Relaxed),
            Some(Reason::Nothing | Reason::Interrupt) => {}
            _ => check!(false, "a yield while parked gave {reason}"),
        }
        sys::spin(200);
    }
}

fn compute(_: u64) {
    while GO.load(Acquire) == 0 {
        TURNS.fetch_add(1, Relaxed);
    }
}

/// Parks, as an operator does.
pub fn park(why: Parked) {
    if let Some(windows) = cpu::machine().windows {
        sys::write32(windows.control.base + PARK as u64, why as u32);
    }
    check!(
        parked() == why as u32,
        "told to park ({why:?}), and {}",
        parked()
    );
}

/// What telemetry says.
pub fn parked() -> u32 {
    cpu::header().map_or(0, |h| h.parked.load(Relaxed))
}
