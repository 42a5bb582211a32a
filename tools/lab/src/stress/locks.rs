// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Locks that are held while their holder loses its core: users of the test
//! driver on cores and vCPUs, while the data plane takes its cores back.

use anyhow::{Context, Result};
use taichi_guest::report::Sections;

use crate::driver;
use crate::guest::{self, Outcome, Streams};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::stress::health;

/// A SmartNIC of four cores (0 for the CP, 1 the accelerator, 2 and 3 for the
/// DP) and three vCPUs, with the test driver.
pub fn machine(kernel: Kernel) -> Machine {
    Machine {
        kernel,
        cores: 4,
        vcpus: 3,
        // The firmware leaves the accelerator's core alone, as it does DP cores.
        dp: "1-3".parse().expect("a constant list"),
        isolate: true,
        modules: vec![driver::NAME.to_owned()],
        ..Machine::default()
    }
}

/// The data plane of [`machine`], as `sections` takes it.
const DATA_PLANE: &str = "--dp 2-3 --accelerator 1";

/// Runs `sections` beside the data plane and gives its report.
///
/// # Errors
/// A lock let two in at once, a section was lost, or the kernel complained.
pub fn sections(machine: &Machine, options: &str) -> Result<Sections> {
    let outcome = run(machine, &format!("{DATA_PLANE} {options}"))?;
    outcome.success()?;
    health::check(&outcome)?;
    serde_json::from_str(&outcome.text()).context("the report of sections")
}

/// Runs `sections` with these options, whatever comes of it.
///
/// # Errors
/// It can't be run.
pub fn run(machine: &Machine, options: &str) -> Result<Outcome> {
    let words = ["sections"].into_iter().chain(options.split_whitespace());
    let command: Vec<_> = words.map(str::to_owned).collect();
    guest::run(machine, &command, Streams::Captured)
}
