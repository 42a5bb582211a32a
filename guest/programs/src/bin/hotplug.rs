// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Takes CPUs offline and brings them back, many times, through sysfs, and
//! checks each time that Linux and the CPU agree about it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use taichi_guest::cpus::{self, Cpus};
use taichi_guest::options::{self, Options};
use taichi_guest::report::Hotplug;
use taichi_guest::spin::spin;
use taichi_guest::time::{CoreTime, ticks};

const HELP: &str = "\
Takes a CPU, or one after the other, offline and brings it back, many times.

Usage: hotplug (--cpu N | --random [--seed N]) [--rounds N] [--seconds N]

--cpu N         the CPU
--random        any CPU but CPU 0; up to half of them are offline at a time
--seed N        of the choices [default: 1]
--rounds N      how often [default: 200]
--seconds N     but not longer [default: no bound]

After each step the list of online CPUs must say so, a thread must (not) be
able to run there, and one that was there before must have moved. Exits with 1
on the first disagreement. Prints a report as JSON.
";

fn main() -> ExitCode {
    options::main("hotplug", HELP, run)
}

fn run(mut options: Options) -> Result<()> {
    let cpu: Option<usize> = options.optional("--cpu")?;
    let random = options.flag("--random");
    let seed: u64 = options.value("--seed", 1)?;
    let rounds: u64 = options.value("--rounds", 200)?;
    let seconds: Option<u64> = options.optional("--seconds")?;
    options.finish()?;

    let time = CoreTime::clock();
    let bound = Bound {
        rounds,
        end: seconds.map(|s| Instant::now() + Duration::from_secs(s)),
    };
    let report = match cpu {
        Some(cpu) if !random => one(cpu, &bound, time)?,
        None if random => any(seed, &bound, time)?,
        _ => bail!("either --cpu or --random; see --help"),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// When there is enough.
struct Bound {
    rounds: u64,
    end: Option<Instant>,
}

impl Bound {
    /// Whether there is after so many rounds.
    fn reached(&self, rounds: u64) -> bool {
        rounds >= self.rounds || self.end.is_some_and(|end| Instant::now() > end)
    }
}

/// Where a CPU is switched.
fn switch_of(cpu: usize) -> Result<PathBuf> {
    let switch = PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/online"));
    ensure!(
        switch.exists(),
        "CPU {cpu} is not there or can't go offline: no {}",
        switch.display()
    );
    Ok(switch)
}

/// One CPU, again and again.
fn one(cpu: usize, bound: &Bound, time: CoreTime) -> Result<Hotplug> {
    let switch = switch_of(cpu)?;
    let all = Cpus::online()?;
    ensure!(
        all.contains(cpu),
        "CPU {cpu} is offline now; online are {all}"
    );
    let mut report = Hotplug {
        cpu: Some(cpu),
        ..Hotplug::default()
    };
    while !bound.reached(report.rounds) {
        let round = report.rounds + 1;
        let step = || format!("round {round} of {}", bound.rounds);
        let ns = offline(cpu, &switch, time).with_context(step)?;
        report.worst_offline_ns = report.worst_offline_ns.max(ns);
        let ns = online(cpu, &switch, &all, time).with_context(step)?;
        report.worst_online_ns = report.worst_online_ns.max(ns);
        report.rounds = round;
    }
    Ok(report)
}

/// Any CPUs but CPU 0. A round ends when a CPU is back.
fn any(seed: u64, bound: &Bound, time: CoreTime) -> Result<Hotplug> {
    let all = Cpus::online()?;
    let cpus: Vec<usize> = all.as_slice().iter().copied().filter(|&c| c != 0).collect();
    ensure!(!cpus.is_empty(), "there is only CPU 0");
    let switches = cpus.iter().map(|&c| switch_of(c));
    let switches = switches.collect::<Result<Vec<_>>>()?;
    let mut choose = fastrand::Rng::with_seed(seed);
    let mut away = Vec::new();
    let mut report = Hotplug::default();
    while !bound.reached(report.rounds) || !away.is_empty() {
        let over = bound.reached(report.rounds + away.len() as u64);
        let enough = over || away.len() > cpus.len() / 2;
        let back = !away.is_empty() && (enough || choose.bool());
        let n = if back {
            away.swap_remove(choose.usize(..away.len()))
        } else {
            choose.usize(..cpus.len())
        };
        let cpu = cpus[n];
        let step = || format!("CPU {cpu} in round {}", report.rounds + 1);
        if back {
            let online_then: Cpus = all
                .as_slice()
                .iter()
                .filter(|c| !away.iter().any(|&n| cpus[n] == **c))
                .copied()
                .collect();
            let ns = online(cpu, &switches[n], &online_then, time).with_context(step)?;
            report.worst_online_ns = report.worst_online_ns.max(ns);
            report.rounds += 1;
        } else if !away.contains(&n) {
            let ns = offline(cpu, &switches[n], time).with_context(step)?;
            report.worst_offline_ns = report.worst_offline_ns.max(ns);
            away.push(n);
        }
    }
    Ok(report)
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
