// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Everything that must hold before a change goes in, one step after the
//! other; a step that fails doesn't stop the others.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cache::Cache;
use crate::progress;

mod book;
pub mod count;
mod install;
mod steps;

pub use count::Counts;

/// Runs all steps and returns how many tests passed and failed; steps that
/// aren't tests count as one. `guests`: also those that boot QEMU.
///
/// # Errors
/// Where the cache can't be opened; failures of steps are counted, not
/// returned.
pub fn all(guests: bool) -> Result<Counts> {
    let mut run = Run {
        cache: Cache::open()?,
        counts: Counts::default(),
        failures: Vec::new(),
    };
    steps::source(&mut run);
    steps::host(&mut run);
    steps::fuzz(&mut run);
    if guests {
        steps::guests(&mut run);
    }
    for failure in &run.failures {
        eprintln!("taichi: FAILED: {failure}");
    }
    Ok(run.counts)
}

/// A run of all steps.
struct Run {
    cache: Cache,
    counts: Counts,
    failures: Vec<String>,
}

impl Run {
    /// A step that passes or fails as a whole.
    fn step(&mut self, name: &str, step: impl FnOnce(&Cache) -> Result<Command>) {
        self.check(name, |cache| {
            let mut command = step(cache)?;
            let status = command
                .stdin(Stdio::null())
                .status()
                .with_context(|| format!("running {command:?}"))?;
            ensure!(status.success(), "{status}");
            Ok(())
        });
    }

    /// A step that we do ourselves.
    fn check(&mut self, name: &str, check: impl FnOnce(&Cache) -> Result<()>) {
        progress::step(name);
        let done = check(&self.cache).map(|()| true);
        let passed = self.passed(name, done);
        self.counts += Counts::one(passed);
    }

    /// A step that runs tests and prints their number.
    fn tests(&mut self, name: &str, step: impl FnOnce(&Cache) -> Result<Command>) {
        progress::step(name);
        let mut counts = Counts::default();
        let done = step(&self.cache).and_then(|command| run_tests(command, &mut counts));
        if !self.passed(name, done) && counts.failed == 0 {
            // It didn't build, or died on the way.
            counts.failed = 1;
        }
        self.counts += counts;
    }

    /// A step that can't run here.
    fn skip(&mut self, name: &str, why: &str) {
        progress::step(format!("SKIPPED: {name}: {why}"));
        self.counts += Counts::one_skipped();
    }

    fn passed(&mut self, name: &str, done: Result<bool>) -> bool {
        match done {
            Ok(true) => return true,
            Ok(false) => self.failures.push(name.to_owned()),
            Err(error) => self.failures.push(format!("{name}: {error:#}")),
        }
        false
    }
}

/// Runs a test runner, showing what it prints, and adds up its summaries.
fn run_tests(mut command: Command, counts: &mut Counts) -> Result<bool> {
    // Both streams into one pipe, so that lines come in their order.
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    // The command holds the pipe's other end too.
    drop(command);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("reading a test runner's output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(more) = Counts::from_line(&line) {
            *counts += more;
        }
    }
    Ok(child.wait()?.success())
}
