// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The virtual timer: never early, never lost.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use crate::guest::cpu::{self, Cpu};
use crate::guest::report::check;
use crate::guest::sys::{self, set};
use crate::guest::tests::await_or_fail;

pub fn arm(deadline: u64) {
    set!("cntv_cval_el0", deadline);
    set!("cntv_ctl_el0", 1);
}

/// On each CPU in turn: WFI until the timer, 50 times.
pub fn wakes_wfi() {
    sleep_rounds(0);
    for cpu in cpu::all().iter().skip(1) {
        cpu.run(sleep_rounds, 0);
    }
}

fn sleep_rounds(_: u64) {
    let me = cpu::this();
    let early = me.early.load(Relaxed);
    for round in 0..50 {
        let before = me.timers.load(Relaxed);
        let deadline = sys::now() + sys::micros(200);
        arm(deadline);
        while me.timers.load(Relaxed) == before {
            sys::mask();
            sys::wfi();
            sys::unmask();
        }
        let fired = me.timers.load(Relaxed) - before;
        check!(
            fired == 1,
            "CPU {}, round {round}: {fired} timer interrupts",
            me.index
        );
        check!(
            sys::now() >= deadline,
            "CPU {}, round {round}: too early",
            me.index
        );
    }
    let early = me.early.load(Relaxed) - early;
    check!(
        early == 0,
        "CPU {}: {early} interrupts before their time",
        me.index
    );
}

/// Ticks in one run, and what lies between two, in microseconds.
const TICKS: u32 = 100;
const PERIOD: u64 = 1000;

/// A periodic tick on all CPUs at once, all of them busy: each handler sets
/// the next deadline, so that one lost interrupt stops the clock for good.
pub fn ticks() {
    FINISHED.store(0, Relaxed);
    for cpu in cpu::all().iter().skip(1) {
        cpu.post(tick_all, 0);
    }
    tick_all(0);
    cpu::all().iter().skip(1).for_each(Cpu::join);
}

static FINISHED: AtomicU64 = AtomicU64::new(0);

fn tick_all(_: u64) {
    let me = cpu::this();
    let (before, early) = (me.timers.load(Relaxed), me.early.load(Relaxed));
    let period = sys::micros(PERIOD);
    let start = sys::now();
    me.period.store(period, Relaxed);
    arm(start + period);
    let ticked = || me.timers.load(Relaxed) - before;
    await_or_fail("a hundred ticks", || ticked() >= TICKS);
    // Late ticks are made up for, so that their number tells the time.
    let caught_up = await_or_fail("ticks that keep up with time", || {
        (sys::now() - start) / period <= u64::from(ticked())
    });
    me.period.store(0, Relaxed);
    set!("cntv_ctl_el0", 0);
    let elapsed = sys::now() - start;
    let count = u64::from(ticked());
    check!(
        !caught_up || count <= elapsed / period,
        "CPU {}: {count} ticks in {} periods",
        me.index,
        elapsed / period
    );
    let early = me.early.load(Relaxed) - early;
    check!(
        early == 0,
        "CPU {}: {early} ticks before their time",
        me.index
    );
    // Nobody leaves the race early: the others would find a free core.
    FINISHED.fetch_add(1, Relaxed);
    await_or_fail("all CPUs' ticks", || {
        FINISHED.load(Relaxed) >= cpu::all().len() as u64
    });
}

/// The timer of a vCPU that is Ready expires while every core is busy.
pub fn while_ready() {
    FINISHED.store(0, Relaxed);
    let vcpus = cpu::vcpus().count() as u64;
    cpu::vcpus().for_each(|v| v.post(short_timers, 0));
    cpu::cores().skip(1).for_each(|c| c.post(busy_core, vcpus));
    busy_core(vcpus);
    cpu::all().iter().skip(1).for_each(Cpu::join);
}

fn busy_core(vcpus: u64) {
    await_or_fail("the vCPUs' timers", || FINISHED.load(Relaxed) >= vcpus);
}

fn short_timers(_: u64) {
    let me = cpu::this();
    for round in 0..30 {
        let before = me.timers.load(Relaxed);
        // Longer than a slice of a vCPU, so that it mostly expires off core.
        let deadline = sys::now() + sys::micros(700 + 37 * round);
        arm(deadline);
        if !await_or_fail("a timer while Ready", || me.timers.load(Relaxed) != before) {
            break;
        }
        let fired = me.timers.load(Relaxed) - before;
        check!(
            fired == 1,
            "CPU {}, round {round}: {fired} timer interrupts",
            me.index
        );
        check!(
            sys::now() >= deadline,
            "CPU {}, round {round}: too early",
            me.index
        );
    }
    FINISHED.fetch_add(1, Relaxed);
}
