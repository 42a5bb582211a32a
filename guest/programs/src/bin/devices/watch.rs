// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Workers, and who sees that none waits for too long.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use taichi_guest::time::{CoreTime, ticks};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// What the workers are told, and tell.
pub struct Shared {
    pub over: AtomicBool,
    pub wire_over: AtomicBool,
    pub workers: Vec<Worker>,
    pub time: CoreTime,
    pub limit: u64,
}

/// One worker, as others see it.
#[derive(Default)]
pub struct Worker {
    name: String,
    /// Ticks when what it waits for was asked for; 0 while it waits for nothing.
    since: AtomicU64,
    pub done: AtomicU64,
    pub longest: AtomicU64,
}

impl Worker {
    pub fn new(name: String) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// It waits for what was asked for at `since`.
    pub fn waits(&self, since: u64) {
        self.since.store(since, Relaxed);
    }

    /// One thing is done that was asked for at `since`.
    pub fn has_done(&self, since: u64) {
        let took = ticks().saturating_sub(since);
        self.longest.fetch_max(took, Relaxed);
        self.done.fetch_add(1, Relaxed);
    }
}

impl Shared {
    /// # Errors
    /// A worker has waited for too long.
    fn watch(&self) -> Result<()> {
        let now = ticks();
        for worker in &self.workers {
            let since = worker.since.load(Relaxed);
            ensure!(
                since == 0 || now.saturating_sub(since) < self.limit,
                "{} waits for more than {} ms, after {} that were right",
                worker.name,
                self.time.ns(self.limit) / 1_000_000,
                worker.done.load(Relaxed)
            );
        }
        Ok(())
    }

    /// Waits until `come`.
    ///
    /// # Errors
    /// It doesn't come in time, or a worker has waited for too long.
    pub fn until(&self, what: &str, mut come: impl FnMut() -> Result<bool>) -> Result<()> {
        let start = ticks();
        while !come()? {
            self.watch()?;
            ensure!(ticks() - start < self.limit, "{what} doesn't come");
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// Says what is wrong, in one line, and ends, as far as threads that hang let it.
pub fn fail<T>(result: &Result<T>) {
    if let Err(error) = result {
        println!("{}", format!("{error:#}").replace('\n', "; "));
        std::process::exit(1);
    }
}
