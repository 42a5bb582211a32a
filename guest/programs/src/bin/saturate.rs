// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Work on every CPU at once, a thread each: does each CPU go on?

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use taichi_guest::cpus::Cpus;
use taichi_guest::options::{self, Options};
use taichi_guest::report::Saturate;
use taichi_guest::spin::spin;
use taichi_guest::stat;
use taichi_guest::time::{CoreTime, ticks};

const HELP: &str = "\
Keeps every online CPU busy with a thread of its own, and counts what each does.

Usage: saturate [--dp LIST] [--seconds N]

--dp LIST       CPUs that only compute, as a poller that never yields
                [default: none]; the others also enter the kernel, for a pipe
                of their own
--seconds N     how long [default: 10]

Prints a report as JSON: units of work by CPU, the longest that one took, and what
Linux counted as work of each CPU (in steps of 10 ms).
";
/// Instructions of a unit's computing. The calls of CP cores come on top: a few
/// thousand. They take no lock that two CPUs share.
const UNIT: u64 = 100_000;

fn main() -> ExitCode {
    options::main("saturate", HELP, run)
}

fn run(mut options: Options) -> Result<()> {
    let dp: Cpus = options.value("--dp", Cpus::default())?;
    let seconds: f64 = options.value("--seconds", 10.0)?;
    options.finish()?;
    let online = Cpus::online()?;
    ensure!(
        dp.as_slice().iter().all(|&cpu| online.contains(cpu)),
        "--dp {dp}: online are {online}"
    );
    let time = std::time::Duration::try_from_secs_f64(seconds).context("--seconds")?;
    let over = AtomicBool::new(false);
    let mut report = Saturate::default();
    thread::scope(|scope| {
        let workers: Vec<_> = online
            .as_slice()
            .iter()
            .map(|&cpu| {
                let (over, polls) = (&over, dp.contains(cpu));
                (cpu, scope.spawn(move || work(cpu, polls, over)))
            })
            .collect();
        let (start, before) = (ticks(), stat::read()?);
        thread::sleep(time);
        let (end, after) = (ticks(), stat::read()?);
        over.store(true, Relaxed);
        report.elapsed_ns = CoreTime::clock().ns(end - start);
        for (cpu, time) in after {
            let busy_ns = time.busy_ns - before.get(&cpu).map_or(0, |then| then.busy_ns);
            report.busy_ns_by_cpu.insert(cpu, busy_ns);
        }
        for (cpu, worker) in workers {
            let (units, longest_ns) = worker
                .join()
                .map_err(|_| anyhow!("CPU {cpu}'s thread panicked"))?
                .with_context(|| format!("on CPU {cpu}"))?;
            report.units_by_cpu.insert(cpu, units);
            report.longest_ns_by_cpu.insert(cpu, longest_ns);
        }
        anyhow::Ok(())
    })?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Units done on `cpu`, and the longest that one took, in ns.
fn work(cpu: usize, polls: bool, over: &AtomicBool) -> Result<(u64, u64)> {
    Cpus::one(cpu).pin()?;
    let clock = CoreTime::clock();
    let (mut reader, mut writer) = std::io::pipe().context("a pipe")?;
    let (mut units, mut longest) = (0, 0);
    let mut before = ticks();
    while !over.load(Relaxed) {
        spin(UNIT);
        if !polls {
            writer.write_all(&[1]).context("writing to a pipe")?;
            reader.read_exact(&mut [0]).context("reading a pipe")?;
        }
        let now = ticks();
        longest = longest.max(now - before);
        before = now;
        units += 1;
    }
    Ok((units, clock.ns(longest)))
}
