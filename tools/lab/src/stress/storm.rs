// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Threads that migrate over all CPUs, map, unmap, start programs and compute,
//! and check every bit.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use taichi_guest::report;

use super::health::WARNINGS;
use super::scene::{self, Job, Scene};

/// What a machine takes to come up and go, in real time.
const BOOT: Duration = Duration::from_secs(10);

/// The scene.
#[derive(Clone, Copy, Debug)]
pub struct Storm;

impl Scene for Storm {
    fn name(&self) -> &'static str {
        "storm"
    }

    fn about(&self) -> &'static str {
        "threads migrate over all CPUs and check registers, memory, pipes and programs"
    }

    fn run(&self, job: &mut Job) -> Result<()> {
        let machine = job.machine.clone();
        let script = format!(
            "storm --seconds {} --seed {} && {WARNINGS}",
            job.seconds(BOOT),
            job.seed
        );
        let outcome = scene::sh(&machine, &script)?;
        let report: report::Storm =
            serde_json::from_str(&outcome.text()).context("storm's report")?;
        job.rounds = report.rounds_by_cpu.values().sum();
        let cpus = (machine.cores + machine.vcpus) as usize;
        ensure!(
            report.rounds_by_cpu.len() == cpus,
            "rounds ended on {} of {cpus} CPUs: {report:?}",
            report.rounds_by_cpu.len()
        );
        job.well(&machine, &outcome)
    }
}
