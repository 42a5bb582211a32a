// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keeps CPUs busy and compares the time that Linux believes was stolen from
//! each with what the firmware counted.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use anyhow::{Context, Result};
use taichi_dataplane::Telemetry;
use taichi_guest::cpus::Cpus;
use taichi_guest::options::{self, Options};
use taichi_guest::report::{Steal, Stolen};
use taichi_guest::spin::spin;
use taichi_guest::stat;
use taichi_guest::time::{CoreTime, ticks};

const HELP: &str = "\
Computes on CPUs and compares the stolen time of /proc/stat with telemetry's.

Usage: steal [--busy LIST] [--seconds N]

--busy LIST     CPUs to keep busy, a thread each [default: all]
--seconds N     how long [default: 10]

Prints a report as JSON. /proc/stat counts in steps of 10 ms.
";
/// Between two looks at the flag that ends a thread.
const STEP: u64 = 10_000;

fn main() -> ExitCode {
    options::main("steal", HELP, run)
}

fn run(mut options: Options) -> Result<()> {
    let busy: Option<Cpus> = options.optional("--busy")?;
    let seconds: f64 = options.value("--seconds", 10.0)?;
    options.finish()?;
    let telemetry = Telemetry::open()?.context("the firmware isn't there")?;
    let busy = match busy {
        Some(busy) => busy,
        None => Cpus::online()?,
    };
    let time = CoreTime::clock();
    let over = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        for &cpu in busy.as_slice() {
            let over = &over;
            scope.spawn(move || compute(cpu, over));
        }
        let report = measure(&telemetry, time, seconds);
        over.store(true, Relaxed);
        report
    })?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn compute(cpu: usize, over: &AtomicBool) {
    if let Err(error) = Cpus::one(cpu).pin() {
        eprintln!("steal: {error:#}");
    }
    while !over.load(Relaxed) {
        spin(STEP);
    }
}

/// Once the threads have settled: what both count in `seconds`.
fn measure(telemetry: &Telemetry, time: CoreTime, seconds: f64) -> Result<Steal> {
    let sleep = |seconds| thread::sleep(std::time::Duration::from_secs_f64(seconds));
    sleep(0.1);
    let (start, before) = (ticks(), look(telemetry, time)?);
    sleep(seconds);
    let (end, after) = (ticks(), look(telemetry, time)?);
    let cpus = after.iter().zip(&before).map(|(after, before)| Stolen {
        linux_ns: after.linux_ns - before.linux_ns,
        firmware_ns: after.firmware_ns - before.firmware_ns,
    });
    Ok(Steal {
        elapsed_ns: time.ns(end - start),
        cpus: cpus.collect(),
    })
}

/// Both counts since the start of the machine.
fn look(telemetry: &Telemetry, time: CoreTime) -> Result<Vec<Stolen>> {
    let linux = stat::read()?;
    let cores = telemetry.cores().into_iter().map(|c| c.stolen_ticks);
    let vcpus = telemetry.vcpus().into_iter().map(|v| v.steal_ticks);
    let counts = cores.chain(vcpus).enumerate();
    counts
        .map(|(cpu, ticks)| {
            let linux_ns = linux.get(&cpu).map(|time| time.stolen_ns);
            Ok(Stolen {
                linux_ns: linux_ns.with_context(|| format!("no CPU {cpu} in /proc/stat"))?,
                firmware_ns: time.ns(ticks.into_inner()),
            })
        })
        .collect()
}
