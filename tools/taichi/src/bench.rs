// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `taichi bench`: a view over [`taichi_lab::bench`].

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Measure the firmware, exactly.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<ExitCode> {
    bail!("the benchmarks are not built yet")
}
