// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The accelerator of the modelled SmartNIC: what stands between the wire and
//! the DP cores' rings.
//!
//! Bursts of packets arrive by themselves (open loop). When one arrives the
//! model looks whether its core is lent and if so sends the probe; then the
//! packets are preprocessed and moved for a fixed time, many bursts at once;
//! then their descriptors appear in the ring. A descriptor that lies in the
//! ring of a core that was lent meanwhile keeps asking, as a device keeps its
//! interrupt line up: that is the late probe.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use taichi_dataplane::{Control, Telemetry};
use taichi_guest::arrivals::{Arrival, Poisson};
use taichi_guest::cpus::Cpus;
use taichi_guest::options::{self, Options};
use taichi_guest::report::Accelerator;
use taichi_guest::rings::{Phase, Ring, Rings};
use taichi_guest::time::{CoreTime, ticks};

const HELP: &str = "\
The accelerator of the modelled SmartNIC.

Usage: accelerator --rings FILE --cpu N --cores LIST [OPTIONS]

--rings FILE    the rings, made by `smartnic`
--cpu N         runs here, alone
--cores LIST    the DP core behind each ring
--gap NS        mean time between two bursts for one core [default: 50000]
--burst N       packets in a burst [default: 16]
--window NS     preprocessing and DMA of a burst [default: 3200]
--seed N        of the arrivals [default: 1]
--scale N       ns of the clock in one of core time [default: 1]
--no-probe      never says that work is on its way

All times are core time. Prints a report as JSON when told to stop.
";

fn main() -> ExitCode {
    options::main("accelerator", HELP, run)
}

fn run(mut options: Options) -> Result<()> {
    let rings: PathBuf = options.required("--rings")?;
    let cpu: usize = options.required("--cpu")?;
    let cores: Cpus = options.required("--cores")?;
    let gap_ns: f64 = options.value("--gap", 50_000.0)?;
    let burst: u64 = options.value("--burst", 16)?;
    let window_ns: f64 = options.value("--window", 3_200.0)?;
    let seed: u64 = options.value("--seed", 1)?;
    let time = CoreTime::new(options.value("--scale", 1.0)?)?;
    let probes = !options.flag("--no-probe");
    options.finish()?;

    let rings = Rings::attach(&rings)?;
    ensure!(
        cores.len() == rings.count(),
        "{} rings for DP cores {cores}",
        rings.count()
    );
    Cpus::one(cpu).pin()?;
    let targets = cores
        .as_slice()
        .iter()
        .enumerate()
        .map(|(n, &core)| {
            let core = u32::try_from(core).context("core number")?;
            Ok(Target {
                ring: rings.ring(n)?,
                core,
                called: None,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let gap = gap_ns * time.scale * time.hz as f64 / 1e9;
    let mut model = Model {
        targets,
        firmware: if probes { Firmware::open()? } else { None },
        in_flight: VecDeque::with_capacity(4096),
        burst,
        window: time.ticks(window_ns),
        report: Accelerator::default(),
        worst_lag: 0,
    };
    rings.report_ready();
    while rings.phase() == Phase::Setup {
        std::hint::spin_loop();
    }
    model.run(&rings, Poisson::new(seed, cores.len(), gap));
    model.report.worst_lag_ns = time.ns(model.worst_lag);
    println!("{}", serde_json::to_string(&model.report)?);
    Ok(())
}

/// How the model sees and calls the firmware.
struct Firmware {
    telemetry: Telemetry,
    control: Control,
}

impl Firmware {
    fn open() -> Result<Option<Self>> {
        let both = Telemetry::open()?.zip(Control::open()?);
        Ok(both.map(|(telemetry, control)| Self { telemetry, control }))
    }
}

/// One DP core.
struct Target<'a> {
    ring: Ring<'a>,
    core: u32,
    /// When it was called by a probe and has not been seen native since.
    called: Option<u64>,
}

/// Packets between the wire and the ring.
struct Burst {
    arrival: u64,
    due: u64,
    ring: usize,
}

struct Model<'a> {
    targets: Vec<Target<'a>>,
    firmware: Option<Firmware>,
    in_flight: VecDeque<Burst>,
    burst: u64,
    window: u64,
    report: Accelerator,
    worst_lag: u64,
}

impl Model<'_> {
    fn run(&mut self, rings: &Rings, mut network: Poisson) {
        let start = ticks();
        let mut next = network.next();
        while rings.phase() == Phase::Run {
            let now = ticks();
            while let Some(arrival) = next.filter(|a| start + a.at <= now) {
                self.arrive(arrival, start, now);
                next = network.next();
            }
            self.write_due(now);
            self.call_sleepers(now);
        }
        while !self.in_flight.is_empty() {
            let now = ticks();
            self.write_due(now);
            self.call_sleepers(now);
        }
        rings.set_phase(Phase::Drain);
        while self.targets.iter().any(|t| !t.ring.is_empty()) {
            self.call_sleepers(ticks());
        }
    }

    /// A burst reaches the accelerator.
    fn arrive(&mut self, arrival: Arrival, start: u64, now: u64) {
        let at = start + arrival.at;
        self.report.bursts += 1;
        self.worst_lag = self.worst_lag.max(now - at);
        if self.call(arrival.ring, now) {
            self.report.probes_early += 1;
        }
        let due = now + self.window;
        self.in_flight.push_back(Burst {
            arrival: at,
            due,
            ring: arrival.ring,
        });
    }

    /// Writes the descriptors of bursts whose time is over.
    fn write_due(&mut self, now: u64) {
        while let Some(burst) = self.in_flight.pop_front_if(|b| b.due <= now) {
            let ring = self.targets[burst.ring].ring;
            for _ in 0..self.burst {
                if ring.put(burst.arrival) {
                    self.report.packets += 1;
                } else {
                    self.report.dropped += 1;
                }
            }
        }
    }

    /// Probes lent cores whose ring is not empty.
    fn call_sleepers(&mut self, now: u64) {
        for n in 0..self.targets.len() {
            if !self.targets[n].ring.is_empty() && self.call(n, now) {
                self.report.probes_late += 1;
            }
        }
    }

    /// Probes a core if it is lent. One that doesn't come is called again
    /// after the time that a burst takes.
    fn call(&mut self, n: usize, now: u64) -> bool {
        let Some(firmware) = &self.firmware else {
            return false;
        };
        let target = &mut self.targets[n];
        if !firmware.telemetry.is_lent(target.core as usize) {
            target.called = None;
            return false;
        }
        if target.called.is_some_and(|at| now < at + self.window) {
            return false;
        }
        target.called = Some(now);
        firmware.control.probe(target.core);
        true
    }
}
