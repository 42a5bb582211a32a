// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tests, as a table.

use super::cpu;
use super::report;

/// Runs what the boot arguments ask for.
pub fn run(args: &str) {
    let _ = args;
    report::run("start", start);
    report::done();
}

fn start() {
    for cpu in cpu::all().iter().skip(1) {
        let started = cpu.start();
        report::check!(started.is_ok(), "CPU {}: {started:?}", cpu.index);
    }
}
