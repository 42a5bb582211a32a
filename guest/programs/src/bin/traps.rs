// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Counts how often EL2 is entered, by cause, while others do what they do.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use taichi_abi::telemetry::{Core, Page};
use taichi_dataplane::Telemetry;
use taichi_guest::options::{self, Options};
use taichi_guest::report::Traps;
use taichi_guest::time::{CoreTime, ticks};

const HELP: &str = "\
Counts entries to EL2 by cause, on all cores together.

Usage: traps [--settle N] [--seconds N]

--settle N      seconds to wait before [default: 0.5]
--seconds N     how long [default: 10]

Prints a report as JSON.
";

fn main() -> ExitCode {
    options::main("traps", HELP, run)
}

fn run(mut options: Options) -> Result<()> {
    let settle: f64 = options.value("--settle", 0.5)?;
    let seconds: f64 = options.value("--seconds", 10.0)?;
    options.finish()?;
    let telemetry = Telemetry::open()?.context("the firmware isn't there")?;
    thread::sleep(Duration::from_secs_f64(settle));
    let (start, before) = (ticks(), look(&telemetry));
    thread::sleep(Duration::from_secs_f64(seconds));
    let (end, after) = (ticks(), look(&telemetry));
    let causes = after.into_iter().map(|(cause, count)| {
        let count = count - before.get(&cause).copied().unwrap_or(0);
        (cause, count)
    });
    let report = Traps {
        elapsed_ns: CoreTime::clock().ns(end - start),
        causes: causes.collect(),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// All counts since the start of the machine.
fn look(telemetry: &Telemetry) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for core in telemetry.cores() {
        for (cause, count) in causes(&core) {
            *sums.entry(cause.to_owned()).or_default() += count;
        }
    }
    sums
}

/// A core's entries. What `traps` holds beyond those with a cause of their own is
/// WFI, the first use of floating point, and HVC.
fn causes(core: &Core) -> Vec<(&'static str, u64)> {
    const PAGES: [(&str, Page); 5] = [
        ("window", Page::Window),
        ("redistributor", Page::Redistributor),
        ("router", Page::Router),
        ("private", Page::Private),
        ("nothing", Page::Nothing),
    ];
    let mut causes: Vec<_> = PAGES
        .iter()
        .map(|&(name, page)| (name, core.accesses[page as usize].load(Relaxed)))
        .collect();
    causes.push(("registers", core.registers.load(Relaxed)));
    causes.push(("calls", core.calls.load(Relaxed)));
    let known: u64 = causes.iter().map(|(_, count)| count).sum();
    let traps = core.traps.load(Relaxed);
    causes.push(("wfi and float", traps.saturating_sub(known)));
    causes.push(("sgis", core.sgis.load(Relaxed)));
    causes.push(("interrupts", core.interrupts.load(Relaxed)));
    causes
}
