// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `taichi bench`: a view over [`taichi_lab::bench`].

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use taichi_lab::bench::{micro, record, table};

/// Measure the firmware, exactly.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Count the instructions of the firmware's paths, beside the last
    /// recorded run and the kernel's own KVM on the same machine.
    Micro {
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
        /// Make this run the recorded one, in the source tree.
        #[arg(long)]
        record: bool,
        /// Leave KVM out.
        #[arg(long)]
        no_peer: bool,
        /// Fail where a path takes more instructions than recorded.
        #[arg(long)]
        check: bool,
    },
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<ExitCode> {
    let Command::Micro {
        json,
        record: new,
        no_peer,
        check,
    } = args.command;
    let recorded = record::read()?;
    let run = micro::run(!no_peer)?;
    if json {
        println!("{:#}", table::json(&run, &recorded.counts));
    } else {
        print!("{}", table::text(&run, &recorded.counts));
    }
    if new {
        record::write(&run)?;
    }
    let worse = if check {
        record::worse(&recorded.counts, &run.ours)
    } else {
        Vec::new()
    };
    for (name, before, now) in &worse {
        eprintln!("taichi: {name}: {now} instructions, recorded {before}");
    }
    Ok(ExitCode::from(u8::from(!worse.is_empty())))
}
