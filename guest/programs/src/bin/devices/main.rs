// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Moves the interrupts of virtio disks and network interfaces over all CPUs while
//! there is traffic, and checks that each arrives where it should and that no
//! request or frame is lost.

mod mover;
mod traffic;
mod watch;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use taichi_guest::cpus::Cpus;
use taichi_guest::interrupts;
use taichi_guest::options::{self, Options};
use taichi_guest::report::{Devices, Moved};
use taichi_guest::time::CoreTime;
use taichi_guest::wire::End;

use mover::{Mover, Plan, Sent};
use traffic::{Job, answer, ask, device_interrupts, jobs};
use watch::{Shared, Worker, fail};

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

/// Given to the process that works. A thread that waits for a lost request can't be
/// ended, nor its process; so another one takes its word.
const WORK: &str = "--work";

fn main() -> ExitCode {
    options::main("devices", HELP, |mut options| {
        if options.flag(WORK) {
            run(options)
        } else {
            supervise()
        }
    })
}

/// Starts the process that works, and ends with the first line that it prints: its
/// report, or what is wrong.
fn supervise() -> Result<()> {
    let program = std::env::current_exe().context("this program")?;
    let mut work = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg(WORK)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the process that works")?;
    let output = work.stdout.take().context("its output")?;
    match BufReader::new(output).lines().next() {
        Some(Ok(report)) if report.starts_with('{') => println!("{report}"),
        Some(wrong) => bail!(wrong?),
        None => bail!("the process that works failed"),
    }
    Ok(())
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
        fail(&moved);
        for thread in threads {
            let ended = shared.until("the end of a worker", || Ok(thread.is_finished()));
            fail(&ended);
            thread.join().map_err(|_| anyhow!("a worker panicked"))??;
        }
        shared.wire_over.store(true, Relaxed);
        echo.join().map_err(|_| anyhow!("the echo panicked"))??;
        moved.map(|()| mover.sent)
    })
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
