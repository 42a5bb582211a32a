// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The control plane: many management tasks at once, each a fixed amount of
//! computing and system calls. What counts is when the last one has finished.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use memmap2::MmapMut;
use rustix::time::{ClockId, clock_gettime};
use taichi_guest::cpus::{self, Cpus};
use taichi_guest::options::{self, Options};
use taichi_guest::report::{Computing, CpTask, CpWork};
use taichi_guest::spin::spin;
use taichi_guest::time::{CoreTime, ticks};

const HELP: &str = "\
The control plane: concurrent tasks with a fixed amount of work.

Usage: cpwork [OPTIONS]

--tasks N       concurrent processes [default: 32]
--rounds N      rounds of work of each [default: 4]
--compute N     instructions of computing in a round [default: 4000000]
--spawns N      every so many rounds start a program; 0: never [default: 4]
--cpus LIST     run on these [default: as started]
--dir DIR       for the tasks' files [default: /tmp]
--scale N       ns of the clock in one of core time [default: 1]

A round computes, writes and reads back a file, passes messages through a pipe,
maps and unmaps memory; every so often it starts a program and waits for it.
All that comes back is compared. Prints a report as JSON.
";

fn main() -> ExitCode {
    options::main("cpwork", HELP, run)
}

fn run(mut options: Options) -> Result<()> {
    if options.flag("--nothing") {
        return options.finish();
    }
    let task: Option<usize> = options.optional("--task")?;
    let tasks: usize = options.value("--tasks", 32)?;
    let work = Work {
        rounds: options.value("--rounds", 4)?,
        compute: options.value("--compute", 4_000_000)?,
        spawns: options.value("--spawns", 4)?,
        dir: options.value("--dir", PathBuf::from("/tmp"))?,
    };
    let cpus: Option<Cpus> = options.optional("--cpus")?;
    let time = CoreTime::new(options.value("--scale", 1.0)?)?;
    options.finish()?;
    if let Some(cpus) = cpus {
        cpus.pin()?;
    }
    match task {
        Some(number) => println!("{}", serde_json::to_string(&work.task(number)?)?),
        None => println!("{}", serde_json::to_string(&work.all(tasks, time)?)?),
    }
    Ok(())
}

/// What each task does.
struct Work {
    rounds: u64,
    compute: u64,
    spawns: u64,
    dir: PathBuf,
}

impl Work {
    /// Starts all tasks, waits for them, adds up what they say.
    fn all(&self, tasks: usize, time: CoreTime) -> Result<CpWork> {
        let (clock, start) = (Instant::now(), ticks());
        let children = (0..tasks)
            .map(|n| self.start(n))
            .collect::<Result<Vec<_>>>()?;
        let done = children
            .into_iter()
            .map(finish)
            .collect::<Result<Vec<_>>>()?;
        let (end, monotonic) = (ticks(), clock.elapsed());

        let mut finished_ns: Vec<u64> = done
            .iter()
            .map(|t| time.ns(t.finished_ticks.saturating_sub(start)))
            .collect();
        finished_ns.sort_unstable();
        let mut rounds_by_cpu = BTreeMap::new();
        for (cpu, rounds) in done.iter().flat_map(|t| &t.rounds_by_cpu) {
            *rounds_by_cpu.entry(*cpu).or_default() += rounds;
        }
        let mut computing = BTreeMap::<usize, Computing>::new();
        for (cpu, one) in done.iter().flat_map(|t| &t.computing) {
            let all = computing.entry(*cpu).or_default();
            all.instructions += one.instructions;
            all.clock_ns += one.clock_ns;
        }
        let monotonic_ns = (monotonic.as_nanos() as f64 / time.scale) as u64;
        let completion_ns = time.ns(end - start);
        let rounds = self.rounds;
        Ok(CpWork {
            tasks,
            rounds,
            completion_ns,
            monotonic_ns,
            finished_ns,
            rounds_by_cpu,
            computing,
        })
    }

    fn start(&self, number: usize) -> Result<Child> {
        Command::new(std::env::current_exe().context("own program")?)
            .args(["--task", &number.to_string()])
            .args(["--rounds", &self.rounds.to_string()])
            .args(["--compute", &self.compute.to_string()])
            .args(["--spawns", &self.spawns.to_string()])
            .arg("--dir")
            .arg(&self.dir)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("task {number}"))
    }

    /// One task, in its own process.
    fn task(&self, number: usize) -> Result<CpTask> {
        let mut random = fastrand::Rng::with_seed(number as u64);
        let file = self.dir.join(format!("cpwork-{}", std::process::id()));
        let mut rounds_by_cpu = BTreeMap::new();
        let mut computing = BTreeMap::<usize, Computing>::new();
        for round in 1..=self.rounds {
            let (cpu, before) = (cpus::current(), cpu_time());
            spin(self.compute);
            if cpus::current() == cpu {
                let sum = computing.entry(cpu).or_default();
                sum.instructions += self.compute;
                sum.clock_ns += cpu_time() - before;
            }
            let mut data = vec![0; 4096];
            random.fill(&mut data);
            use_file(&file, &data)?;
            use_pipe(&data)?;
            use_memory(&data)?;
            if self.spawns > 0 && round.is_multiple_of(self.spawns) {
                use_program()?;
            }
            *rounds_by_cpu.entry(cpus::current()).or_default() += 1;
        }
        Ok(CpTask {
            finished_ticks: ticks(),
            rounds_by_cpu,
            computing,
        })
    }
}

/// The CPU time of this thread, in ns of the clock.
fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Waits for a task and reads what it says.
fn finish(child: Child) -> Result<CpTask> {
    let output = child.wait_with_output().context("waiting for a task")?;
    if !output.status.success() {
        bail!("a task failed: {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("a task's report")
}

fn use_file(path: &Path, data: &[u8]) -> Result<()> {
    fs::write(path, data).with_context(|| path.display().to_string())?;
    let back = fs::read(path).with_context(|| path.display().to_string())?;
    ensure!(back == data, "{}: read back something else", path.display());
    fs::remove_file(path).with_context(|| path.display().to_string())
}

fn use_pipe(data: &[u8]) -> Result<()> {
    let (mut reader, mut writer) = std::io::pipe().context("pipe")?;
    let mut back = [0; 64];
    for message in data.chunks_exact(back.len()).take(16) {
        writer.write_all(message).context("pipe")?;
        reader.read_exact(&mut back).context("pipe")?;
        ensure!(back == message, "a pipe gave something else");
    }
    Ok(())
}

fn use_memory(data: &[u8]) -> Result<()> {
    let mut memory = MmapMut::map_anon(16 * data.len()).context("mmap")?;
    for page in memory.chunks_exact_mut(data.len()) {
        page.copy_from_slice(data);
    }
    let memory = memory.make_read_only().context("mprotect")?;
    ensure!(
        memory.chunks_exact(data.len()).all(|page| page == data),
        "memory has changed"
    );
    Ok(())
}

fn use_program() -> Result<()> {
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
