// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `taichi`: thin views over the libraries of this workspace.
//!
//! One file per subcommand; each has an `Args` for clap and a
//! `run(args) -> anyhow::Result<ExitCode>`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod demo;
mod lab;

/// An unmodified Linux on real and virtual CPUs.
#[derive(Parser)]
#[command(name = "taichi", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Lab(Box<lab::Args>),
    Demo(demo::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Lab(args) => lab::run(*args),
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("taichi: {error:#}");
        ExitCode::from(125)
    })
}
