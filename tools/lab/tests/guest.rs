// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The whole product under unmodified kernels, in QEMU. `cargo xtask test` runs
//! these; alone: `cargo test -p taichi-lab --features guest --test guest`. What
//! the firmware does to registers is tested from below, in `probe.rs`.
#![cfg(feature = "guest")]

use std::fs;
use std::time::Duration;

use taichi_lab::stress::health::{self, WARNINGS};
use taichi_lab::{Ending, Kernel, Machine, Outcome, Streams, guest};

fn machine(kernel: Kernel, cores: u32, vcpus: u32) -> Machine {
    Machine {
        kernel,
        cores,
        vcpus,
        // Minutes more than it takes: the host may have other work.
        timeout: Duration::from_secs(600),
        ..Machine::default()
    }
}

/// Runs a shell script in the guest.
fn sh(machine: &Machine, script: &str) -> Outcome {
    let command = ["sh", "-c", script].map(String::from);
    guest::run(machine, &command, Streams::Captured).unwrap()
}

/// Prints which CPUs are online, and warnings.
fn online_and_warnings() -> String {
    format!("cat /sys/devices/system/cpu/online; {WARNINGS}")
}

/// What the kernel calls the CPUs that are online, all of `count`.
fn online(count: u32) -> String {
    format!("0-{}\n", count - 1)
}

/// Boots with real concurrency: all CPUs are online and nothing is broken; and
/// in deterministic time.
fn boots(kernel: Kernel, cores: u32, vcpus: u32) {
    let outcome = sh(
        &machine(kernel.clone(), cores, vcpus),
        &online_and_warnings(),
    );
    assert_eq!(outcome.text(), online(cores + vcpus), "{}", outcome.tail());
    health::check(&outcome).unwrap();
    warns_no_more_than_bare(kernel, cores, vcpus);
}

/// Boots in deterministic time: the kernel prints no warning that it doesn't
/// print on the bare machine.
fn warns_no_more_than_bare(kernel: Kernel, cores: u32, vcpus: u32) {
    let measured = Machine {
        measured: true,
        spin: false,
        // Each core has its share of the one clock.
        config: format!("look={}us", 5 * cores),
        ..machine(kernel, cores, vcpus)
    };
    let ours = sh(&measured, &online_and_warnings());
    assert_eq!(ours.text(), online(cores + vcpus), "{}", ours.tail());
    let bare = Machine {
        bare: true,
        vcpus: 0,
        ..measured
    };
    let bare = sh(&bare, &online_and_warnings());
    assert_eq!(bare.text(), online(cores), "{}", bare.tail());
    let Err(error) = health::check_against(&ours, &bare) else {
        return;
    };
    // Nine CPUs to a core lose it in the handlers of their timers, too, as they
    // do on any hypervisor.
    let error = error.to_string();
    let warnings = error.lines().filter(|l| l.trim_start().starts_with('"'));
    let lost_core = warnings.clone().count() == 1 && error.contains("hrtimer: interrupt took");
    assert!(lost_core && vcpus > 4 * cores, "{error}");
}

#[test]
fn boots_2_cores_1_vcpu_linux_6_1() {
    boots(Kernel::Debian61, 2, 1);
}

#[test]
fn boots_2_cores_1_vcpu_linux_6_12() {
    boots(Kernel::Debian612, 2, 1);
}

#[test]
fn boots_4_cores_3_vcpus_linux_6_1() {
    boots(Kernel::Debian61, 4, 3);
}

#[test]
fn boots_4_cores_3_vcpus_linux_6_12() {
    boots(Kernel::Debian612, 4, 3);
}

#[test]
fn boots_2_cores_0_vcpus_linux_6_1() {
    boots(Kernel::Debian61, 2, 0);
}

#[test]
fn boots_2_cores_16_vcpus_linux_6_12() {
    boots(Kernel::Debian612, 2, 16);
}

/// Many CPUs. With real concurrency, all come up and run: two host cores are too
/// slow for the timer ticks of twelve, so Linux may complain of the time it
/// takes. In deterministic time it must not.
fn boots_large(kernel: Kernel, cores: u32, vcpus: u32) {
    let probes = [0, cores - 1, cores, cores + vcpus - 1].map(|cpu| cpu.to_string());
    let script = format!(
        "cat /sys/devices/system/cpu/online; \
         for cpu in {}; do taskset -c $cpu echo $cpu; done",
        probes.join(" ")
    );
    let outcome = sh(&machine(kernel.clone(), cores, vcpus), &script);
    let expected = online(cores + vcpus) + &probes.join("\n") + "\n";
    assert_eq!(outcome.text(), expected, "{}", outcome.tail());
    warns_no_more_than_bare(kernel, cores, vcpus);
}

#[test]
fn boots_12_cores_8_vcpus_linux_6_1() {
    boots_large(Kernel::Debian61, 12, 8);
}

#[test]
fn boots_12_cores_8_vcpus_linux_6_12() {
    boots_large(Kernel::Debian612, 12, 8);
}

#[test]
fn boots_16_cores_16_vcpus_linux_6_1() {
    boots_large(Kernel::Debian61, 16, 16);
}

#[test]
fn boots_16_cores_16_vcpus_linux_6_12() {
    boots_large(Kernel::Debian612, 16, 16);
}

#[test]
fn boots_with_dp_cores_isolated() {
    for kernel in [Kernel::Debian61, Kernel::Debian612] {
        let machine = Machine {
            dp: "2-3".parse().unwrap(),
            isolate: true,
            ..machine(kernel, 4, 3)
        };
        let script = "cd /sys/devices/system/cpu; cat online isolated nohz_full";
        let outcome = sh(&machine, script);
        assert_eq!(outcome.text(), "0-6\n2-3\n2-3\n", "{}", outcome.tail());
        health::check(&outcome).unwrap();
    }
}

#[test]
fn a_vcpu_survives_200_rounds_of_hotplug() {
    let machine = Machine {
        dp: "3".parse().unwrap(),
        ..machine(Kernel::Debian612, 4, 3)
    };
    let outcome = sh(&machine, "hotplug --cpu 5 --rounds 200");
    outcome.success().unwrap();
    health::check(&outcome).unwrap();
}

/// Threads that migrate, map, unmap and compute on all CPUs, checking all.
fn storm(kernel: Kernel) {
    let outcome = sh(&machine(kernel, 4, 3), "storm --seconds 120");
    outcome.success().unwrap();
    health::check(&outcome).unwrap();
}

#[test]
fn storms_for_two_minutes_linux_6_1() {
    storm(Kernel::Debian61);
}

#[test]
fn storms_for_two_minutes_linux_6_12() {
    storm(Kernel::Debian612);
}

#[test]
fn measured_runs_are_identical_to_the_byte() {
    let machine = Machine {
        measured: true,
        dp: "3".parse().unwrap(),
        isolate: true,
        ..machine(Kernel::Debian61, 4, 3)
    };
    let script = "storm --seconds 0.05; cat /proc/uptime /proc/interrupts";
    let (first, second) = (sh(&machine, script), sh(&machine, script));
    first.success().unwrap();
    assert!(first.text().contains("arch_timer"), "{}", first.text());
    assert_eq!(first.text(), second.text());
    assert_eq!(first.stderr, second.stderr);
    assert_eq!(first.console, second.console);
}

/// A machine or configuration that the firmware can't serve: it says `why`,
/// and Linux boots on the real cores alone.
fn boots_without_vcpus(machine: &Machine, why: &str) {
    let outcome = sh(machine, "cat /sys/devices/system/cpu/online");
    let said = outcome
        .console
        .lines()
        .any(|l| l.starts_with("taichi: ") && l.contains(why));
    assert!(said, "no \"{why}\"\n{}", outcome.console);
    let all = format!("0-{}\n", machine.cores - 1);
    assert_eq!(outcome.text(), all, "{}", outcome.tail());
}

#[test]
fn without_el2_linux_boots_bare() {
    let machine = Machine {
        machine_properties: "gic-version=3".to_owned(),
        ..machine(Kernel::Debian61, 2, 1)
    };
    boots_without_vcpus(&machine, "the firmware needs EL2");
}

#[test]
fn with_gicv2_linux_boots_bare() {
    let machine = Machine {
        machine_properties: "virtualization=on,gic-version=2".to_owned(),
        ..machine(Kernel::Debian61, 2, 1)
    };
    boots_without_vcpus(&machine, "GICv3");
}

#[test]
fn with_an_unknown_option_linux_boots_bare() {
    let machine = Machine {
        config: "colour=blue".to_owned(),
        ..machine(Kernel::Debian612, 2, 1)
    };
    boots_without_vcpus(&machine, "colour");
}

#[test]
fn with_no_cp_core_left_linux_boots_bare() {
    let machine = Machine {
        dp: "0-1".parse().unwrap(),
        ..machine(Kernel::Debian612, 2, 1)
    };
    boots_without_vcpus(&machine, "must stay a CP core");
}

/// Boots something that can't end by itself; gives the console.
fn console(kernel: Kernel) -> String {
    let machine = Machine {
        timeout: Duration::from_secs(15),
        ..machine(kernel, 2, 1)
    };
    guest::boot(&machine).unwrap().console
}

#[test]
fn what_is_no_image_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernel");
    fs::write(&path, vec![0x55; 1 << 20]).unwrap();
    let console = console(Kernel::File(path));
    assert!(console.contains("taichi: the kernel: "), "{console}");
    assert!(console.contains("halted"), "{console}");
}

#[test]
fn without_a_kernel_the_firmware_says_so() {
    let console = console(Kernel::None);
    assert!(console.contains("taichi: no kernel"), "{console}");
    assert!(console.contains("halted"), "{console}");
}

fn bare(kernel: Kernel) -> Machine {
    Machine {
        programs: false,
        bare: true,
        ..machine(kernel, 1, 0)
    }
}

#[test]
fn a_command_gives_its_output_and_status() {
    let script = "echo out; echo err >&2; exit 42";
    let outcome = sh(&bare(Kernel::Debian612), script);
    assert_eq!(outcome.ending, Ending::Exit(42));
    assert_eq!(outcome.text(), "out\n");
    assert_eq!(outcome.stderr, b"err\n");
}

#[test]
fn a_guest_that_died_is_told_from_one_that_is_slow() {
    let died = sh(&bare(Kernel::Debian61), "echo c >/proc/sysrq-trigger");
    assert_eq!(died.ending, Ending::Died);
    let panic = "sysrq triggered crash";
    assert!(died.tail().contains(panic), "{}", died.tail());
    let slow = Machine {
        timeout: Duration::from_secs(15),
        ..bare(Kernel::Debian61)
    };
    assert_eq!(sh(&slow, "sleep 1000").ending, Ending::TimedOut);
}
