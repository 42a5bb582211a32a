// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The firmware's trace: for tests to look at, and printed when one fails and
//! `trace` is among the boot arguments.

use core::sync::atomic::Ordering::Relaxed;

use taichi_abi::trace::{Event, RECORDS};

use super::console::say;
use super::cpu;

/// Records printed of each core.
const LAST: u64 = 40;

/// Prints the last records of every core.
pub fn print() {
    if cpu::header().is_none() {
        return;
    }
    for core in cpu::cores() {
        let from = head(core.number).saturating_sub(LAST);
        for (ticks, event, vcpu, argument) in records(core.number, from) {
            say!(
                "trace core {} at {ticks} {event:?} vcpu {vcpu:#x} {argument:#x}",
                core.number
            );
        }
    }
}

/// Records ever written of a core.
pub fn head(core: usize) -> u64 {
    cpu::ring(core).head.load(Relaxed)
}

/// A core's records from the one with number `from` on, as far as they are
/// still there: ticks, event, vCPU and argument.
pub fn records(core: usize, from: u64) -> impl Iterator<Item = (u64, Event, u64, u64)> {
    let head = head(core);
    let oldest = head.saturating_sub(RECORDS as u64);
    (from.max(oldest)..head).map(move |n| {
        let record = &cpu::ring(core).records[n as usize % RECORDS];
        let word = record.word.load(Relaxed);
        let event = Event::from_number(word as u8).unwrap_or(Event::None);
        let ticks = record.ticks.load(Relaxed);
        (ticks, event, word >> 8 & 0xff, word >> 16)
    })
}
