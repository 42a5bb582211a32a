// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian's other kernels, short: with PREEMPT_RT, where interrupts and timers are
//! threads, and the newest. `cargo xtask test` runs these; alone: `cargo test -p
//! taichi-lab --features guest --test kernels`. What 6.1 and 6.12 go through is
//! in the other files.
#![cfg(feature = "guest")]

use std::time::Duration;

use taichi_guest::report::Storm;
use taichi_lab::stress::health::{self, WARNINGS};
use taichi_lab::stress::power::{self, Until};
use taichi_lab::stress::scene;
use taichi_lab::{Cache, Kernel, Machine, Outcome};

/// Four cores, of which one is a DP core, and three vCPUs.
fn machine(kernel: Kernel) -> Machine {
    Machine {
        kernel,
        cores: 4,
        dp: "3".parse().unwrap(),
        vcpus: 3,
        // Minutes more than it takes: the host may have other work.
        timeout: Duration::from_secs(600),
        ..Machine::default()
    }
}

/// The output's first line, and the storm's report in the last.
fn first_line_and_storm(outcome: &Outcome) -> (String, Storm) {
    let text = outcome.text();
    let (first, report) = text.trim_end().split_once('\n').unwrap();
    (first.to_owned(), serde_json::from_str(report).unwrap())
}

/// In real time, with a DP core that Linux keeps free: all CPUs are online, it is
/// the kernel that was asked for, and threads that migrate over all CPUs compute
/// and map right.
fn storms(kernel: Kernel) {
    let machine = Machine {
        isolate: true,
        ..machine(kernel)
    };
    let script = "echo $(cat /sys/devices/system/cpu/online) $(uname -r) $(uname -v); \
                  storm --seconds 20";
    let outcome = scene::sh(&machine, script).unwrap();
    health::check(&outcome).unwrap();
    let (first, storm) = first_line_and_storm(&outcome);
    let words: Vec<_> = first.split_whitespace().collect();
    assert_eq!(words[0], "0-6", "{}", outcome.tail());
    let release = machine.kernel.release(&Cache::open().unwrap());
    assert_eq!(Some(words[1]), release.as_deref());
    let rt = [Kernel::Debian61Rt, Kernel::Debian612Rt].contains(&machine.kernel);
    assert_eq!(words.contains(&"PREEMPT_RT"), rt, "{first}");
    assert_eq!(storm.rounds_by_cpu.len(), 7, "{storm:?}");
}

/// In deterministic time: a storm, and no warning that the bare kernel doesn't
/// print, of lost time neither.
fn warns_no_more_than_bare(kernel: Kernel) {
    let ours = Machine {
        measured: true,
        spin: false,
        ..machine(kernel)
    };
    let bare = Machine {
        bare: true,
        vcpus: 0,
        ..ours.clone()
    };
    let script =
        format!("cat /sys/devices/system/cpu/online; storm --seconds 0.2 --programs 8; {WARNINGS}");
    let (ours, bare) = (
        scene::sh(&ours, &script).unwrap(),
        scene::sh(&bare, &script).unwrap(),
    );
    let (online, storm) = first_line_and_storm(&ours);
    assert_eq!(online, "0-6", "{}", ours.tail());
    assert_eq!(storm.rounds_by_cpu.len(), 7, "{storm:?}");
    assert_eq!(first_line_and_storm(&bare).0, "0-3");
    health::check(&ours).unwrap();
    health::check_against(&ours, &bare).unwrap();
}

/// All CPUs but the boot CPU go and come back under load.
fn hotplug(kernel: Kernel) {
    let (report, outcome) = power::hotplug(&machine(kernel), Until::Rounds(20), 1).unwrap();
    assert_eq!(report.rounds, 20);
    health::check(&outcome).unwrap();
}

#[test]
fn storms_on_6_1_rt() {
    storms(Kernel::Debian61Rt);
}

#[test]
fn storms_on_6_12_rt() {
    storms(Kernel::Debian612Rt);
}

#[test]
fn storms_on_the_newest() {
    storms(Kernel::DebianNewest);
}

#[test]
fn warns_no_more_than_bare_6_1_rt() {
    warns_no_more_than_bare(Kernel::Debian61Rt);
}

#[test]
fn warns_no_more_than_bare_6_12_rt() {
    warns_no_more_than_bare(Kernel::Debian612Rt);
}

#[test]
fn warns_no_more_than_bare_newest() {
    warns_no_more_than_bare(Kernel::DebianNewest);
}

#[test]
fn cpus_come_and_go_on_6_1_rt() {
    hotplug(Kernel::Debian61Rt);
}

#[test]
fn cpus_come_and_go_on_6_12_rt() {
    hotplug(Kernel::Debian612Rt);
}

#[test]
fn cpus_come_and_go_on_the_newest() {
    hotplug(Kernel::DebianNewest);
}
