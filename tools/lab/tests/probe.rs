// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The probe, a guest that attacks the firmware from below: every register
//! through every exit and world switch. `cargo xtask test` runs these; alone:
//! `cargo test -p taichi-lab --features guest --test probe`.
#![cfg(feature = "guest")]

use std::time::Duration;

use taichi_lab::Machine;
use taichi_lab::stress::probe;

/// Boots the probe and asserts that at least `passed` tests ran and none
/// failed.
fn probe(machine: Machine, passed: u32) {
    let machine = Machine {
        timeout: Duration::from_secs(1500),
        ..machine
    };
    if let Err(error) = probe::probe(&machine, passed) {
        panic!("{error:#}");
    }
}

/// In deterministic time, with the cores taking turns every 4 us.
fn measured(cores: u32, vcpus: u32, dp: &str, spin: bool) -> Machine {
    Machine {
        cores,
        vcpus,
        dp: dp.parse().unwrap(),
        measured: true,
        spin,
        tick: 4,
        ..Machine::default()
    }
}

#[test]
fn without_firmware() {
    let machine = Machine {
        cores: 3,
        bare: true,
        // No EL2: the probe starts at EL1, as below the firmware.
        machine_properties: "gic-version=3".to_owned(),
        ..Machine::default()
    };
    probe(machine, 12);
}

#[test]
fn two_cores_and_a_vcpu() {
    probe(measured(2, 1, "1", false), 34);
}

#[test]
fn three_cores_and_two_vcpus_that_spin_at_el2() {
    probe(measured(3, 2, "2", true), 36);
}

#[test]
fn four_cores_and_three_vcpus() {
    probe(measured(4, 3, "2-3", false), 36);
}

/// Cores that really run at once. The ping-pong is left out: on few host CPUs
/// it takes minutes.
#[test]
fn cores_that_run_at_once() {
    let tests = "exits,protect,vcpu,irouter,sgi-e,sgi-o,sgi-1,sgi-a,timer,switch,probe,power,storm";
    let machine = Machine {
        cores: 3,
        vcpus: 2,
        dp: "2".parse().unwrap(),
        append: format!("probe={tests}"),
        ..Machine::default()
    };
    probe(machine, 33);
}

/// A million of each: random calls, and random accesses to all that is emulated
/// or forbidden, by all CPUs at once; then the tests as above.
#[test]
fn after_a_million_random_calls_and_accesses_of_each_kind() {
    let tests =
        "chaos,exits,protect,vcpu,irouter,sgi-e,sgi-o,sgi-1,sgi-a,timer,switch,probe,power,storm";
    let machine = Machine {
        cores: 3,
        vcpus: 2,
        dp: "2".parse().unwrap(),
        append: format!("probe={tests}"),
        ..Machine::default()
    };
    probe(machine, 37);
}
