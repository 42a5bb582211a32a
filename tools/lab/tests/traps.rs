// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How often EL2 is entered, by cause, in deterministic time. What the design
//! doesn't name doesn't trap, and what it names no more often than here. `cargo
//! xtask test` runs these; alone: `cargo test -p taichi-lab --features guest --test
//! traps`.
#![cfg(feature = "guest")]

use std::time::Duration;

use taichi_guest::report::Traps;
use taichi_lab::stress::scene;
use taichi_lab::{Kernel, Machine};

/// Runs a shell script in the guest, which prints a report.
fn traps(kernel: Kernel, tick: u32, script: &str) -> Traps {
    let machine = Machine {
        kernel,
        cores: 4,
        vcpus: 3,
        dp: "3".parse().unwrap(),
        measured: true,
        spin: false,
        tick,
        timeout: Duration::from_secs(800),
        ..Machine::default()
    };
    let outcome = scene::sh(&machine, script).unwrap();
    serde_json::from_str(&outcome.text()).unwrap()
}

/// The most of each cause in a minute.
type Bounds = [(&'static str, u64); 10];

fn within(traps: &Traps, bounds: &Bounds) {
    assert_eq!(traps.causes.len(), bounds.len(), "{traps:?}");
    let too_many: Vec<_> = bounds
        .iter()
        .filter(|(cause, most)| !traps.causes.contains_key(*cause) || traps.a_minute(cause) > *most)
        .map(|(cause, most)| (cause, traps.a_minute(cause), most))
        .collect();
    assert!(
        too_many.is_empty(),
        "(cause, a minute, at most): {too_many:?}"
    );
}

/// Seven CPUs with nothing to do.
fn idle(kernel: Kernel, bounds: &Bounds) {
    within(
        &traps(kernel, 1000, "traps --settle 2 --seconds 60"),
        bounds,
    );
}

/// Seven CPUs with threads that migrate, map, unmap, start programs and compute.
fn busy(kernel: Kernel, bounds: &Bounds) {
    let script = "storm --seconds 1000 >/dev/null & traps --settle 0.5 --seconds 2";
    within(&traps(kernel, 20, script), bounds);
}

/// Half as much again as the kernel with more of them has: 6.12 has 1,200, 101 and
/// 850 of the last three.
const IDLE: Bounds = [
    ("window", 0),
    ("redistributor", 0),
    ("router", 0),
    ("private", 0),
    ("nothing", 0),
    ("registers", 0),
    ("calls", 0),
    ("wfi and float", 1_800),
    ("sgis", 150),
    ("interrupts", 1_300),
];
/// The same of 6.1's; of its interrupts, 4,024,781, rescue brought half: kicks, and
/// looks at code in the kernel.
const BUSY: Bounds = [
    ("window", 0),
    ("redistributor", 0),
    ("router", 0),
    ("private", 0),
    ("nothing", 0),
    ("registers", 0),
    ("calls", 0),
    ("wfi and float", 2_300_000),
    ("sgis", 1_700_000),
    ("interrupts", 6_000_000),
];

#[test]
fn an_idle_minute_linux_6_1() {
    idle(Kernel::Debian61, &IDLE);
}

#[test]
fn an_idle_minute_linux_6_12() {
    idle(Kernel::Debian612, &IDLE);
}

#[test]
fn a_busy_minute_linux_6_1() {
    busy(Kernel::Debian61, &BUSY);
}

#[test]
fn a_busy_minute_linux_6_12() {
    busy(Kernel::Debian612, &BUSY);
}
