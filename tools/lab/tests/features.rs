// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Each model of core that we list, under each kernel: what a vCPU offers is what
//! a core offers, so that Linux has nothing to complain of, and what is offered
//! works while threads move between them. In deterministic time.
#![cfg(feature = "guest")]

use std::collections::BTreeMap;
use std::time::Duration;

use taichi_lab::stress::health::{self, WARNINGS};
use taichi_lab::{Kernel, Machine, Outcome, Streams, guest};

/// The checks of the guest's program `features` that every model passes.
const ALWAYS: [&str; 3] = ["breakpoint", "step", "watchpoint"];
const KEYS_AND_VECTORS: [&str; 3] = ["keys", "sve", "sve-short"];

/// Runs a shell script in the guest.
fn sh(machine: &Machine, script: &str) -> Outcome {
    let command = ["sh", "-c", script].map(String::from);
    let outcome = guest::run(machine, &command, Streams::Captured).unwrap();
    outcome.success().unwrap();
    outcome
}

/// What Linux says of its CPUs at any level, which must not be said.
const COMPLAINTS: [&str; 3] = [
    "SANITY CHECK",
    "Unsupported CPU feature",
    "variation detected",
];

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
        let script = format!(
            "cat /sys/devices/system/cpu/online && {{ {WARNINGS}; }} && \
             storm --seconds 0.1 --programs 8 >/dev/null && features --rounds 30"
        );
        let outcome = sh(&ours, &script);
        let text = outcome.text();
        let (online, report) = text.split_once('\n').unwrap();
        assert_eq!(online, "0-3", "{}", outcome.tail());
        health::check(&outcome).unwrap();
        for complaint in COMPLAINTS {
            assert!(!outcome.console.contains(complaint), "{}", outcome.console);
        }
        let report: serde_json::Value = serde_json::from_str(report).unwrap();
        let rounds = |of: &str| -> BTreeMap<String, u64> {
            serde_json::from_value(report[of].clone()).unwrap()
        };
        assert!(rounds("checks").keys().eq(checks), "{cpu}: {report}");
        assert!(rounds("checks").values().all(|n| *n >= 30), "{report}");
        assert_eq!(rounds("rounds_by_cpu").len(), 4, "{report}");

        let bare = Machine {
            bare: true,
            vcpus: 0,
            ..ours
        };
        let bare = sh(&bare, WARNINGS);
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
