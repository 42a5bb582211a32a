// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The programs themselves, on the host: without the firmware they must work
//! and never yield.

use std::process::{Command, Output};

use serde::de::DeserializeOwned;
use taichi_guest::cpus::Cpus;
use taichi_guest::report::{CpWork, Latencies, SmartNic, Storm};

fn run(program: &str, args: &str) -> Output {
    Command::new(program)
        .args(args.split_whitespace())
        .output()
        .unwrap()
}

fn report<T: DeserializeOwned>(output: &Output) -> T {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn smartnic_delivers_every_packet_once_and_in_order() {
    let cpus = Cpus::online().unwrap();
    let (first, last) = (cpus.as_slice()[0], cpus.as_slice().last().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().display();
    let nic: SmartNic = report(&run(
        env!("CARGO_BIN_EXE_smartnic"),
        &format!(
            "--dp {first} --accelerator {last} --cp {cpus} --load 0.05 --service 10000 \
             --tasks 4 --rounds 4 --compute 100000 --dir {dir} --rings {dir}/rings"
        ),
    ));
    assert!(!nic.firmware);
    let [forwarder] = nic.forwarders.as_slice() else {
        panic!("one DP core")
    };
    let made = &nic.accelerator;
    assert!(
        made.packets > 0 && made.packets + made.dropped == made.bursts * 16,
        "{made:?}"
    );
    assert_eq!((forwarder.packets, forwarder.disorder), (made.packets, 0));
    assert_eq!(
        (forwarder.yields, forwarder.lent_ticks, made.probes_early),
        (0, 0, 0)
    );
    let latency = Latencies::merge([&forwarder.latency]).unwrap();
    assert_eq!(latency.len(), made.packets);
    assert!(
        nic.time().ns(latency.min()) >= 3_200,
        "preprocessing and DMA take time"
    );
    assert!(forwarder.idle_ticks > 0 && forwarder.idle_ticks < forwarder.total_ticks);
    assert_eq!(nic.cp.finished_ns.len(), 4);
}

#[test]
fn smartnic_ends_when_a_program_cannot_start() {
    let dir = tempfile::tempdir().unwrap();
    let absent = Cpus::online().unwrap().as_slice().last().unwrap() + 1;
    let output = run(
        env!("CARGO_BIN_EXE_smartnic"),
        &format!(
            "--dp 0 --accelerator {absent} --cp 0 --rings {}/rings",
            dir.path().display()
        ),
    );
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains(&format!("cannot run on CPUs {absent}")),
        "{text}"
    );
    assert!(text.contains("gave up"), "{text}");
}

#[test]
fn cpwork_counts_every_round_and_finds_the_last_end() {
    let dir = tempfile::tempdir().unwrap();
    let args = format!(
        "--tasks 3 --rounds 5 --compute 1000 --dir {}",
        dir.path().display()
    );
    let work: CpWork = report(&run(env!("CARGO_BIN_EXE_cpwork"), &args));
    assert_eq!(work.rounds_by_cpu.values().sum::<u64>(), 15);
    assert!(work.finished_ns.is_sorted() && work.finished_ns.len() == 3);
    assert!(*work.finished_ns.last().unwrap() <= work.completion_ns);
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 0, "tasks remove their files");
}

#[test]
fn cpwork_names_a_directory_that_is_not_there() {
    let output = run(env!("CARGO_BIN_EXE_cpwork"), "--tasks 1 --dir /nonexistent");
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("/nonexistent") && text.contains("a task failed"),
        "{text}"
    );
}

#[test]
fn storm_checks_everything_on_every_cpu() {
    let storm: Storm = report(&run(
        env!("CARGO_BIN_EXE_storm"),
        "--seconds 1 --programs 1",
    ));
    let cpus = Cpus::online().unwrap();
    let visited: Vec<usize> = storm.rounds_by_cpu.keys().copied().collect();
    assert_eq!(visited, cpus.as_slice());
    assert_eq!(storm.threads, (2 * cpus.len()).next_multiple_of(2));
    let names: Vec<&str> = storm.checks.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["floats", "integers", "memory", "partner", "programs"]
    );
    let rounds: u64 = storm.rounds_by_cpu.values().sum();
    assert!(
        storm.checks.values().all(|&count| count == rounds),
        "{storm:?}"
    );
}

#[test]
fn hotplug_refuses_a_cpu_that_is_not_there() {
    let output = run(env!("CARGO_BIN_EXE_hotplug"), "--cpu 9999");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("CPU 9999 is not there")
    );
}

#[test]
fn every_program_has_help_and_names_unknown_options() {
    for program in [
        env!("CARGO_BIN_EXE_accelerator"),
        env!("CARGO_BIN_EXE_cpwork"),
        env!("CARGO_BIN_EXE_forwarder"),
        env!("CARGO_BIN_EXE_hotplug"),
        env!("CARGO_BIN_EXE_sections"),
        env!("CARGO_BIN_EXE_smartnic"),
        env!("CARGO_BIN_EXE_storm"),
    ] {
        let help = run(program, "--help");
        assert!(
            help.status.success() && !help.stdout.is_empty(),
            "{program}"
        );
        let wrong = run(
            program,
            "--dp 0 --accelerator 0 --cp 0 --cpu 0 --cores 0 --rings /nonexistent --ring 0 --frob",
        );
        assert_eq!(wrong.status.code(), Some(1), "{program}");
        assert!(!wrong.stderr.is_empty(), "{program}");
    }
}
