// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask test`: everything that must hold before a change goes in.
//! The work is in [`taichi_lab::check`].
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::{env, time::Instant};

use taichi_lab::check;

const HELP: &str = "\
Usage: cargo xtask test [--host]

Formatting, clippy, licences, the book, host tests, model checking, fuzzing,
and the tests in QEMU; installs what is missing into a cache directory. The last
line is the count.

--host  leave out the tests in QEMU
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let guests = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => true,
        ["test", "--host"] => false,
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    match check::all(guests) {
        Ok(counts) => {
            eprintln!("taichi: {} s", start.elapsed().as_secs());
            println!("{counts}");
            if counts.failed == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
