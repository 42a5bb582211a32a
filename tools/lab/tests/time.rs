// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What CPUs believe about time. `cargo xtask test` runs these; alone: `cargo
//! test -p taichi-lab --features guest --test time`.
#![cfg(feature = "guest")]

use taichi_lab::stress::time;
use taichi_lab::{Kernel, Machine};

/// In deterministic time, with all CPUs busy, the DP core too.
fn stolen(kernel: Kernel) {
    let machine = Machine {
        kernel,
        cores: 3,
        vcpus: 2,
        dp: "2".parse().unwrap(),
        measured: true,
        ..Machine::default()
    };
    let report = time::stolen(&machine, 3.0).unwrap();
    // Two CP cores serve the vCPUs by force, and miss the time.
    let cores: u64 = report.cpus[..2].iter().map(|c| c.firmware_ns).sum();
    assert!(cores > report.elapsed_ns / 10, "{report:?}");
    assert_eq!(
        report.cpus[2].firmware_ns, 0,
        "a DP core was taken by force"
    );
}

#[test]
fn stolen_time_is_what_the_firmware_counted_linux_6_1() {
    stolen(Kernel::Debian61);
}

#[test]
fn stolen_time_is_what_the_firmware_counted_linux_6_12() {
    stolen(Kernel::Debian612);
}
