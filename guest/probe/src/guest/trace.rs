// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The firmware's trace, printed when a test fails and `trace` is among the
//! boot arguments.

use core::sync::atomic::Ordering::Relaxed;

use taichi_abi::trace::{Event, RECORDS, Ring};

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
        let ring: &Ring = cpu::ring(core.number);
        let head = ring.head.load(Relaxed);
        for n in head.saturating_sub(LAST)..head {
            let record = &ring.records[n as usize % RECORDS];
            let word = record.word.load(Relaxed);
            let event = Event::from_number(word as u8).unwrap_or(Event::None);
            say!(
                "trace core {} at {} {event:?} vcpu {:#x} {:#x}",
                core.number,
                record.ticks.load(Relaxed),
                word >> 8 & 0xff,
                word >> 16
            );
        }
    }
}
