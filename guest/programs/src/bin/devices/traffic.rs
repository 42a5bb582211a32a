// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests to disks, and frames on the wire.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result, ensure};
use taichi_guest::cpus::Cpus;
use taichi_guest::disk::Disk;
use taichi_guest::interrupts::{self, Interrupt};
use taichi_guest::time::ticks;
use taichi_guest::wire::{self, Address, End};

use crate::watch::{Shared, Worker, fail};

/// Blocks of a disk that one worker has.
const BLOCKS: usize = 32;
/// Frames under way.
const WINDOW: usize = 16;
/// Requests after which a worker that may run everywhere moves.
const STAY: u64 = 8;

/// A virtio disk.
struct Found {
    path: PathBuf,
    /// Whether Linux gave each of its queues an interrupt.
    queues: bool,
}

/// The interrupts of disks and network interfaces, by number.
pub fn device_interrupts() -> Result<Vec<u32>> {
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
pub struct Job {
    pub name: String,
    disk: Disk,
    /// Where it runs; with several it moves.
    cpus: Cpus,
    random: fastrand::Rng,
}

/// A job for each disk; for each CPU too, if each queue has an interrupt.
pub fn jobs(lines: &[u32], all: &Cpus, seed: u64) -> Result<Vec<Job>> {
    let table = interrupts::all()?;
    let mut disks: BTreeMap<String, Found> = BTreeMap::new();
    for line in lines.iter().filter_map(|number| table.get(number)) {
        for device in devices_of(line) {
            let block = sysfs(&device).join("block");
            if block.exists() {
                let path = Path::new("/dev").join(entry(&block)?);
                let queues = line.name.contains("-req.");
                disks.insert(device, Found { path, queues });
            }
        }
    }
    let mut jobs = Vec::new();
    for (device, Found { path, queues }) in disks {
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
    pub fn run(mut self, shared: &Shared, worker: &Worker) -> Result<()> {
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
pub fn ask(shared: &Shared, worker: &Worker, mut near: End, far: Address) -> Result<()> {
    let mut under_way = UnderWay::default();
    loop {
        let over = shared.over.load(Relaxed);
        if over && under_way.since.is_empty() {
            return Ok(());
        }
        while !over && under_way.since.len() < WINDOW {
            let sent = near.send(under_way.next(), far);
            fail(&sent);
        }
        worker.waits(under_way.oldest());
        fail(&under_way.check(shared.limit));
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

    /// # Errors
    /// The oldest has been under way for nine tenths of `limit` ticks.
    fn check(&self, limit: u64) -> Result<()> {
        let lost = self.since.iter().min_by_key(|(_, since)| **since);
        let Some((number, since)) = lost else {
            return Ok(());
        };
        ensure!(
            ticks().saturating_sub(*since) < limit / 10 * 9,
            "frame {number} of {} doesn't come back; {} are under way; {}",
            self.sent,
            self.since.len(),
            wire::counters(&["eth0", "eth1"])
        );
        Ok(())
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
pub fn answer(shared: &Shared, end: &mut End) -> Result<()> {
    while !shared.wire_over.load(Relaxed) {
        let echoed = end.echo();
        fail(&echoed);
        echoed?;
    }
    Ok(())
}
