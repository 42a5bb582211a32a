// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `taichi lab`: guests in QEMU.

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Boot guests in the lab.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_args: Args) -> Result<ExitCode> {
    bail!("the lab is not built yet")
}
