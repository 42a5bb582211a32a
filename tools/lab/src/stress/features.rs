// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a vCPU offers is what a core offers: vectors, keys and debug registers of
//! threads that move between them, in deterministic time.

use anyhow::{Context, Result, ensure};
use taichi_guest::report;

use super::health::{self, WARNINGS};
use super::scene::{self, Job, Scene};
use crate::guest::Outcome;
use crate::machine::Machine;

/// What Linux says of its CPUs at any level, which must not be said.
const COMPLAINTS: [&str; 3] = [
    "SANITY CHECK",
    "Unsupported CPU feature",
    "variation detected",
];
/// Rounds of each check in a run.
const ROUNDS: u64 = 30;

/// Boots `machine` in deterministic time and runs each check of the guest's
/// program `features` for `rounds`, on all CPUs. Gives its report.
///
/// # Errors
/// What was wrong.
pub fn check(machine: &Machine, rounds: u64, seed: u64) -> Result<(report::Features, Outcome)> {
    let script = format!(
        "cat /sys/devices/system/cpu/online && \
         storm --seconds 0.1 --programs 8 >/dev/null && \
         features --rounds {rounds} --seed {seed} && {WARNINGS}"
    );
    let outcome = scene::sh(machine, &script)?;
    let text = outcome.text();
    let (online, report) = text.split_once('\n').context("features printed nothing")?;
    let cpus = machine.cores + machine.vcpus;
    ensure!(online == format!("0-{}", cpus - 1), "CPUs {online}");
    health::check(&outcome)?;
    for complaint in COMPLAINTS {
        ensure!(
            !outcome.console.contains(complaint),
            "Linux says \"{complaint}\"\n{}",
            outcome.console
        );
    }
    let report: report::Features = serde_json::from_str(report).context("features' report")?;
    ensure!(
        report.checks.values().all(|&n| n >= rounds),
        "checks ended before {rounds} rounds: {report:?}"
    );
    ensure!(
        report.rounds_by_cpu.len() == cpus as usize,
        "rounds ended on {} of {cpus} CPUs: {report:?}",
        report.rounds_by_cpu.len()
    );
    Ok((report, outcome))
}

/// The scene.
#[derive(Clone, Copy, Debug)]
pub struct Features;

impl Scene for Features {
    fn name(&self) -> &'static str {
        "features"
    }

    fn about(&self) -> &'static str {
        "SVE, pointer authentication, breakpoints, watchpoints and steps in threads that move"
    }

    fn run(&self, job: &mut Job) -> Result<()> {
        let machine = Machine {
            measured: true,
            spin: false,
            ..job.machine.clone()
        };
        job.repeat(|job, seed| {
            let (report, outcome) = check(&machine, ROUNDS, seed)?;
            job.well(&machine, &outcome)?;
            Ok(report.checks.values().sum())
        })
    }
}
