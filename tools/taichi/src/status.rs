// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `taichi status` and `taichi park`: for the operator of a machine that runs
//! the firmware, a view over [`taichi_inspect`].

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use taichi_dataplane::{Control, Telemetry};
use taichi_inspect::{Snapshot, Status};

/// What there is without the firmware.
const NO_FIRMWARE: &str = "the firmware isn't there: Linux's device tree has no /taichi node \
                           (the console tells at boot why the firmware gave up)";

/// Show what cores and vCPUs do, and how the firmware fares.
#[derive(clap::Args)]
pub struct Args {
    /// How long to watch.
    #[arg(long, default_value_t = 1.0, value_name = "N")]
    seconds: f64,
    /// A copy of the telemetry window, instead of this machine's; all times are
    /// since its start then.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// Keep DP cores for their own Linux, or lend them again.
#[derive(clap::Args)]
pub struct Park {
    /// on: vCPUs run on CP cores alone; off: DP cores are lent when they idle.
    #[arg(value_parser = ["on", "off"])]
    to: String,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let status = match &args.file {
        Some(path) => Status::since_start(Snapshot::take(&Telemetry::open_copy(path)?, false)),
        None => watch(args.seconds)?,
    };
    print!("{status}");
    Ok(ExitCode::SUCCESS)
}

fn watch(seconds: f64) -> Result<Status> {
    ensure!(
        seconds > 0.0 && seconds < 1e6,
        "--seconds {seconds}: more than 0, and less than a million"
    );
    let telemetry = Telemetry::open()?.context(NO_FIRMWARE)?;
    let before = Snapshot::take(&telemetry, true);
    thread::sleep(Duration::from_secs_f64(seconds));
    Ok(Status::between(&before, Snapshot::take(&telemetry, true)))
}

pub fn park(args: Park) -> Result<ExitCode> {
    Control::open()?.context(NO_FIRMWARE)?.park(args.to == "on");
    Ok(ExitCode::SUCCESS)
}
