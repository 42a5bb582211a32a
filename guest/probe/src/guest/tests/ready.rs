// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A vCPU that could run and has no core.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use taichi_abi::doorbell::YIELD;

use crate::guest::cpu;
use crate::guest::gic;
use crate::guest::report::check;
use crate::guest::sys::{self, set};
use crate::guest::tests::switches::with_one_free;
use crate::guest::tests::{GO, dp_core, hold, release};

const NUMBER: u64 = 5;
/// How often the vCPU must have run, and in how many yields at most.
const ROUNDS: u32 = 20;
const TRIES: u32 = 2_000;
/// Microseconds that the core is lent in each.
const LENT: u64 = 30;

/// Turns of the vCPU's loop.
static TURNS: AtomicU32 = AtomicU32::new(0);
/// Yields in which the vCPU computed, and in which it had taken the SGI before.
static RAN: AtomicU32 = AtomicU32::new(0);
static CAME: AtomicU32 = AtomicU32::new(0);

/// An SGI for a vCPU that has lost its core comes as soon as it has one again,
/// while it computes: no WFI and no other interrupt helps.
pub fn sgi() {
    let (Some(dp), Some(vcpu)) = (dp_core(), cpu::vcpus().next()) else {
        return;
    };
    hold();
    RAN.store(0, Relaxed);
    CAME.store(0, Relaxed);
    with_one_free(dp, || {
        vcpu.post(compute, 0);
        dp.run(rounds, vcpu.index as u64);
        release();
        vcpu.join();
    });
    let (ran, came) = (RAN.load(Acquire), CAME.load(Acquire));
    check!(
        ran == ROUNDS && came == ran,
        "{came} of {ran} SGIs to a ready vCPU came before it went on"
    );
}

/// Takes interrupts, as frames don't.
fn compute(_: u64) {
    while GO.load(Acquire) == 0 {
        TURNS.fetch_add(1, Relaxed);
    }
}

fn rounds(vcpu: u64) {
    let vcpu = &cpu::all()[vcpu as usize];
    sys::mask();
    yield_once();
    for _ in 0..TRIES {
        let (turns, before) = (TURNS.load(Relaxed), vcpu.sgi(NUMBER));
        gic::send(gic::sgi_to(NUMBER, vcpu.mpidr));
        yield_once();
        // Two turns: the first may have begun before.
        if TURNS.load(Acquire).wrapping_sub(turns) > 1 {
            RAN.fetch_add(1, Relaxed);
            CAME.fetch_add(vcpu.sgi(NUMBER).wrapping_sub(before).min(1), Release);
        }
        if RAN.load(Relaxed) == ROUNDS {
            break;
        }
    }
    sys::unmask();
}

/// Lends this core until its timer fires.
fn yield_once() {
    let base = cpu::machine().windows.map_or(0, |w| w.doorbell.base);
    set!("cntv_cval_el0", sys::now() + sys::micros(LENT));
    set!("cntv_ctl_el0", 1);
    sys::read64(base + YIELD as u64);
    set!("cntv_ctl_el0", 0);
    // What is pending of the timer is taken here.
    sys::unmask();
    sys::mask();
}
