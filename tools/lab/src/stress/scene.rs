// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What one scene of a stress run is, and what it gets to work with.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::health::{self, Bare};
use crate::guest::{self, Outcome, Streams};
use crate::kernel::Kernel;
use crate::machine::Machine;

/// What a guest that hangs gets beyond its share of time until that is noticed.
const PATIENCE: Duration = Duration::from_secs(300);

/// Something that can go wrong, tried again and again. A scene is one file of
/// this module and one line in [`super::SCENES`].
pub trait Scene: Sync {
    /// A word: the user's `--scene`, and the table's first column.
    fn name(&self) -> &'static str;

    /// What it does, and what would be wrong, in a line.
    fn about(&self) -> &'static str;

    /// The kernels that it runs under.
    fn kernels(&self) -> Vec<Kernel> {
        Kernel::DEBIAN.to_vec()
    }

    /// The shortest time that shows something, boots included.
    fn least(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// The time beyond which other machines show more than going on.
    fn most(&self) -> Duration {
        Duration::from_secs(180)
    }

    /// Runs for about `job.time`, and counts rounds as they end.
    ///
    /// # Errors
    /// What was found to be wrong: the first line for the table, all of it for
    /// a file.
    fn run(&self, job: &mut Job) -> Result<()>;
}

/// One scene on one machine.
#[derive(Debug)]
pub struct Job<'a> {
    /// The machine, in real time; a scene changes what it needs.
    pub machine: Machine,
    /// How long to go on.
    pub time: Duration,
    /// Of all choices.
    pub seed: u64,
    /// Rounds so far, of whatever the scene counts.
    pub rounds: u64,
    start: Instant,
    bare: &'a mut Bare,
}

impl<'a> Job<'a> {
    /// Starts its clock.
    pub fn new(machine: Machine, time: Duration, seed: u64, bare: &'a mut Bare) -> Self {
        let machine = Machine {
            timeout: time + PATIENCE,
            ..machine
        };
        Self {
            machine,
            time,
            seed,
            rounds: 0,
            start: Instant::now(),
            bare,
        }
    }

    /// Seconds for a program in the guest: what is left when the machine has
    /// taken `boot` to come up and go, 5 at least.
    pub fn seconds(&self, boot: Duration) -> u64 {
        let left = self.time.saturating_sub(self.start.elapsed() + boot);
        left.as_secs().max(5)
    }

    /// Does something with a seed once, and again as long as one more time fits;
    /// `once` gives the rounds that it was.
    ///
    /// # Errors
    /// The first of `once`.
    pub fn repeat(&mut self, mut once: impl FnMut(&mut Self, u64) -> Result<u64>) -> Result<()> {
        let start = Instant::now();
        for turn in 1u32.. {
            let seed = self.seed.wrapping_mul(1000) + u64::from(turn);
            self.rounds += once(self, seed)?;
            let fits = self.start.elapsed() + start.elapsed() / turn <= self.time;
            if !fits || guest::interrupted() {
                break;
            }
        }
        Ok(())
    }

    /// Nothing if the kernel is well after this run of `machine`, whose script
    /// ended with [`health::WARNINGS`].
    ///
    /// # Errors
    /// What it says that it doesn't say without firmware.
    pub fn well(&mut self, machine: &Machine, outcome: &Outcome) -> Result<()> {
        health::check(outcome)?;
        health::check_stalls(outcome)?;
        self.bare.check(machine, outcome)
    }
}

/// Runs a shell script in a guest, as root.
///
/// # Errors
/// Where the guest doesn't run, or the script fails.
pub fn sh(machine: &Machine, script: &str) -> Result<Outcome> {
    let command = ["sh", "-c", script].map(String::from);
    let outcome = guest::run(machine, &command, Streams::Captured)?;
    outcome.success()?;
    Ok(outcome)
}
