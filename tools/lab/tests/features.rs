// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Each model of core that we list, under each kernel: what a vCPU offers is what
//! a core offers, so that Linux has nothing to complain of, and what is offered
//! works while threads move between them. In deterministic time.
#![cfg(feature = "guest")]

use std::time::Duration;

use taichi_lab::stress::health::{self, WARNINGS};
use taichi_lab::stress::{features, scene};
use taichi_lab::{Kernel, Machine};

/// The checks of the guest's program `features` that every model passes.
const ALWAYS: [&str; 3] = ["breakpoint", "step", "watchpoint"];
const KEYS_AND_VECTORS: [&str; 3] = ["keys", "sve", "sve-short"];

fn serves(cpu: &str, checks: &[&str]) {
    for kernel in [Kernel::Debian61, Kernel::Debian612] {
        let ours = Machine {
            kernel,
            cores: 2,
            vcpus: 2,
            cpu: cpu.to_owned(),
            measured: true,
            spin: false,
            timeout: Duration::from_secs(600),
            ..Machine::default()
        };
        let (report, outcome) = features::check(&ours, 30, 1).unwrap();
        assert!(report.checks.keys().eq(checks), "{cpu}: {report:?}");
        let bare = Machine {
            bare: true,
            vcpus: 0,
            ..ours
        };
        let bare = scene::sh(&bare, WARNINGS).unwrap();
        health::check_against(&outcome, &bare).unwrap();
    }
}

#[test]
fn cortex_a72() {
    serves("cortex-a72", &ALWAYS);
}

#[test]
fn cortex_a76() {
    serves("cortex-a76", &ALWAYS);
}

#[test]
fn neoverse_n1() {
    serves("neoverse-n1", &ALWAYS);
}

#[test]
fn neoverse_v1() {
    let mut checks = [ALWAYS, KEYS_AND_VECTORS].concat();
    checks.sort_unstable();
    serves("neoverse-v1", &checks);
}

#[test]
fn everything_that_qemu_has() {
    let mut checks = [ALWAYS, KEYS_AND_VECTORS].concat();
    checks.sort_unstable();
    serves("max", &checks);
}
