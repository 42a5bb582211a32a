// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `taichi`: thin views over the libraries of this workspace.
//!
//! One file per subcommand; each has an `Args` for clap and a
//! `run(args) -> anyhow::Result<ExitCode>`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(feature = "lab")]
mod bench;
#[cfg(feature = "lab")]
mod demo;
#[cfg(feature = "lab")]
mod lab;
mod status;

/// An unmodified Linux on real and virtual CPUs.
#[derive(Parser)]
#[command(name = "taichi", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "lab")]
    Lab(Box<lab::Args>),
    #[cfg(feature = "lab")]
    Demo(demo::Args),
    #[cfg(feature = "lab")]
    Bench(bench::Args),
    Status(status::Args),
    Park(status::Park),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        #[cfg(feature = "lab")]
        Command::Lab(args) => lab::run(*args),
        #[cfg(feature = "lab")]
        Command::Demo(args) => demo::run(args),
        #[cfg(feature = "lab")]
        Command::Bench(args) => bench::run(args),
        Command::Status(args) => status::run(args),
        Command::Park(args) => status::park(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("taichi: {error:#}");
        ExitCode::from(125)
    })
}
