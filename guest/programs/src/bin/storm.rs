// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A storm over all CPUs, vCPUs included: threads that migrate all the time
//! while they compute, map and unmap memory, and talk to one another, with
//! exact results. One wrong bit anywhere and the program fails.

use std::collections::BTreeMap;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use memmap2::MmapMut;
use taichi_guest::cpus::{self, Cpus};
use taichi_guest::options::{self, Options};
use taichi_guest::report::Storm;
use taichi_guest::time::{CoreTime, ticks};

const HELP: &str = "\
Threads that migrate over all online CPUs and check everything they do.

Usage: storm [OPTIONS]

--seconds N     how long [default: 10]
--threads N     rounded up to pairs [default: twice the online CPUs]
--seed N        of all choices [default: 1]
--programs N    every so many rounds of a thread start a program; 0: never [default: 64]

Exits with 1 on any mismatch. Prints a report as JSON: rounds by CPU, checks by
name.
";

fn main() -> ExitCode {
    options::main("storm", HELP, run)
}

fn run(mut options: Options) -> Result<()> {
    if options.flag("--nothing") {
        return options.finish();
    }
    let seconds: f64 = options.value("--seconds", 10.0)?;
    let online = Cpus::online()?;
    let threads: usize = options.value("--threads", 2 * online.len())?;
    let seed: u64 = options.value("--seed", 1)?;
    let programs: u64 = options.value("--programs", 64)?;
    options.finish()?;

    let end = Instant::now() + Duration::try_from_secs_f64(seconds).context("--seconds")?;
    let expected = Expected::compute();
    let mut handles = Vec::new();
    for pair in 0..threads.div_ceil(2) {
        for (side, link) in Link::pair()?.into_iter().enumerate() {
            let random = fastrand::Rng::with_seed(seed ^ (pair * 2 + side) as u64);
            let thread = Thread {
                random,
                online: online.clone(),
                expected,
                link,
                programs,
            };
            handles.push(std::thread::spawn(move || thread.run(end)));
        }
    }
    let mut total = Storm {
        threads: handles.len(),
        ..Storm::default()
    };
    for handle in handles {
        add(
            &mut total,
            handle.join().map_err(|_| anyhow!("a thread panicked"))?,
        );
    }
    println!("{}", serde_json::to_string(&total)?);
    ensure!(
        total.mismatches.is_empty(),
        "{} mismatches",
        total.mismatches.len()
    );
    Ok(())
}

/// Adds one thread's report to that of all.
fn add(total: &mut Storm, one: Storm) {
    for (cpu, rounds) in one.rounds_by_cpu {
        *total.rounds_by_cpu.entry(cpu).or_default() += rounds;
    }
    for (name, count) in one.checks {
        *total.checks.entry(name).or_default() += count;
    }
    total.mismatches.extend(one.mismatches);
    total.longest_round_ns = total.longest_round_ns.max(one.longest_round_ns);
}

/// Results known before the storm, on one CPU.
#[derive(Clone, Copy)]
struct Expected {
    floats: [u64; 8],
    integers: u64,
}

impl Expected {
    fn compute() -> Self {
        Self {
            floats: floats(|| ()),
            integers: integers(|| ()),
        }
    }
}

/// Eight logistic maps: chaotic, so that one wrong bit in one register at any
/// time changes the result. `midway` runs with the values alive.
fn floats(mut midway: impl FnMut()) -> [u64; 8] {
    let mut x = [0.11, 0.17, 0.23, 0.29, 0.31, 0.37, 0.41, 0.43f64];
    for turn in 0..4_000 {
        for lane in &mut x {
            *lane = 3.99 * *lane * (1.0 - *lane);
        }
        if turn == 2_000 {
            midway();
        }
    }
    x.map(f64::to_bits)
}

/// A chain of multiplications and rotations through general registers.
fn integers(mut midway: impl FnMut()) -> u64 {
    let mut x = [1u64, 2, 3, 5, 7, 11];
    for turn in 0..8_000u64 {
        for n in 0..x.len() {
            let left = x[(n + 5) % 6];
            x[n] = (x[n] ^ left.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ turn;
        }
        if turn == 4_000 {
            midway();
        }
    }
    x.into_iter().fold(0, u64::wrapping_add)
}

/// In place of a count of turns: a partner is gone.
const BROKEN: u64 = u64::MAX;

/// One end of a pair of threads.
struct Link {
    reader: PipeReader,
    writer: PipeWriter,
    /// Whose turn it is, and how often it changed; a futex below.
    turns: Arc<(Mutex<u64>, Condvar)>,
    side: u64,
}

impl Link {
    fn pair() -> Result<[Self; 2]> {
        let (here, there) = (std::io::pipe()?, std::io::pipe()?);
        let turns = Arc::new((Mutex::new(0), Condvar::new()));
        let other = Arc::clone(&turns);
        Ok([
            Self {
                reader: here.0,
                writer: there.1,
                turns,
                side: 0,
            },
            Self {
                reader: there.0,
                writer: here.1,
                turns: other,
                side: 1,
            },
        ])
    }

    /// Sends a number and gets the partner's; both send the same one.
    fn exchange(&mut self, number: u64) -> Result<u64> {
        let mut back = [0; 8];
        self.writer
            .write_all(&number.to_le_bytes())
            .context("pipe")?;
        self.reader.read_exact(&mut back).context("pipe")?;
        Ok(u64::from_le_bytes(back))
    }

    /// Takes turns with the partner; returns the count after the last turn.
    fn take_turns(&self, turns: u64) -> Result<u64> {
        let (lock, changed) = &*self.turns;
        let poisoned = || anyhow!("the partner panicked");
        let mut count = lock.lock().map_err(|_| poisoned())?;
        for _ in 0..turns {
            count = changed
                .wait_while(count, |count| *count != BROKEN && *count % 2 != self.side)
                .map_err(|_| poisoned())?;
            ensure!(*count != BROKEN, "the partner gave up");
            *count += 1;
            changed.notify_one();
        }
        Ok(*count)
    }
}

impl Drop for Link {
    /// The partner must not wait for a thread that is gone. One that has
    /// finished as planned leaves nobody waiting.
    fn drop(&mut self) {
        let (lock, changed) = &*self.turns;
        if let Ok(mut count) = lock.lock() {
            *count = BROKEN;
        }
        changed.notify_all();
    }
}

struct Thread {
    random: fastrand::Rng,
    online: Cpus,
    expected: Expected,
    link: Link,
    programs: u64,
}

impl Thread {
    /// Rounds until the end. The partners do the same number: the first one
    /// decides, and says so with each number that it sends.
    fn run(mut self, end: Instant) -> Storm {
        let mut report = Storm::default();
        let time = CoreTime::clock();
        for round in 0.. {
            let before = ticks();
            let more = match self.round(round, end, &mut report) {
                Ok(more) => more,
                Err(error) => {
                    let cpu = cpus::current();
                    report
                        .mismatches
                        .push(format!("round {round} on CPU {cpu}: {error:#}"));
                    false
                }
            };
            let ns = time.ns(ticks() - before);
            report.longest_round_ns = report.longest_round_ns.max(ns);
            *report.rounds_by_cpu.entry(cpus::current()).or_default() += 1;
            if !more {
                break;
            }
        }
        report
    }

    fn round(&mut self, round: u64, end: Instant, report: &mut Storm) -> Result<bool> {
        let checks = &mut report.checks;
        self.check_floats()?;
        count(checks, "floats");
        self.check_integers()?;
        count(checks, "integers");
        check_memory(self.random.u64(..))?;
        count(checks, "memory");
        if self.programs > 0 && (round + 1).is_multiple_of(self.programs) {
            check_program()?;
            count(checks, "programs");
        }
        let more = self.check_partner(round, end)?;
        count(checks, "partner");
        Ok(more)
    }

    /// To a random CPU; it must be there when the call returns.
    fn migrate(random: &mut fastrand::Rng, online: &Cpus) -> Result<()> {
        let Some(&cpu) = random.choice(online.as_slice()) else {
            bail!("no CPU is online")
        };
        Cpus::one(cpu).pin()?;
        let here = cpus::current();
        ensure!(here == cpu, "pinned to CPU {cpu}, running on CPU {here}");
        Ok(())
    }

    fn check_floats(&mut self) -> Result<()> {
        let mut moved = Ok(());
        let result = floats(|| moved = Self::migrate(&mut self.random, &self.online));
        moved?;
        let expected = self.expected.floats;
        ensure!(result == expected, "floats: {result:x?}, not {expected:x?}");
        Ok(())
    }

    fn check_integers(&mut self) -> Result<()> {
        let mut moved = Ok(());
        let result = integers(|| moved = Self::migrate(&mut self.random, &self.online));
        moved?;
        let expected = self.expected.integers;
        ensure!(
            result == expected,
            "integers: {result:#x}, not {expected:#x}"
        );
        Ok(())
    }

    /// Talks to the partner; returns whether there is another round.
    fn check_partner(&mut self, round: u64, end: Instant) -> Result<bool> {
        const TURNS: u64 = 8;
        let theirs = self.link.exchange(round)?;
        ensure!(theirs == round, "pipe: {theirs}, not {round}");
        let count = self.link.take_turns(TURNS)?;
        let least = 2 * TURNS * (round + 1) - 1 + self.link.side;
        ensure!(count == least, "turns: {count}, not {least}");
        let over = u64::from(Instant::now() >= end);
        let partner_over = self.link.exchange(over)?;
        Ok(over == 0 && partner_over == 0)
    }
}

fn count(checks: &mut BTreeMap<String, u64>, name: &str) {
    match checks.get_mut(name) {
        Some(count) => *count += 1,
        None => {
            checks.insert(name.to_owned(), 1);
        }
    }
}

/// Fresh memory is zero, keeps what is written, also when it is read-only, and
/// is gone afterwards; other threads of the process see the invalidations.
fn check_memory(seed: u64) -> Result<()> {
    const BYTES: usize = 64 * 1024;
    const STEP: usize = 61;
    const CHANGED: usize = BYTES / 2 / STEP * STEP;
    let value = |n: usize| seed.wrapping_mul(n as u64 | 1) as u8;
    let mut memory = MmapMut::map_anon(BYTES).context("mmap")?;
    ensure!(
        memory.iter().all(|&byte| byte == 0),
        "memory: fresh pages are not zero"
    );
    for (n, byte) in memory.iter_mut().enumerate().step_by(STEP) {
        *byte = value(n);
    }
    let memory = memory.make_read_only().context("mprotect")?;
    let kept = memory
        .iter()
        .enumerate()
        .step_by(STEP)
        .all(|(n, &byte)| byte == value(n));
    ensure!(kept, "memory: changed when it became read-only");
    let mut memory = memory.make_mut().context("mprotect")?;
    memory[CHANGED] ^= 0xff;
    let kept = memory.iter().enumerate().step_by(STEP).all(|(n, &byte)| {
        let changed = if n == CHANGED { 0xff } else { 0 };
        byte == value(n) ^ changed
    });
    ensure!(kept, "memory: changed when it became writable");
    Ok(())
}

fn check_program() -> Result<()> {
    let program = std::env::current_exe().context("own program")?;
    let status = Command::new(program)
        .arg("--nothing")
        .status()
        .context("starting a program")?;
    ensure!(
        status.success(),
        "a program that does nothing failed: {status}"
    );
    Ok(())
}
