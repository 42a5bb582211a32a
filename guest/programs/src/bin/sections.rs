// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Users of the test driver's locks: threads on cores and vCPUs that run
//! sections of random length, while DP cores are lent and taken back. One
//! section lost or doubled, or two at once, and the program fails.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use taichi_guest::accel::{Accel, DEVICES, Kind, Section, Totals};
use taichi_guest::cpus::Cpus;
use taichi_guest::options::{self, Options};
use taichi_guest::plane::{self, Plane};
use taichi_guest::report::Sections;
use taichi_guest::sections::{History, Lengths};
use taichi_guest::spin::spin;
use taichi_guest::time::CoreTime;

const HELP: &str = "\
Threads that take the test driver's locks and hold them for as long as a slow
device needs.

Usage: sections [OPTIONS]

--threads N       [default: one for each of the CPUs]
--cpus LIST       run on these [default: all but those of the data plane]
--pinned          the n-th thread stays on the n-th of the CPUs, instead of
                  going where Linux likes
--sections N      of each thread [default: 100]
--lengths LIST    NS:WEIGHT,...: how long and how often
                  [default: 10000:900,1000000:95,60000000:5]
--command NS      the longest that the device needs for one command; a section
                  that loses its core for less may not be longer [default: 25000]
--pause NS        mean time between a thread's sections, at EL0 [default: 100000]
--kinds LIST      of spin, irqsave, raw, mutex, and none, which fails
                  [default: spin]
--devices N       each with a lock of each kind [default: 1]
--seed N          of all choices [default: 1]
--scale N         ns of the clock in one of core time [default: 1]

Beside a data plane:

--dp LIST         DP cores
--accelerator N   the accelerator's core
";
const MORE: &str = "
Needs the test driver (taichi lab run --module taichi-accel). Exits with 1 if a
section is lost, doubled or not alone. Prints a report as JSON.
";

fn main() -> ExitCode {
    options::main("sections", &[HELP, plane::HELP, MORE].concat(), run)
}

fn run(mut options: Options) -> Result<()> {
    let seed: u64 = options.value("--seed", 1)?;
    let time = CoreTime::new(options.value("--scale", 1.0)?)?;
    let plane = match options.optional("--dp")? {
        Some(dp) => Some(Plane::new(dp, seed, &mut options)?),
        None => None,
    };
    let cpus = match options.optional("--cpus")? {
        Some(cpus) => cpus,
        None => others(plane.as_ref())?,
    };
    let threads = options.value("--threads", cpus.len())?;
    let users = Users {
        pinned: options.flag("--pinned"),
        sections: options.value("--sections", 100)?,
        lengths: options.value("--lengths", "10000:900,1000000:95,60000000:5".parse()?)?,
        command: options.value("--command", 25_000.0)?,
        pause: options.value("--pause", 100_000.0)?,
        kinds: kinds(&options.value("--kinds", "spin".to_owned())?)?,
        devices: options.value("--devices", 1)?,
        cpus,
        seed,
        time,
        accel: Accel::open()?,
    };
    options.finish()?;
    users.check()?;

    users.cpus.pin()?;
    let report = match plane {
        None => users.run(threads)?,
        Some(plane) => {
            let (report, accelerator, forwarders) = plane.run(time, || users.run(threads))?;
            Sections {
                accelerator: Some(accelerator),
                forwarders,
                ..report
            }
        }
    };
    println!("{}", serde_json::to_string(&report)?);
    ensure!(report.wrong.is_empty(), "{}", report.wrong.join("; "));
    Ok(())
}

/// The CPUs that the data plane leaves.
fn others(plane: Option<&Plane>) -> Result<Cpus> {
    let taken = plane.map(Plane::cpus).unwrap_or_default();
    let online = Cpus::online()?;
    let free = online.as_slice().iter().copied();
    Ok(free.filter(|&cpu| !taken.contains(cpu)).collect())
}

/// Each once.
fn kinds(list: &str) -> Result<Vec<Kind>> {
    let mut kinds: Vec<Kind> = list.split(',').map(str::parse).collect::<Result<_>>()?;
    kinds.sort_unstable();
    kinds.dedup();
    Ok(kinds)
}

/// What all threads do.
struct Users {
    cpus: Cpus,
    pinned: bool,
    sections: u64,
    lengths: Lengths,
    command: f64,
    pause: f64,
    kinds: Vec<Kind>,
    devices: u32,
    seed: u64,
    time: CoreTime,
    accel: Accel,
}

impl Users {
    fn check(&self) -> Result<()> {
        ensure!(!self.cpus.is_empty(), "--cpus: no CPU is left");
        ensure!(
            (1..=DEVICES).contains(&self.devices),
            "--devices {}: 1 to {DEVICES}",
            self.devices
        );
        ensure!(
            self.command.is_finite() && self.command >= 1.0,
            "--command {}: at least 1 ns",
            self.command
        );
        ensure!(
            self.pause.is_finite() && self.pause >= 0.0,
            "--pause {}: not negative",
            self.pause
        );
        Ok(())
    }

    /// Runs so many threads to their end, and looks at what they got.
    fn run(&self, threads: usize) -> Result<Sections> {
        let before = self.totals()?;
        let start = Barrier::new(threads);
        let all = thread::scope(|scope| {
            let handles: Vec<_> = (0..threads)
                .map(|n| {
                    scope.spawn({
                        let start = &start;
                        move || self.thread(n, start)
                    })
                })
                .collect();
            let ended = handles
                .into_iter()
                .map(|handle| handle.join().map_err(|_| anyhow!("a thread panicked"))?);
            ended.collect::<Result<Vec<_>>>()
        })?;
        let all: Vec<Section> = all.into_iter().flatten().collect();
        let after = self.totals()?;

        let first = all.iter().map(|s| s.asked).min().unwrap_or_default();
        let last = all.iter().map(|s| s.released).max().unwrap_or_default();
        let mut report = Sections {
            threads,
            sections: all.len() as u64,
            elapsed_ns: self.time.ns(last - first),
            ..Sections::default()
        };
        let mut locks = BTreeMap::<(u32, u32), Vec<Section>>::new();
        for section in all {
            let lock = (section.device, section.kind);
            locks.entry(lock).or_default().push(section);
        }
        for (before, after) in before.iter().zip(&after) {
            let sections = locks.remove(&(before.device, before.kind));
            let history = History::new(sections.unwrap_or_default());
            report.wrong.extend(history.check(before, after));
            history.add_to(&mut report.by_cpu, self.time);
        }
        Ok(report)
    }

    /// Of every lock in use.
    fn totals(&self) -> Result<Vec<Totals>> {
        let locks = (0..self.devices).flat_map(|d| self.kinds.iter().map(move |&k| (d, k)));
        locks.map(|(d, k)| self.accel.totals(d, k)).collect()
    }

    fn thread(&self, n: usize, start: &Barrier) -> Result<Vec<Section>> {
        let cpus = self.cpus.as_slice();
        let placed = match self.pinned {
            true => Cpus::one(cpus[n % cpus.len()]).pin(),
            false => self.cpus.pin(),
        };
        // The others wait for this one even if it gives up.
        start.wait();
        placed?;
        let mut random = fastrand::Rng::with_seed(self.seed ^ ((n as u64) << 32));
        let mut done = Vec::with_capacity(usize::try_from(self.sections)?);
        for _ in 0..self.sections {
            let mut section = self.choose(&mut random)?;
            self.accel.program(&mut section)?;
            done.push(section);
            let uniform = 1.0 - random.f64();
            spin((-uniform.ln() * self.pause) as u64);
        }
        Ok(done)
    }

    /// A section of random length, for a random lock.
    fn choose(&self, random: &mut fastrand::Rng) -> Result<Section> {
        let ns = self.lengths.draw(random);
        let commands = (ns / self.command).ceil();
        let kind = *random.choice(&self.kinds).context("--kinds: none")?;
        Ok(Section {
            device: random.u32(..self.devices),
            kind: kind as u32,
            commands: commands as u64,
            command_ticks: self.time.ticks(ns / commands).max(1),
            ..Section::default()
        })
    }
}
