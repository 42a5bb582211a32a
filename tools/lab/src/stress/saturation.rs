// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DP cores that never yield, and vCPUs that are all busy: there is nothing to
//! harvest, vCPUs have only what they take from CP cores by force, and Linux on the
//! CP cores goes on all the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use taichi_guest::report::Saturate;

use super::health::WARNINGS;
use super::scene::{self, Job, Scene};
use crate::guest::Outcome;
use crate::machine::Machine;

/// What a machine takes to come up and go, in real time.
const BOOT: Duration = Duration::from_secs(12);
/// Runs the guest's program `saturate` for so many seconds on `machine`, whose DP
/// cores Linux keeps free, and checks that all CPUs went on. Gives its report.
///
/// # Errors
/// Which CPU didn't.
pub fn saturate(machine: &Machine, seconds: f64) -> Result<(Saturate, Outcome)> {
    let script = format!(
        "saturate --dp {} --seconds {seconds} && {WARNINGS}",
        machine.dp
    );
    let outcome = scene::sh(machine, &script)?;
    let report: Saturate = serde_json::from_str(&outcome.text()).context("saturate's report")?;
    check(&report, machine.cores as usize, machine.dp.numbers())?;
    Ok((report, outcome))
}

/// Whether every CPU did something, and each CP core worked for the share that it
/// would have if all CPUs that don't poll shared the CP cores as equals. (Forced
/// turns leave it more: 58% and 68% of 6 + 8's two, where 20% are fair.)
fn check(report: &Saturate, cores: usize, dp: &[u32]) -> Result<()> {
    let idle = report.units_by_cpu.iter().find(|(_, units)| **units == 0);
    ensure!(idle.is_none(), "a CPU did nothing: {report:?}");
    let is_cp = |cpu: usize| cpu < cores && dp.iter().all(|&d| d as usize != cpu);
    let others = report.units_by_cpu.len() - dp.len();
    let fair = (cores - dp.len()) as f64 / others as f64;
    let least = fair * report.elapsed_ns as f64;
    for (cpu, busy_ns) in &report.busy_ns_by_cpu {
        ensure!(
            !is_cp(*cpu) || *busy_ns as f64 >= least,
            "CP core {cpu} worked for {busy_ns} ns of {}: {report:?}",
            report.elapsed_ns
        );
    }
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
        let machine = Machine {
            isolate: true,
            ..job.machine.clone()
        };
        let (report, outcome) = saturate(&machine, job.seconds(BOOT) as f64)?;
        job.rounds = report.units_by_cpu.values().sum();
        job.well(&machine, &outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cp_cores_that_starve_are_found() {
        // CPUs 0 and 1 are CP cores, 2 a DP core, 3 a vCPU: two thirds are fair.
        let report = |busy: [u64; 4], units: u64| Saturate {
            units_by_cpu: (0..4).map(|cpu| (cpu, units)).collect(),
            busy_ns_by_cpu: busy.into_iter().enumerate().collect(),
            elapsed_ns: 100,
            ..Saturate::default()
        };
        check(&report([90, 70, 0, 0], 1), 3, &[2]).unwrap();
        assert!(check(&report([90, 60, 100, 100], 1), 3, &[2]).is_err());
        assert!(check(&report([90, 70, 100, 30], 0), 3, &[2]).is_err());
    }
}
