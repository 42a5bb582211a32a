// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Takes a CPU offline and brings it back, many times, through sysfs, and
//! checks each time that Linux and the CPU agree about it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use taichi_guest::cpus::{self, Cpus};
use taichi_guest::options::{self, Options};
use taichi_guest::report::Hotplug;
use taichi_guest::spin::spin;
use taichi_guest::time::{CoreTime, ticks};

const HELP: &str = "\
Takes a CPU offline and brings it back, many times.

Usage: hotplug --cpu N [--rounds N]

--cpu N         the CPU
--rounds N      how often [default: 200]

After each step the list of online CPUs must say so, a thread must (not) be
able to run there, and one that was there before must have moved. Exits with 1
on the first disagreement. Prints a report as JSON.
";

fn main() -> ExitCode {
    options::main("hotplug", HELP, run)
}

fn run(mut options: Options) -> Result<()> {
    let cpu: usize = options.required("--cpu")?;
    let rounds: u64 = options.value("--rounds", 200)?;
    options.finish()?;

    let switch = PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/online"));
    ensure!(
        switch.exists(),
        "CPU {cpu} is not there or can't go offline: no {}",
        switch.display()
    );
    let all = Cpus::online()?;
    ensure!(
        all.contains(cpu),
        "CPU {cpu} is offline now; online are {all}"
    );

    let time = CoreTime::clock();
    let mut report = Hotplug {
        cpu,
        ..Hotplug::default()
    };
    for round in 1..=rounds {
        let step = || format!("round {round} of {rounds}");
        let ns = offline(cpu, &switch, time).with_context(step)?;
        report.worst_offline_ns = report.worst_offline_ns.max(ns);
        let ns = online(cpu, &switch, &all, time).with_context(step)?;
        report.worst_online_ns = report.worst_online_ns.max(ns);
        report.rounds = round;
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// With this thread on the CPU, so that Linux has to move it.
fn offline(cpu: usize, switch: &Path, time: CoreTime) -> Result<u64> {
    Cpus::one(cpu).pin()?;
    let ns = write(switch, "0", time)?;
    let list = Cpus::online()?;
    ensure!(
        !list.contains(cpu),
        "CPU {cpu} went offline and is in the list: {list}"
    );
    let here = cpus::current();
    ensure!(
        here != cpu,
        "CPU {cpu} went offline and this thread still runs there"
    );
    ensure!(
        Cpus::one(cpu).pin().is_err(),
        "CPU {cpu} is offline and threads can be pinned to it"
    );
    Ok(ns)
}

fn online(cpu: usize, switch: &Path, all: &Cpus, time: CoreTime) -> Result<u64> {
    let ns = write(switch, "1", time)?;
    let list = Cpus::online()?;
    ensure!(
        list == *all,
        "CPU {cpu} came back and the list is {list}, not {all}"
    );
    Cpus::one(cpu).pin()?;
    spin(10_000);
    let here = cpus::current();
    ensure!(here == cpu, "pinned to CPU {cpu}, running on CPU {here}");
    Ok(ns)
}

/// Writes to the switch; returns how long Linux took, in ns.
fn write(switch: &Path, value: &str, time: CoreTime) -> Result<u64> {
    let before = ticks();
    fs::write(switch, value).with_context(|| format!("{value} to {}", switch.display()))?;
    Ok(time.ns(ticks() - before))
}
