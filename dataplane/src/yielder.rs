// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The decision to yield, and the yield.

use taichi_abi::doorbell::{ID, MAGIC, Reason, YIELD};
use taichi_abi::window::Windows;

use crate::raw::{self, Mapping};
use crate::source::{Error, Source};
use crate::telemetry::Telemetry;

/// How eagerly a poller yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Consecutive empty polls before the first yield.
    pub threshold: u32,
    /// The threshold never falls below this.
    pub least: u32,
    /// The threshold never rises above this.
    pub most: u32,
    /// Empty polls that a probe is given to be followed by its work before the
    /// core is lent again: the accelerator's preprocessing and DMA take time.
    pub patience: u32,
    /// A core that is called back sooner than this was lent too early: the
    /// threshold doubles. In nanoseconds.
    pub early_ns: u64,
}

impl Default for Tuning {
    /// For a poll loop of some 20 instructions and cores of about 1 GHz: the
    /// first yield after a microsecond, a probe's work expected within ten.
    fn default() -> Self {
        Self {
            threshold: 64,
            least: 16,
            most: 4096,
            patience: 512,
            early_ns: 5_000,
        }
    }
}

/// What a [`Yielder`] has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Loads from the yield register.
    pub yields: u64,
    /// Answers, by [`Reason`]'s number; the last one counts unknown answers.
    pub reasons: [u64; 6],
    /// Ticks of the system counter between load and answer.
    pub ticks: u64,
}

/// One poller's side of the doorbell.
///
/// Call [`Yielder::poll`] after every look at the queues. Without the firmware
/// below it counts and never yields.
///
/// # Threads and processes
/// A yield lends the core that the calling thread runs on. So: one `Yielder`
/// per polling thread, made before or after the thread is pinned to its DP
/// core, and used only while it is. The type can be sent to another thread, but
/// not shared. After fork(2) both processes have a working one; the child, too,
/// lends the core it runs on, so close it there unless the child polls. After
/// execve(2) it is gone.
///
/// Don't hold anything another thread waits for (a spinlock, say) while
/// calling `poll`: it may take as long as a slice.
#[derive(Debug)]
pub struct Yielder {
    /// Consecutive empty polls, or fewer after a wait was imposed.
    empty: u32,
    /// A yield is due when `empty` reaches this.
    due: u32,
    /// What `due` is after the next full poll.
    threshold: u32,
    early_ticks: u64,
    tuning: Tuning,
    windows: Option<Mapped>,
    stats: Stats,
}

#[derive(Debug)]
struct Mapped {
    doorbell: Mapping,
    telemetry: Telemetry,
}

impl Yielder {
    /// Maps the firmware's pages. Without the firmware the result is inert.
    ///
    /// # Errors
    /// The firmware is there and its pages can't be mapped (not root?) or are
    /// not what this version knows.
    pub fn open() -> Result<Self, Error> {
        Self::open_from(&Source::default(), Tuning::default())
    }

    /// As [`Yielder::open`], from other files or with other thresholds.
    ///
    /// # Errors
    /// As there.
    pub fn open_from(source: &Source, tuning: Tuning) -> Result<Self, Error> {
        let windows = source
            .windows()?
            .map(|w| Mapped::new(source, w))
            .transpose()?;
        let hz = raw::frequency();
        let early_ticks = u128::from(tuning.early_ns) * u128::from(hz) / 1_000_000_000;
        let threshold = tuning
            .threshold
            .clamp(tuning.least, tuning.most.max(tuning.least));
        Ok(Self {
            empty: 0,
            due: threshold,
            threshold,
            early_ticks: u64::try_from(early_ticks).unwrap_or(u64::MAX),
            tuning,
            windows,
            stats: Stats::default(),
        })
    }

    /// Whether there is no firmware, so that `poll` never yields.
    pub fn is_inert(&self) -> bool {
        self.windows.is_none()
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Consecutive empty polls that lead to a yield now.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// Counts a poll. After enough empty ones in a row, and if some vCPU waits
    /// for a core, lends the core and returns when it is back, with the reason;
    /// `None` means that it was not lent (or that the firmware gave a reason
    /// that this version doesn't know). No system call, no allocation.
    #[inline]
    pub fn poll(&mut self, got_work: bool) -> Option<Reason> {
        if got_work {
            self.empty = 0;
            self.due = self.threshold;
            return None;
        }
        self.empty = self.empty.saturating_add(1);
        if self.empty < self.due {
            return None;
        }
        let wanted = self.windows.as_ref().is_some_and(|w| w.telemetry.wanted());
        if wanted { self.give() } else { None }
    }

    /// Lends the core now, whatever was polled before.
    #[inline(never)]
    pub fn give(&mut self) -> Option<Reason> {
        let windows = self.windows.as_ref()?;
        let before = raw::ticks();
        let value = windows.doorbell.load_device(YIELD)?;
        let ticks = raw::ticks().saturating_sub(before);

        let reason = Reason::from_value(value);
        let last = self.stats.reasons.len() - 1;
        self.stats.yields += 1;
        self.stats.ticks += ticks;
        self.stats.reasons[reason.map_or(last, |r| (r as usize).min(last))] += 1;
        self.learn(reason, ticks);
        reason
    }

    /// Sets when the next yield is due, from how this one ended.
    fn learn(&mut self, reason: Option<Reason>, ticks: u64) {
        let most = self.tuning.most.max(self.tuning.least);
        self.empty = 0;
        self.due = match reason {
            // Idle for a whole slice: more of the same is likely.
            Some(Reason::Slice) => {
                self.threshold = (self.threshold / 2).max(self.tuning.least);
                self.threshold
            }
            // Work comes, but isn't there yet.
            Some(Reason::Probe) => {
                self.back_off(ticks, most);
                self.threshold.max(self.tuning.patience)
            }
            Some(Reason::Interrupt) => {
                self.back_off(ticks, most);
                self.threshold
            }
            Some(Reason::Nothing) => self.threshold,
            // Not now, or never: ask seldom.
            Some(Reason::Refused) | None => most,
        };
    }

    fn back_off(&mut self, ticks: u64, most: u32) {
        if ticks < self.early_ticks {
            self.threshold = self.threshold.saturating_mul(2).min(most);
        }
    }
}

impl Mapped {
    fn new(source: &Source, windows: Windows) -> Result<Self, Error> {
        let telemetry = Telemetry::map(source, windows.telemetry)?;
        let doorbell = source.map("doorbell", windows.doorbell)?;
        let found = doorbell.load_device(ID).unwrap_or(0);
        if found != MAGIC {
            let base = windows.doorbell.base;
            return Err(Error::Foreign {
                window: "doorbell",
                base,
                found,
            });
        }
        Ok(Self {
            doorbell,
            telemetry,
        })
    }
}
