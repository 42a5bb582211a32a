// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The firmware's memory is out of reach: an access aborts in the guest.

use core::sync::atomic::Ordering::Relaxed;

use crate::guest::cpu::{self, Cpu, EXPECT_ABORT};
use crate::guest::frame::{Action, Frame, Register};
use crate::guest::report::check;

/// Exception class: data abort without a change of exception level.
const DATA_ABORT: u64 = 0x25;

/// Loads and stores at both ends and in the middle, on every CPU; the
/// telemetry can be read but not written.
pub fn firmware_memory() {
    attack(0);
    for cpu in cpu::all().iter().skip(1) {
        cpu.run(attack, 0);
    }
}

fn attack(_: u64) {
    let me = cpu::this();
    let Some(range) = cpu::machine().firmware else {
        check!(false, "the tree reserves no memory for the firmware");
        return;
    };
    let last = range.base + range.size - 8;
    for address in [range.base, (range.base + range.size / 2) & !7, last] {
        for action in [
            Action::act_load64,
            Action::act_load8,
            Action::act_store64,
            Action::act_store8,
        ] {
            abort(me, action, address);
        }
    }
    if let Some(windows) = cpu::machine().windows {
        abort(me, Action::act_store64, windows.telemetry.base);
        abort(
            me,
            Action::act_store32,
            windows.telemetry.base + windows.telemetry.size - 4,
        );
    }
}

fn abort(me: &'static Cpu, action: Action, address: u64) {
    me.caught.store(EXPECT_ABORT, Relaxed);
    let frame = Frame::new(me, address).x(0, address).run(action);
    let esr = me.caught.swap(0, Relaxed);
    let far = me.caught_far.load(Relaxed);
    check!(
        esr != EXPECT_ABORT,
        "{action:?} at {address:#x} didn't abort"
    );
    check!(
        esr >> 26 == DATA_ABORT,
        "{action:?} at {address:#x}: ESR {esr:#x}"
    );
    check!(far == address, "{action:?} at {address:#x}: FAR {far:#x}");
    frame
        .any_system(Register::Elr)
        .any_system(Register::Spsr)
        .any_system(Register::Esr)
        .any_system(Register::Far)
        .verify("abort");
}
