// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Uses what cores have beyond plain code, in threads that another one moves
//! over all CPUs, vCPUs included, with exact results.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::thread::{CpuSet, Pid};
use taichi_guest::cpus::{self, Cpus};
use taichi_guest::debugger::{Point, Stepped};
use taichi_guest::options::{self, Options};
use taichi_guest::report::Features;
use taichi_guest::{keys, vectors};

const HELP: &str = "\
Uses what cores have beyond plain code, in threads that are moved over all CPUs,
and checks all it does.

Usage: features [--rounds N] [--seed N]

--rounds N      of each check, at least; and until every CPU was used [default: 400]
--seed N        of all choices [default: 1]

Checks SVE and pointer authentication where the CPUs have them, watchpoints,
breakpoints and single-step. Exits with 1 on any mismatch. Prints a report as
JSON: rounds by check, and by CPU.
";

/// Makes the program print its signatures.
const SIGN: &str = "--sign";

fn main() -> ExitCode {
    options::main("features", HELP, run)
}

/// A check: it is given a word that says that it may go on, and counts its rounds
/// there.
type Check = fn(&mut Rounds) -> Result<()>;

fn run(mut options: Options) -> Result<()> {
    if options.flag(SIGN) {
        println!("{}", serde_json::to_string(&keys::signatures())?);
        return options.finish();
    }
    let rounds: u64 = options.value("--rounds", 400)?;
    let seed: u64 = options.value("--seed", 1)?;
    options.finish()?;

    let mut checks: Vec<(&str, Check)> = vec![("watchpoint", watch), ("breakpoint", call)];
    checks.push(("step", step));
    if vectors::there() {
        checks.extend([("sve", long_vectors as Check), ("sve-short", short_vectors)]);
    }
    if keys::there() {
        checks.push(("keys", sign));
    }
    let online = Cpus::online()?;
    let (tell, told) = mpsc::channel();
    let mut workers = Vec::new();
    for (n, &(name, check)) in checks.iter().enumerate() {
        let state = Arc::new(State::default());
        let mut mine = Rounds {
            state: Arc::clone(&state),
            random: fastrand::Rng::with_seed(seed ^ n as u64),
            cpus: vec![0; online.as_slice().last().map_or(0, |last| last + 1)],
            tell: tell.clone(),
        };
        let thread = std::thread::spawn(move || {
            let result = mine
                .begin(rustix::thread::gettid())
                .and_then(|()| check(&mut mine));
            mine.state.over.store(true, Relaxed);
            result.map(|()| mine.cpus)
        });
        workers.push((name, state, thread));
    }
    let targets: Vec<Pid> = workers.iter().filter_map(|_| told.recv().ok()).collect();
    move_all(
        &targets,
        &workers.iter().map(|w| &*w.1).collect::<Vec<_>>(),
        rounds,
        seed,
    )?;

    let mut report = Features::default();
    for (name, state, thread) in workers {
        let cpus = thread.join().map_err(|_| anyhow!("{name} panicked"))?;
        let cpus = cpus.with_context(|| format!("check {name}"))?;
        report
            .checks
            .insert(name.to_owned(), state.rounds.load(Relaxed));
        for &cpu in online.as_slice() {
            ensure!(cpus[cpu] > 0, "{name} never ran on CPU {cpu}");
            *report.rounds_by_cpu.entry(cpu).or_default() += cpus[cpu];
        }
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// What a check and the thread that moves it share.
#[derive(Default)]
struct State {
    rounds: AtomicU64,
    enough: AtomicBool,
    over: AtomicBool,
    /// CPUs on which a round has ended.
    used: AtomicU64,
}

/// A check's own side.
struct Rounds {
    state: Arc<State>,
    random: fastrand::Rng,
    cpus: Vec<u64>,
    tell: mpsc::Sender<Pid>,
}

impl Rounds {
    /// Says which thread is to be moved.
    fn begin(&self, thread: Pid) -> Result<()> {
        self.tell.send(thread).context("the mover is gone")
    }

    /// A round is over; whether there is another.
    fn more(&mut self) -> bool {
        let cpu = cpus::current();
        self.cpus[cpu] += 1;
        self.state.rounds.fetch_add(1, Relaxed);
        self.state.used.fetch_or(1 << (cpu % 64), Relaxed);
        !self.state.enough.load(Relaxed)
    }
}

/// Moves the threads from CPU to CPU until each has done its rounds, on all.
fn move_all(threads: &[Pid], states: &[&State], rounds: u64, seed: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(!seed);
    let online = Cpus::online()?;
    let all = online
        .as_slice()
        .iter()
        .fold(0, |all, cpu| all | 1 << (cpu % 64));
    let end = Instant::now() + Duration::from_secs(300);
    while states.iter().any(|state| !state.over.load(Relaxed)) {
        for &thread in threads {
            let Some(&cpu) = random.choice(online.as_slice()) else {
                bail!("no CPU is online")
            };
            // It may be gone by now.
            let _ = pin(thread, cpu);
        }
        std::thread::sleep(Duration::from_micros(500));
        let late = Instant::now() > end;
        for state in states {
            let enough = state.rounds.load(Relaxed) >= rounds && state.used.load(Relaxed) == all;
            state.enough.fetch_or(enough || late, Relaxed);
        }
    }
    Ok(())
}

fn pin(thread: Pid, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(Some(thread), &set)?;
    Ok(())
}

fn long_vectors(rounds: &mut Rounds) -> Result<()> {
    vector_rounds(rounds, 256)
}

fn short_vectors(rounds: &mut Rounds) -> Result<()> {
    vector_rounds(rounds, 16)
}

fn vector_rounds(rounds: &mut Rounds, bytes: usize) -> Result<()> {
    let length = vectors::set_length(bytes)?;
    loop {
        vectors::check(&mut rounds.random, length, 50_000)?;
        if !rounds.more() {
            return Ok(());
        }
    }
}

fn sign(rounds: &mut Rounds) -> Result<()> {
    let expected = keys::signatures();
    keys::check_other_program(&expected, SIGN)?;
    loop {
        keys::check(&expected, 200)?;
        if !rounds.more() {
            return Ok(());
        }
    }
}

/// Stores to a word that is watched, and to its neighbours.
fn watch(rounds: &mut Rounds) -> Result<()> {
    let words = [const { AtomicU64::new(0) }; 3];
    let mut point = Point::store(words[1].as_ptr())?;
    let mut expected = 0;
    loop {
        for n in 0..rounds.random.u64(1..4) {
            words.iter().for_each(|word| word.store(n, Relaxed));
            expected += 1;
        }
        let hits = point.hits()?;
        ensure!(
            hits == expected,
            "watchpoint: {hits} hits of {expected} stores"
        );
        if !rounds.more() {
            return Ok(());
        }
    }
}

#[inline(never)]
extern "C" fn called() {
    std::hint::black_box(());
}

#[inline(never)]
extern "C" fn not_watched() {
    std::hint::black_box(1);
}

/// Calls a function with a breakpoint, and another.
fn call(rounds: &mut Rounds) -> Result<()> {
    let mut point = Point::call(called)?;
    let mut expected = 0;
    loop {
        for _ in 0..rounds.random.u64(1..4) {
            std::hint::black_box(not_watched as extern "C" fn())();
            std::hint::black_box(called as extern "C" fn())();
            expected += 1;
        }
        let hits = point.hits()?;
        ensure!(
            hits == expected,
            "breakpoint: {hits} hits of {expected} calls"
        );
        if !rounds.more() {
            return Ok(());
        }
    }
}

/// Steps a child, which is moved as well.
fn step(rounds: &mut Rounds) -> Result<()> {
    let mut stepped = Stepped::new()?;
    let child = Pid::from_raw(stepped.pid()).context("the child's number")?;
    let online = Cpus::online()?;
    loop {
        if let Some(&cpu) = rounds.random.choice(online.as_slice()) {
            pin(child, cpu)?;
        }
        for _ in 0..8 {
            stepped.step()?;
        }
        if !rounds.more() {
            return Ok(());
        }
    }
}
