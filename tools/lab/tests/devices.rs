// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Device interrupts: SPIs and LPIs, moved over all CPUs. `cargo xtask test` runs
//! these; alone: `cargo test -p taichi-lab --features guest --test devices`.
#![cfg(feature = "guest")]

use std::time::Duration;

use taichi_lab::stress::devices::{self, Amount};
use taichi_lab::stress::health;
use taichi_lab::{Kernel, Machine};

const CORES: u32 = 4;
const VCPUS: u32 = 3;

/// In deterministic time; the host decides when a disk has done what it was asked.
fn moved(kernel: Kernel) {
    let machine = Machine {
        kernel,
        cores: CORES,
        vcpus: VCPUS,
        dp: "3".parse().unwrap(),
        measured: true,
        spin: false,
        timeout: Duration::from_secs(800),
        ..Machine::default()
    };
    let amount = Amount {
        rounds: 1,
        seconds: 0,
        balanced: false,
    };
    let (report, outcome) = devices::moved(&machine, amount).unwrap();
    let cpus = (CORES + VCPUS) as usize;
    let mut kinds = [0; 4];
    for (name, moved) in &report.interrupts {
        let source = moved.source.as_str();
        let fixed = name.contains("-req.");
        let kind = match source {
            _ if fixed => 0,
            _ if source.starts_with("ITS-") => 1,
            _ if source.ends_with("Level") => 2,
            _ => 3,
        };
        kinds[kind] += 1;
        let places = if fixed { 1 } else { cpus };
        assert_eq!(moved.sent.len(), places, "{name}: {moved:?}");
        // By design none comes to a vCPU.
        let late = moved.came.range(CORES as usize..).map(|(_, n)| n);
        assert_eq!(late.sum::<u64>(), 0, "{name}: {moved:?}");
    }
    assert_eq!(kinds, [cpus, 5, 1, 1], "{report:?}");
    assert!(report.requests > 0 && report.frames > 0, "{report:?}");
    // Without PLPIS in its redistributor Linux uses the boot CPU's collection for a
    // vCPU, by luck, and warns.
    health::check(&outcome).unwrap();
    health::check_stalls(&outcome).unwrap();
}

#[test]
fn interrupts_move_over_all_cpus_under_traffic_6_1() {
    moved(Kernel::Debian61);
}

#[test]
fn interrupts_move_over_all_cpus_under_traffic_6_12() {
    moved(Kernel::Debian612);
}
