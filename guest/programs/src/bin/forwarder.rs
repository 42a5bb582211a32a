// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The data plane of the modelled SmartNIC, on one DP core: takes packets from
//! a ring, spends a fixed number of instructions on each, and lends the core
//! when there is nothing to do. Without the firmware it only polls.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::Result;
use hdrhistogram::Histogram;
use taichi_abi::telemetry::Core;
use taichi_dataplane::{Source, Telemetry, Tuning, Yielder};
use taichi_guest::cpus::Cpus;
use taichi_guest::options::{self, Options};
use taichi_guest::report::{self, Doing, Forwarder, Latencies, Moment};
use taichi_guest::rings::{Descriptor, Phase, Ring, Rings};
use taichi_guest::spin::spin;
use taichi_guest::time::{CoreTime, ticks};

const HELP: &str = "\
The data plane of the modelled SmartNIC, on one DP core.

Usage: forwarder --rings FILE --ring N --cpu N [OPTIONS]

--rings FILE      the rings, made by `smartnic`
--ring N          the one to poll
--cpu N           runs here, alone
--service N       instructions spent on a packet [default: 1000]
--threshold N     empty polls before the first yield [default: that of the library]
--scale N         ns of the clock in one of core time [default: 1]
--no-yield        keeps the core, firmware or not

Prints a report as JSON when the accelerator has stopped.
";

/// The picture's window: this long after the start, this long (core time).
const PICTURE_FROM_NS: f64 = 20e6;
const PICTURE_NS: f64 = 2e6;
const PICTURE_MOMENTS: usize = 1024;

/// Instructions between two readings of the counter, beside the service:
/// setting up the loop, and the barrier and the load of the second reading.
const TIMING: u64 = 4;

fn main() -> ExitCode {
    options::main("forwarder", HELP, run)
}

fn run(mut options: Options) -> Result<()> {
    let rings: PathBuf = options.required("--rings")?;
    let ring: usize = options.required("--ring")?;
    let cpu: usize = options.required("--cpu")?;
    let service: u64 = options.value("--service", 1000)?;
    let time = CoreTime::new(options.value("--scale", 1.0)?)?;
    let usual = Tuning::default();
    let tuning = Tuning {
        threshold: options.value("--threshold", usual.threshold)?,
        early_ns: (usual.early_ns as f64 * time.scale) as u64,
        ..usual
    };
    let keep = options.flag("--no-yield");
    options.finish()?;

    let rings = Rings::attach(&rings)?;
    Cpus::one(cpu).pin()?;
    let telemetry = Telemetry::open()?;
    let lent = || {
        telemetry
            .as_ref()
            .and_then(|t| t.cores().into_iter().nth(cpu))
    };
    let mut poller = Poller {
        ring: rings.ring(ring)?,
        yielder: (!keep)
            .then(|| Yielder::open_from(&Source::default(), tuning))
            .transpose()?,
        service,
        next: 0,
        disorder: 0,
        service_ticks: 0,
        latency: report::histogram(),
        idle_ticks: 0,
        empty_polls: 0,
        picture: Picture::new(time),
    };
    rings.report_ready();
    while rings.phase() == Phase::Setup {
        std::hint::spin_loop();
    }
    let before = lent().unwrap_or_default();
    let total_ticks = poller.run(&rings);
    let after = lent().unwrap_or_default();

    let stats = poller
        .yielder
        .as_ref()
        .map(Yielder::stats)
        .unwrap_or_default();
    let grown = |field: fn(&Core) -> u64| field(&after).wrapping_sub(field(&before));
    let report = Forwarder {
        cpu,
        packets: poller.next,
        disorder: poller.disorder,
        latency: Latencies::of(&poller.latency),
        total_ticks,
        idle_ticks: poller.idle_ticks,
        service_instructions: poller.next * (service + TIMING),
        service_ticks: poller.service_ticks,
        empty_polls: poller.empty_polls,
        yields: stats.yields,
        reasons: stats.reasons,
        lent_ticks: grown(|core| core.lent_ticks.load(Relaxed)),
        lends: grown(Core::lends),
        timeline: poller.picture.moments,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

struct Poller<'a> {
    ring: Ring<'a>,
    yielder: Option<Yielder>,
    service: u64,
    /// The sequence number that must come next.
    next: u64,
    disorder: u64,
    service_ticks: u64,
    latency: Histogram<u64>,
    idle_ticks: u64,
    empty_polls: u64,
    picture: Picture,
}

impl Poller<'_> {
    /// Polls until the accelerator has stopped and the ring is empty. Returns
    /// how many ticks that took.
    fn run(&mut self, rings: &Rings) -> u64 {
        let start = ticks();
        self.picture.start(start);
        let mut idle_since = start;
        loop {
            if let Some(first) = self.ring.take() {
                let now = ticks();
                self.idle_ticks += now - idle_since;
                self.picture.add(now, Doing::Busy);
                idle_since = self.work(first);
                self.picture.add(idle_since, Doing::Idle);
                if let Some(yielder) = &mut self.yielder {
                    yielder.poll(true);
                }
                continue;
            }
            self.empty_polls += 1;
            if rings.phase() == Phase::Drain && self.ring.is_empty() {
                let end = ticks();
                self.idle_ticks += end - idle_since;
                return end - start;
            }
            self.idle();
        }
    }

    /// Does this packet and those behind it; returns when the last was done.
    fn work(&mut self, first: Descriptor) -> u64 {
        let mut packet = first;
        loop {
            let before = ticks();
            spin(self.service);
            let done = ticks();
            self.service_ticks += done - before;
            self.disorder += u64::from(packet.sequence != self.next);
            self.next = packet.sequence + 1;
            self.latency
                .saturating_record(done.saturating_sub(packet.arrival));
            match self.ring.take() {
                Some(following) => packet = following,
                None => return done,
            }
        }
    }

    /// Tells the yielder that there was nothing.
    #[inline]
    fn idle(&mut self) {
        let Some(yielder) = &mut self.yielder else {
            return;
        };
        let ticks_lent = yielder.stats().ticks;
        if yielder.poll(false).is_some() {
            let back = ticks();
            let away = yielder.stats().ticks - ticks_lent;
            self.picture.add(back.saturating_sub(away), Doing::Lent);
            self.picture.add(back, Doing::Idle);
        }
    }
}

/// What the core did in a short window.
struct Picture {
    time: CoreTime,
    start: u64,
    from: u64,
    until: u64,
    moments: Vec<Moment>,
}

impl Picture {
    fn new(time: CoreTime) -> Self {
        let moments = Vec::with_capacity(PICTURE_MOMENTS);
        Self {
            time,
            start: 0,
            from: 0,
            until: 0,
            moments,
        }
    }

    fn start(&mut self, now: u64) {
        self.start = now;
        self.from = now + self.time.ticks(PICTURE_FROM_NS);
        self.until = self.from + self.time.ticks(PICTURE_NS);
    }

    #[inline]
    fn add(&mut self, at: u64, doing: Doing) {
        if (self.from..self.until).contains(&at) && self.moments.len() < PICTURE_MOMENTS {
            self.moments.push(Moment {
                at: at - self.start,
                doing,
            });
        }
    }
}
