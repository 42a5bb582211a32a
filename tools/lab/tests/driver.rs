// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The test driver and what its users find. `cargo xtask test` runs these;
//! alone: `cargo test -p taichi-lab --features guest --test driver`.
#![cfg(feature = "guest")]

use std::time::Duration;

use taichi_lab::stress::{locks, scene};
use taichi_lab::{Ending, Kernel, Machine, driver};

/// The kernel takes the module for its own (version and symbols agree), and lets
/// it go.
fn loads_and_unloads(kernel: Kernel) {
    let machine = Machine {
        kernel,
        cores: 2,
        vcpus: 1,
        modules: vec![driver::NAME.to_owned()],
        programs: false,
        ..Machine::default()
    };
    let script = "test -c /dev/taichi-accel && rmmod taichi_accel && \
                  ! test -e /dev/taichi-accel && dmesg | grep taichi_accel:";
    let outcome = scene::sh(&machine, script).unwrap();
    // It isn't Debian's, and says so; nothing else.
    for line in outcome.text().lines() {
        assert!(
            ["taints kernel.", "tainting kernel"]
                .iter()
                .any(|e| line.ends_with(e)),
            "{line}"
        );
    }
}

#[test]
fn the_module_loads_linux_6_1() {
    loads_and_unloads(Kernel::Debian61);
}

#[test]
fn the_module_loads_linux_6_12() {
    loads_and_unloads(Kernel::Debian612);
}

#[test]
fn the_module_loads_linux_6_1_rt() {
    loads_and_unloads(Kernel::Debian61Rt);
}

#[test]
fn the_module_loads_linux_6_12_rt() {
    loads_and_unloads(Kernel::Debian612Rt);
}

#[test]
fn the_module_loads_on_the_newest_linux() {
    loads_and_unloads(Kernel::DebianNewest);
}

/// In deterministic time, a thread on each CPU that isn't the data plane's, all
/// after one lock.
fn sections_on_cores_and_vcpus(kernel: Kernel) {
    const EACH: u64 = 40;
    let machine = Machine {
        measured: true,
        config: "slice=200us".to_owned(),
        ..locks::machine(kernel)
    };
    let options =
        format!("--scale 4 --pinned --sections {EACH} --lengths 10000:80,1000000:18,60000000:2");
    let report = locks::sections(&machine, &options).unwrap();

    let cpus: Vec<usize> = report.by_cpu.keys().copied().collect();
    assert_eq!(cpus, [0, 4, 5, 6]);
    assert!(report.by_cpu.values().all(|on| on.sections == EACH));
    assert_eq!(report.sections, 4 * EACH);
    // What is to be shown did happen: vCPUs were in long sections, and their
    // cores were taken back all the time. How long they then had none is for
    // `longest_over_ns` and `gaps`.
    let vcpus = report.by_cpu.range(4..).map(|(_, on)| on.asked_ns);
    assert!(vcpus.sum::<u64>() > 120_000_000, "{report:?}");
    let wire = report.accelerator.as_ref().unwrap();
    assert!(wire.probes_early > 1000 && wire.dropped == 0, "{wire:?}");
    let lends: u64 = report.forwarders.iter().map(|f| f.lends).sum();
    assert!(lends > 1000, "{lends} lends");
}

#[test]
fn no_section_is_lost_linux_6_1() {
    sections_on_cores_and_vcpus(Kernel::Debian61);
}

#[test]
fn no_section_is_lost_linux_6_12() {
    sections_on_cores_and_vcpus(Kernel::Debian612);
}

/// With real concurrency, more threads than CPUs, which go where Linux likes,
/// and locks of all kinds.
fn locks_of_all_kinds(kernel: Kernel) {
    let machine = Machine {
        // With nohz_full, Linux complains of a core that it can't look at for
        // three seconds, as happens on a busy host.
        isolate: false,
        timeout: Duration::from_secs(600),
        ..locks::machine(kernel)
    };
    let options = "--threads 12 --sections 100 --devices 2 --kinds spin,irqsave,raw,mutex \
                   --lengths 10000:80,1000000:19,60000000:1";
    let report = locks::sections(&machine, options).unwrap();
    assert_eq!(report.sections, 1200);
    let vcpus = report.by_cpu.range(4..).map(|(_, on)| on.sections);
    assert!(vcpus.sum::<u64>() > 0, "{report:?}");
}

#[test]
fn locks_of_all_kinds_keep_others_out_linux_6_1() {
    locks_of_all_kinds(Kernel::Debian61);
}

#[test]
fn locks_of_all_kinds_keep_others_out_linux_6_12() {
    locks_of_all_kinds(Kernel::Debian612);
}

/// Without a lock the same program fails, and says of what.
#[test]
fn a_lock_that_keeps_nobody_out_is_noticed() {
    let machine = Machine {
        dp: "1".parse().unwrap(),
        isolate: false,
        ..locks::machine(Kernel::Debian612)
    };
    let outcome = locks::run(&machine, "--kinds none --sections 20 --lengths 1000000:1").unwrap();
    assert_eq!(outcome.ending, Ending::Exit(1), "{}", outcome.text());
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert!(said.contains("found another one inside"), "{said}");
    assert!(said.contains("two at once"), "{said}");
}
