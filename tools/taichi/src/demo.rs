// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `taichi demo`: a view over [`taichi_lab::demo`].

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Compare a static partition with lent cores, as a table and a report.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<ExitCode> {
    bail!("the demo is not built yet")
}
