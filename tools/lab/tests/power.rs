// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels and CPUs that come and go. `cargo xtask test` runs these; alone:
//! `cargo test -p taichi-lab --features guest --test power`.
#![cfg(feature = "guest")]

use std::time::Duration;

use taichi_lab::stress::health;
use taichi_lab::stress::power::{self, Until};
use taichi_lab::{Kernel, Machine};

fn machine(kernel: Kernel) -> Machine {
    Machine {
        kernel,
        cores: 4,
        vcpus: 3,
        dp: "3".parse().unwrap(),
        timeout: Duration::from_secs(600),
        ..Machine::default()
    }
}

#[test]
fn kexec_from_6_1_to_6_12_has_all_cpus() {
    let version = power::kexec(&machine(Kernel::Debian61), &Kernel::Debian612).unwrap();
    assert!(version.starts_with("6.12."), "{version}");
}

#[test]
fn kexec_from_6_12_to_itself_has_all_cpus() {
    let version = power::kexec(&machine(Kernel::Debian612), &Kernel::Debian612).unwrap();
    assert!(version.starts_with("6.12."), "{version}");
}

/// CPU 0 is the boot core, 3 a DP core, 5 a vCPU.
#[test]
fn a_crash_kernel_runs_on_the_boot_core() {
    power::crash(&machine(Kernel::Debian61), &Kernel::Debian61, 0).unwrap();
}

#[test]
fn a_crash_kernel_runs_on_a_dp_core() {
    power::crash(&machine(Kernel::Debian612), &Kernel::Debian612, 3).unwrap();
}

#[test]
fn a_crash_kernel_runs_on_a_vcpu_6_1() {
    power::crash(&machine(Kernel::Debian61), &Kernel::Debian61, 5).unwrap();
}

#[test]
fn a_crash_kernel_runs_on_a_vcpu_6_12() {
    power::crash(&machine(Kernel::Debian612), &Kernel::Debian612, 5).unwrap();
}

/// Any CPU but the boot CPU, which refuses, cores included, under a storm; the
/// long form has 1,000 rounds.
fn hotplug(kernel: Kernel) {
    let (report, outcome) = power::hotplug(&machine(kernel), Until::Rounds(100), 1).unwrap();
    assert_eq!(report.rounds, 100);
    health::check(&outcome).unwrap();
    health::check_stalls(&outcome).unwrap();
}

#[test]
fn cpus_come_and_go_in_a_storm_6_1() {
    hotplug(Kernel::Debian61);
}

#[test]
fn cpus_come_and_go_in_a_storm_6_12() {
    hotplug(Kernel::Debian612);
}
