// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kicks, the interrupts between cores at EL2, get lost, come twice or come for
//! nothing, if the firmware is built for that. Everything comes all the same;
//! late, where they get lost.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use taichi_abi::control::{FAULT, Fault};
use taichi_abi::doorbell::YIELD;
use taichi_abi::telemetry::Parked;

use crate::guest::console::say;
use crate::guest::cpu::{self, Cpu};
use crate::guest::report::{check, failing};
use crate::guest::tests::{await_or_fail, park, storm};
use crate::guest::{gic, sys};

/// How often the firmware kept DP cores, because kicks got lost.
static PARKED: AtomicU32 = AtomicU32::new(0);

/// Of so many kicks one is hit.
const EVERY: u32 = 3;
const ROUNDS: u64 = 60;
/// Yields of the DP core in a round.
const YIELDS: u64 = 5;

/// Each third gets lost.
pub fn lost() {
    let again = kicks_again();
    with(Fault::Lost, EVERY);
    let found = kicks_again() - again;
    say!("kicks: {found} were missed and raised again");
    check!(found > 0, "no lost kick was found: are any lost?");
    let parked = PARKED.load(Relaxed);
    say!("kicks: parked {parked} times because of that");
}

/// All of them, but those that come because one was missed.
pub fn all_lost() {
    let again = kicks_again();
    set(Fault::Lost, 1);
    (0..ROUNDS / 10).for_each(round);
    set(Fault::Lost, 0);
    check!(kicks_again() > again, "no lost kick was found");
    let why = park::parked();
    check!(
        why == Parked::LostKicks as u32,
        "all kicks got lost, and DP cores are not kept: {why}"
    );
    park::park(Parked::No);
}

/// Each comes twice.
pub fn doubled() {
    with(Fault::Doubled, 1);
}

/// With each third another core is kicked.
pub fn spurious() {
    with(Fault::Spurious, EVERY);
}

fn with(fault: Fault, every: u32) {
    set(fault, every);
    rounds();
    storm::everywhere();
    set(fault, 0);
    park::park(Parked::No);
}

fn set(fault: Fault, every: u32) {
    if let Some(windows) = cpu::machine().windows {
        sys::write32(windows.control.base + FAULT as u64, fault.to_each(every));
    }
}

fn kicks_again() -> u64 {
    cpu::header().map_or(0, |h| h.kicks_again.load(Relaxed))
}

/// Rounds in which DP cores are lent: kept ones are no test of kicks to lent ones.
fn rounds() {
    for n in 0..ROUNDS {
        if park::parked() != Parked::No as u32 {
            PARKED.fetch_add(1, Relaxed);
            park::park(Parked::No);
        }
        round(n);
    }
}

/// Every CPU gets SGI 0, asleep or at work, and all have something to do.
fn round(n: u64) {
    if failing() {
        return;
    }
    let others = || cpu::all().iter().skip(1);
    if n.is_multiple_of(2) {
        others().for_each(|cpu| cpu.post(work, n));
    }
    for cpu in others() {
        let before = cpu.sgi(0);
        gic::send(gic::sgi_to(0, cpu.mpidr));
        await_or_fail("SGI 0 under lost kicks", || cpu.sgi(0) != before);
    }
    others().for_each(Cpu::join);
}

fn work(round: u64) {
    let me = cpu::this();
    for _ in 0..YIELDS {
        if me.dp {
            let base = cpu::machine().windows.map_or(0, |w| w.doorbell.base);
            sys::read64(base + YIELD as u64);
        }
        sys::spin(500 * (1 + (round + me.index as u64) % 3));
    }
}
