// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DP cores that never yield, and vCPUs that are all busy: there is nothing to
//! harvest, vCPUs have only what they take from CP cores by force, and Linux on the
//! CP cores goes on all the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use taichi_guest::report::Saturate;

use super::health::WARNINGS;
use super::scene::{self, Job, Scene};
use crate::machine::Machine;

/// What a machine takes to come up and go, in real time.
const BOOT: Duration = Duration::from_secs(12);
/// vCPUs that are starved take CP cores by force, so that the two share them as
/// equals. A CP core must do at least this part of what that leaves of the work that
/// a DP core does in the same time; the rest is what switching costs.
const SHARE: f64 = 0.5;

/// Runs the guest's program `saturate` for so many seconds on `machine`, whose DP
/// cores Linux keeps free, and checks that all CPUs went on. Gives its report.
///
/// # Errors
/// Which CPU didn't.
pub fn saturate(job: &mut Job, seconds: u64) -> Result<Saturate> {
    let machine = Machine {
        isolate: true,
        ..job.machine.clone()
    };
    let script = format!(
        "saturate --dp {} --seconds {seconds} && {WARNINGS}",
        machine.dp
    );
    let outcome = scene::sh(&machine, &script)?;
    let report: Saturate = serde_json::from_str(&outcome.text()).context("saturate's report")?;
    job.rounds = report.units_by_cpu.values().sum();
    let cores = machine.cores as usize;
    check(&report, cores, machine.dp.numbers())?;
    job.well(&machine, &outcome)?;
    Ok(report)
}

/// Whether every CPU did something, and CP cores enough.
fn check(report: &Saturate, cores: usize, dp: &[u32]) -> Result<()> {
    let idle = report.units_by_cpu.iter().find(|(_, units)| **units == 0);
    ensure!(idle.is_none(), "a CPU did nothing: {report:?}");
    let is_dp = |cpu: usize| dp.iter().any(|&d| d as usize == cpu);
    let of = |wanted: bool| {
        let all = report.units_by_cpu.iter();
        all.filter(move |(cpu, _)| **cpu < cores && is_dp(**cpu) == wanted)
            .map(|(_, units)| *units)
    };
    let most = of(true).max().unwrap_or(0) as f64;
    let least = of(false).min().unwrap_or(0) as f64;
    let (cp, cpus) = (cores - dp.len(), report.units_by_cpu.len());
    let fair = cp as f64 / (cpus - dp.len()) as f64;
    ensure!(
        least >= SHARE * fair * most,
        "a CP core did {least} units, a DP core {most}: {report:?}"
    );
    Ok(())
}

/// The scene.
#[derive(Clone, Copy, Debug)]
pub struct Saturation;

impl Scene for Saturation {
    fn name(&self) -> &'static str {
        "saturation"
    }

    fn about(&self) -> &'static str {
        "DP cores never yield and all vCPUs are busy: no stall, and CP cores go on"
    }

    fn most(&self) -> Duration {
        Duration::from_secs(620)
    }

    fn run(&self, job: &mut Job) -> Result<()> {
        saturate(job, job.seconds(BOOT)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cp_cores_that_starve_are_found() {
        // CPUs 0 and 1 are CP cores, 2 a DP core, 3 a vCPU: two thirds are fair.
        let report = |units: [u64; 4]| Saturate {
            units_by_cpu: units.into_iter().enumerate().collect(),
            ..Saturate::default()
        };
        check(&report([90, 40, 100, 3]), 3, &[2]).unwrap();
        assert!(check(&report([90, 30, 100, 3]), 3, &[2]).is_err());
        assert!(check(&report([90, 80, 100, 0]), 3, &[2]).is_err());
    }
}
