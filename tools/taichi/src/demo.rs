// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `taichi demo`: a view over [`taichi_lab::demo`].

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use taichi_lab::demo::{self, Settings, page};
use taichi_lab::{Kernel, machine};

/// Compare a static partition with lent cores, as a table and a report.
#[derive(clap::Args)]
pub struct Args {
    /// One of Debian's kernels, or the file of an arm64 Image.
    #[arg(long, default_value = "6.1", value_name = Kernel::USAGE)]
    kernel: Kernel,
    /// The longest a core runs before the others have their turn, in virtual
    /// microseconds: smaller is more exact and slower.
    #[arg(long, default_value_t = machine::TICK, value_name = "US")]
    tick: u32,
    /// vCPUs of ours.
    #[arg(long, default_value_t = 4, value_name = "M")]
    vcpus: u32,
    /// Share of a DP core's time that packets need.
    #[arg(long, default_value_t = 0.3, value_name = "SHARE")]
    load: f64,
    /// Concurrent CP tasks.
    #[arg(long, default_value_t = 32, value_name = "N")]
    tasks: u32,
    /// Rounds of work of each CP task.
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: u32,
    /// Of the packets' arrivals.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Where the report is written.
    #[arg(long, default_value = "taichi-demo.html", value_name = "FILE")]
    report: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<ExitCode> {
    ensure!(
        (1..=16).contains(&args.vcpus),
        "--vcpus {}: 1 to 16",
        args.vcpus
    );
    ensure!(
        args.load > 0.0 && args.load < 1.0,
        "--load {}: between 0 and 1",
        args.load
    );
    ensure!(
        args.tasks > 0 && args.rounds > 0,
        "--tasks and --rounds: at least 1"
    );
    let settings = Settings {
        kernel: args.kernel,
        tick: args.tick,
        vcpus: args.vcpus,
        load: args.load,
        tasks: args.tasks,
        rounds: args.rounds,
        seed: args.seed,
    };
    let comparison = demo::run(&settings)?;
    print!("{comparison}");
    let path = args.report;
    std::fs::write(&path, page::html(&comparison)?)
        .with_context(|| format!("writing {}", path.display()))?;
    eprintln!("taichi: the report with plots is {}", path.display());
    Ok(ExitCode::SUCCESS)
}
