// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stolen time: what Linux believes, and what the firmware counted.

use anyhow::{Context, Result, ensure};
use taichi_guest::report::{self, Stolen};

use super::scene::{Job, Scene};
use crate::guest::{self, Streams};
use crate::machine::Machine;

/// How far the two may lie apart, as a share of the firmware's count.
const SHARE: f64 = 0.02;
/// Virtual seconds of a round of the scene.
const SECONDS: f64 = 3.0;
/// The step of /proc/stat, to which it rounds.
const STEP_NS: u64 = 10_000_000;

/// Keeps all CPUs of `machine` busy for so many seconds and compares every
/// CPU's stolen time. Gives the report.
///
/// # Errors
/// If they lie apart, or if vCPUs lost nothing: then nothing was compared.
pub fn stolen(machine: &Machine, seconds: f64) -> Result<report::Steal> {
    let command = ["steal", "--seconds", &seconds.to_string()].map(String::from);
    let outcome = guest::run(machine, &command, Streams::Captured)?;
    outcome.success()?;
    let report: report::Steal = serde_json::from_str(&outcome.text()).context("steal's report")?;
    for (cpu, count) in report.cpus.iter().enumerate() {
        ensure!(
            agree(*count),
            "CPU {cpu}: Linux believes in {} ns of stolen time, the firmware counted {}: {report:?}",
            count.linux_ns,
            count.firmware_ns
        );
    }
    let vcpus = report.cpus.iter().skip(machine.cores as usize);
    for (vcpu, count) in vcpus.enumerate() {
        // Busy cores leave it a quarter of a core's time at most.
        ensure!(
            count.firmware_ns > report.elapsed_ns / 2,
            "vCPU {vcpu} lost only {} ns: the machine was not busy",
            count.firmware_ns
        );
    }
    Ok(report)
}

fn agree(count: Stolen) -> bool {
    let apart = count.linux_ns.abs_diff(count.firmware_ns);
    apart as f64 <= SHARE * count.firmware_ns as f64 + STEP_NS as f64
}

/// The scene.
#[derive(Clone, Copy, Debug)]
pub struct Steal;

impl Scene for Steal {
    fn name(&self) -> &'static str {
        "steal"
    }

    fn about(&self) -> &'static str {
        "all CPUs compute, and Linux's stolen time is what the firmware counted, within 2%"
    }

    fn run(&self, job: &mut Job) -> Result<()> {
        let machine = Machine {
            measured: true,
            ..job.machine.clone()
        };
        job.repeat(|_, _| stolen(&machine, SECONDS).map(|_| 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_percent_are_the_bound() {
        let count = |linux_ms: u64, firmware_ms: u64| Stolen {
            linux_ns: linux_ms * 1_000_000,
            firmware_ns: firmware_ms * 1_000_000,
        };
        assert!(agree(count(0, 0)) && agree(count(10, 5)) && agree(count(1960, 2000)));
        assert!(!agree(count(1940, 2000)) && !agree(count(0, 20)) && !agree(count(20, 0)));
    }
}
