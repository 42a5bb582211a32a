// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Everything at once.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::guest::cpu::{self, Cpu};
use crate::guest::frame::{Action, Frame, Pattern};
use crate::guest::report::failing;
use crate::guest::tests::exits;

/// Exits that each CPU executes.
const EXITS: u64 = 3_000;

static WEATHER: AtomicU64 = AtomicU64::new(1);

/// All CPUs execute exits in random order, each with its own full frame, with
/// computation between them that EL2 interrupts wherever it likes.
pub fn everywhere() {
    for cpu in cpu::all().iter().skip(1) {
        cpu.post(exits_at_random, 0);
    }
    exits_at_random(0);
    cpu::all().iter().skip(1).for_each(Cpu::join);
}

fn exits_at_random(_: u64) {
    let me = cpu::this();
    let mut pattern = Pattern(me.index as u64 + 1000 * WEATHER.fetch_add(1, Relaxed));
    for round in 0..EXITS {
        let r = pattern.next();
        if r & 7 == 0 {
            let frame = Frame::new(me, round).x(1, r >> 8 & 0x3fff | 1);
            frame.run(Action::act_count).gives(1, 0).verify("storm");
        }
        exits::one(me, (r >> 32) as usize % exits::count(), round);
        if failing() {
            return;
        }
    }
}
