// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Moves the interrupts of virtio disks and network interfaces over all CPUs while
//! there is traffic, and checks that each arrives where it should and that no
//! request or frame is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use taichi_guest::cpus::Cpus;
use taichi_guest::disk::Disk;
use taichi_guest::interrupts::{self, Interrupt};
use taichi_guest::options::{self, Options};
use taichi_guest::report::{Devices, Moved};
use taichi_guest::time::{CoreTime, ticks};
use taichi_guest::wire::{Address, End};

const HELP: &str = "\
Traffic on all virtio disks and two network interfaces, while their interrupts are
moved over all CPUs.

Usage: devices [--cores N] [--rounds N] [--seconds N] [--limit N] [--shared] [--seed N]

--cores N       CPUs from N on are vCPUs, whose device interrupts come to CPU 0
                [default: no vCPUs]
--rounds N      each interrupt goes to each CPU so often [default: 1]
--seconds N     and for at least so long [default: 0]
--limit N       seconds that a request, a frame or an interrupt may take [default: 5]
--shared        somebody else moves interrupts too (irqbalance): each must come, to
                whichever CPU
--seed N        of all choices [default: 1]

Each disk's requests and the frames between eth0 and eth1, which must be up and on one
wire, have checked contents; a disk that has an interrupt per queue gets a request at a
time for each CPU, others one. Exits with 1 on anything wrong, lost or late. Prints a
report as JSON.
";

/// Blocks of a disk that one worker has.
const BLOCKS: usize = 32;
/// Frames under way.
const WINDOW: usize = 16;
/// How often an interrupt must come once it goes where it should.
const ENOUGH: u64 = 3;
/// Of these one may still have been on its way to where it went before.
const LATE: u64 = 1;
/// Requests after which a worker that may run everywhere moves.
const STAY: u64 = 8;
const LOOK: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    options::main("devices", HELP, run)
}

/// What the workers are told, and tell.
struct Shared {
    over: AtomicBool,
    wire_over: AtomicBool,
    workers: Vec<Worker>,
    time: CoreTime,
    limit: u64,
}

/// One worker, as others see it.
#[derive(Default)]
struct Worker {
    name: String,
    /// Ticks when what it waits for was asked for; 0 while it waits for nothing.
    since: AtomicU64,
    done: AtomicU64,
    longest: AtomicU64,
}

impl Worker {
    fn new(name: String) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// It waits for what was asked for at `since`.
    fn waits(&self, since: u64) {
        self.since.store(since, Relaxed);
    }

    /// One thing is done that was asked for at `since`.
    fn has_done(&self, since: u64) {
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
    fn until(&self, what: &str, mut come: impl FnMut() -> Result<bool>) -> Result<()> {
        let start = ticks();
        while !come()? {
            self.watch()?;
            ensure!(ticks() - start < self.limit, "{what} doesn't come");
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// A virtio device with its traffic.
struct Disk0 {
    path: PathBuf,
    /// Whether Linux gave each of its queues an interrupt.
    queues: bool,
}

fn run(mut options: Options) -> Result<()> {
    let all = Cpus::online()?;
    let cores: usize = options.value("--cores", usize::MAX)?;
    let rounds: u64 = options.value("--rounds", 1)?;
    let seconds: f64 = options.value("--seconds", 0.0)?;
    let limit: f64 = options.value("--limit", 5.0)?;
    let shared_with = options.flag("--shared");
    let seed: u64 = options.value("--seed", 1)?;
    options.finish()?;

    let time = CoreTime::clock();
    let lines = device_interrupts()?;
    ensure!(
        !lines.is_empty(),
        "no virtio disk or interface has an interrupt"
    );
    let jobs = jobs(&lines, &all, seed)?;
    let mut workers: Vec<_> = jobs
        .iter()
        .map(|job| Worker::new(job.name.clone()))
        .collect();
    workers.push(Worker::new("the wire".to_owned()));
    let shared = Shared {
        over: AtomicBool::new(false),
        wire_over: AtomicBool::new(false),
        workers,
        time,
        limit: time.ticks(limit * 1e9),
    };
    let mover = Mover {
        shared: &shared,
        cpus: all.as_slice(),
        cores,
        alone: !shared_with,
        random: fastrand::Rng::with_seed(seed),
        sent: BTreeMap::new(),
    };
    let plan = Plan {
        rounds,
        ticks: time.ticks(seconds * 1e9),
    };
    let sent = work(&shared, jobs, mover, &lines, &plan)?;
    println!(
        "{}",
        serde_json::to_string(&report(&shared, &lines, sent)?)?
    );
    Ok(())
}

/// How much is to be done.
struct Plan {
    rounds: u64,
    ticks: u64,
}

/// Runs all workers while `mover` moves; gives what was sent where.
fn work(
    shared: &Shared,
    jobs: Vec<Job>,
    mut mover: Mover,
    lines: &[u32],
    plan: &Plan,
) -> Result<Sent> {
    let (wire, disks) = shared.workers.split_last().context("no workers")?;
    // All there before the first frame is sent.
    let (near, mut far) = (End::open("eth0")?, End::open("eth1")?);
    let address = far.address();
    thread::scope(|scope| {
        let mut threads: Vec<_> = jobs
            .into_iter()
            .zip(disks)
            .map(|(job, worker)| scope.spawn(move || job.run(shared, worker)))
            .collect();
        threads.push(scope.spawn(|| ask(shared, wire, near, address)));
        let echo = scope.spawn(|| answer(shared, &mut far));
        let moved = mover.run(lines, plan);
        shared.over.store(true, Relaxed);
        if moved.is_err() {
            // A worker may wait forever: say why, and leave it behind.
            fail(&moved);
        }
        for thread in threads {
            let ended = shared.until("the end of a worker", || Ok(thread.is_finished()));
            if ended.is_err() {
                fail(&ended);
            }
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        shared.wire_over.store(true, Relaxed);
        echo.join()
            .map_err(|_| anyhow::anyhow!("the echo panicked"))??;
        moved.map(|()| mover.sent)
    })
}

/// Ends the program though threads may hang.
fn fail<T>(result: &Result<T>) {
    if let Err(error) = result {
        eprintln!("devices: {error:#}");
        std::process::exit(1);
    }
}

/// The interrupts of disks and network interfaces, by number.
fn device_interrupts() -> Result<Vec<u32>> {
    let all = interrupts::all()?;
    let ours = all.values().filter(|line| {
        !line.name.ends_with("-config") && devices_of(line).any(|device| has_traffic(&device))
    });
    Ok(ours.map(|line| line.number).collect())
}

/// The virtio devices that an interrupt is for (`virtio3-req.0`, `virtio4, virtio7`).
fn devices_of(line: &Interrupt) -> impl Iterator<Item = String> {
    let names = line
        .name
        .split(", ")
        .filter(|name| name.starts_with("virtio"));
    names.map(|name| name.split('-').next().unwrap_or(name).to_owned())
}

fn sysfs(device: &str) -> PathBuf {
    Path::new("/sys/bus/virtio/devices").join(device)
}

fn has_traffic(device: &str) -> bool {
    ["block", "net"]
        .iter()
        .any(|class| sysfs(device).join(class).exists())
}

/// The one entry of a directory.
fn entry(directory: &Path) -> Result<String> {
    let context = || directory.display().to_string();
    let mut entries = fs::read_dir(directory).with_context(context)?;
    let first = entries.next().with_context(context)??;
    Ok(first.file_name().to_string_lossy().into_owned())
}

/// What one thread does with a disk.
struct Job {
    name: String,
    disk: Disk,
    /// Where it runs; with several it moves.
    cpus: Cpus,
    random: fastrand::Rng,
}

/// A job for each disk; for each CPU too, if each queue has an interrupt.
fn jobs(lines: &[u32], all: &Cpus, seed: u64) -> Result<Vec<Job>> {
    let table = interrupts::all()?;
    let mut disks: BTreeMap<String, Disk0> = BTreeMap::new();
    for line in lines.iter().filter_map(|number| table.get(number)) {
        for device in devices_of(line) {
            let block = sysfs(&device).join("block");
            if block.exists() {
                let path = Path::new("/dev").join(entry(&block)?);
                let queues = line.name.contains("-req.");
                disks.insert(device, Disk0 { path, queues });
            }
        }
    }
    let mut jobs = Vec::new();
    for (device, Disk0 { path, queues }) in disks {
        let homes: Vec<Cpus> = if queues {
            all.as_slice().iter().map(|&cpu| Cpus::one(cpu)).collect()
        } else {
            vec![all.clone()]
        };
        for (n, cpus) in homes.into_iter().enumerate() {
            let seed = seed.wrapping_mul(1000) + jobs.len() as u64;
            jobs.push(Job {
                name: format!("{} ({device}) from CPU {cpus}", path.display()),
                disk: Disk::open(&path, (n * BLOCKS) as u64, BLOCKS, seed)?,
                cpus,
                random: fastrand::Rng::with_seed(seed),
            });
        }
    }
    ensure!(!jobs.is_empty(), "there is no virtio disk");
    Ok(jobs)
}

impl Job {
    fn run(mut self, shared: &Shared, worker: &Worker) -> Result<()> {
        for n in 0u64.. {
            if shared.over.load(Relaxed) {
                break;
            }
            if n % STAY == 0 {
                let cpus = self.cpus.as_slice();
                Cpus::one(cpus[self.random.usize(..cpus.len())]).pin()?;
            }
            let since = ticks();
            worker.waits(since);
            let result = self.disk.request().with_context(|| self.name.clone());
            fail(&result);
            worker.waits(0);
            worker.has_done(since);
        }
        Ok(())
    }
}

/// Keeps frames under way on the wire, and takes them when they come back.
fn ask(shared: &Shared, worker: &Worker, mut near: End, far: Address) -> Result<()> {
    let mut under_way = UnderWay::default();
    loop {
        let over = shared.over.load(Relaxed);
        if over && under_way.since.is_empty() {
            return Ok(());
        }
        while !over && under_way.since.len() < WINDOW {
            near.send(under_way.next(), far)?;
        }
        worker.waits(under_way.oldest());
        let back = near
            .receive()
            .and_then(|n| n.map(|n| under_way.back(n)).transpose());
        // Said at once, for others may wait.
        fail(&back);
        if let Some(since) = back? {
            worker.has_done(since);
        }
    }
}

/// Frames that have not come back. Linux may change their order where it changes
/// CPUs, but doesn't lose or double them.
#[derive(Default)]
struct UnderWay {
    /// Ticks when each was sent.
    since: BTreeMap<u64, u64>,
    sent: u64,
}

impl UnderWay {
    /// The number of another one that is sent now.
    fn next(&mut self) -> u64 {
        let number = self.sent;
        self.since.insert(number, ticks());
        self.sent += 1;
        number
    }

    fn oldest(&self) -> u64 {
        self.since.values().copied().min().unwrap_or(0)
    }

    /// One is back, that was sent at the time returned.
    fn back(&mut self, number: u64) -> Result<u64> {
        let since = self.since.remove(&number);
        since.with_context(|| format!("frame {number} came back twice, or was never sent"))
    }
}

/// Sends back what comes.
fn answer(shared: &Shared, end: &mut End) -> Result<()> {
    while !shared.wire_over.load(Relaxed) {
        let echoed = end.echo();
        fail(&echoed);
        echoed?;
    }
    Ok(())
}

/// How often each interrupt was sent to each CPU.
type Sent = BTreeMap<u32, BTreeMap<usize, u64>>;

/// Sends interrupts to CPUs.
struct Mover<'a> {
    shared: &'a Shared,
    cpus: &'a [usize],
    cores: usize,
    /// Nobody else does.
    alone: bool,
    random: fastrand::Rng,
    sent: Sent,
}

impl Mover<'_> {
    fn run(&mut self, lines: &[u32], plan: &Plan) -> Result<()> {
        let start = ticks();
        let mut round = 0;
        while round < plan.rounds || ticks() - start < plan.ticks {
            self.round(lines)?;
            round += 1;
        }
        Ok(())
    }

    /// Each interrupt goes to each CPU once, all at a time, in random order.
    fn round(&mut self, lines: &[u32]) -> Result<()> {
        let orders: Vec<Vec<usize>> = lines
            .iter()
            .map(|_| {
                let mut order = self.cpus.to_vec();
                self.random.shuffle(&mut order);
                order
            })
            .collect();
        for step in 0..self.cpus.len() {
            let mut goes = BTreeMap::new();
            for (&number, order) in lines.iter().zip(&orders) {
                let cpu = order[step];
                let cpu = if interrupts::send_to(number, cpu)? {
                    if self.alone {
                        interrupts::goes_to(number, cpu)?;
                    }
                    cpu
                } else {
                    // Linux's own: it was spread over the CPUs once and for all.
                    let fixed = interrupts::receivers(number)?;
                    let &[cpu] = fixed.as_slice() else {
                        bail!("interrupt {number} goes to CPUs {fixed}");
                    };
                    cpu
                };
                goes.insert(number, cpu);
            }
            self.arrive(&goes)?;
            for (number, cpu) in goes {
                *self.sent.entry(number).or_default().entry(cpu).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Waits until each interrupt has come, often enough, where it goes, and checks
    /// that it came nowhere else.
    fn arrive(&self, goes: &BTreeMap<u32, usize>) -> Result<()> {
        let before = interrupts::all()?;
        let mut late: BTreeSet<u32> = goes.keys().copied().collect();
        let mut now = BTreeMap::new();
        let waited = self.shared.until("an interrupt", || {
            now = interrupts::all()?;
            late.retain(|number| {
                let came = if self.alone {
                    let at = self.receiver(goes[number]);
                    came(&now, &before, *number, at)
                } else {
                    total(&now, *number) - total(&before, *number)
                };
                came < ENOUGH
            });
            Ok(late.is_empty())
        });
        waited.with_context(|| {
            let late = late.iter().map(|number| {
                let line = &now[number];
                format!(
                    "\n{} for CPU {}: {:?}",
                    line.name, goes[number], line.counts
                )
            });
            format!("too few interrupts came: {}", late.collect::<String>())
        })?;
        for (&number, &cpu) in goes.iter().filter(|_| self.alone) {
            let at = self.receiver(cpu);
            let all = total(&now, number) - total(&before, number);
            let elsewhere = all - came(&now, &before, number, at);
            ensure!(
                elsewhere <= LATE,
                "{} was sent to CPU {cpu} and should come to CPU {at}; {elsewhere} came elsewhere: \
                 {:?}, before {:?}",
                now[&number].name,
                now[&number].counts,
                before[&number].counts
            );
        }
        Ok(())
    }

    /// The CPU at which an interrupt for `cpu` arrives.
    fn receiver(&self, cpu: usize) -> usize {
        if cpu < self.cores { cpu } else { 0 }
    }
}

type Table = BTreeMap<u32, Interrupt>;

fn total(table: &Table, number: u32) -> u64 {
    table.get(&number).map_or(0, Interrupt::total)
}

fn came(now: &Table, before: &Table, number: u32, cpu: usize) -> u64 {
    let at = |table: &Table| table.get(&number).map_or(0, |line| line.at(cpu));
    at(now) - at(before)
}

fn report(shared: &Shared, lines: &[u32], mut sent: Sent) -> Result<Devices> {
    let table = interrupts::all()?;
    let mut report = Devices::default();
    for line in lines.iter().filter_map(|number| table.get(number)) {
        let moved = Moved {
            source: line.source.clone(),
            sent: sent.remove(&line.number).unwrap_or_default(),
            came: line.counts.clone(),
        };
        report.interrupts.insert(line.name.clone(), moved);
    }
    if let Some((wire, disks)) = shared.workers.split_last() {
        report.frames = wire.done.load(Relaxed);
        report.longest_frame_ns = shared.time.ns(wire.longest.load(Relaxed));
        report.requests = disks.iter().map(|w| w.done.load(Relaxed)).sum();
        let longest = disks.iter().map(|w| w.longest.load(Relaxed));
        report.longest_request_ns = shared.time.ns(longest.max().unwrap_or(0));
    }
    Ok(report)
}
