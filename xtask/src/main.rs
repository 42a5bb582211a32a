// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask test`: everything that must hold before a change goes in; `cargo
//! xtask stress`: the same for long, on every machine. The work is in
//! [`taichi_lab::check`] and [`taichi_lab::stress`].
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::{env, time::Instant};

use anyhow::Result;
use taichi_lab::{check, stress::SCENES};

mod stress;

const HELP: &str = "\
Usage: cargo xtask test [--host]
       cargo xtask stress --minutes N [--scene S] [--kernel K] [--seed N]

test: formatting, clippy, licences, the book, host tests, model checking, fuzzing,
and the tests in QEMU; installs what is missing into a cache directory. The last
line is the count.

--host       leave out the tests in QEMU

stress: scenes on machines of all kernels, CPU models and numbers of cores and
vCPUs, and a table of what ran, for how long, and what was found; exits with 1 if
anything was, and with 130 if ctrl-C ended it.

Each scene runs once under each kernel, first all scenes once, then all with the
next kernel; the CPU model and the number of cores change with each row. All rows
get an equal share of the time, between the least and the most that makes sense for
the scene. Rows for which no time is left are counted; if time is left, it all
begins again with the next seed, with other models and cores: 15 seeds are all.

--minutes N  how long, builds and downloads not counted
--scene S    only this one
--kernel K   only under this one: 6.1, 6.1-rt, 6.12, 6.12-rt, newest
--seed N     begin with this seed; a row of the table runs again with its scene,
             kernel and seed [default: 1]

Scenes:
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => test(true),
        ["test", "--host"] => test(false),
        ["stress", ..] => stress::run(&args[1..]),
        _ => {
            eprint!("{HELP}");
            for scene in SCENES {
                eprintln!("  {:10} {}", scene.name(), scene.about());
            }
            return ExitCode::from(2);
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs all tests, those in QEMU too if `guests`.
fn test(guests: bool) -> Result<ExitCode> {
    let start = Instant::now();
    let counts = check::all(guests)?;
    eprintln!("taichi: {} s", start.elapsed().as_secs());
    println!("{counts}");
    Ok(if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
