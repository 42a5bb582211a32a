// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The whole modelled SmartNIC: starts the accelerator, a forwarder on each DP
//! core, and the control plane; prints what all of them have seen.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use taichi_dataplane::Telemetry;
use taichi_guest::cpus::Cpus;
use taichi_guest::options::{self, Options};
use taichi_guest::report::{Accelerator, CpWork, Forwarder, SmartNic};
use taichi_guest::rings::{Phase, Rings};
use taichi_guest::time::CoreTime;

const HELP: &str = "\
The whole modelled SmartNIC.

Usage: smartnic --dp LIST --accelerator N --cp LIST [OPTIONS]

--dp LIST         DP cores
--accelerator N   the accelerator's core
--cp LIST         CPUs of the control plane: CP cores, and vCPUs where there are any
--load F          share of a DP core's time that packets need [default: 0.3]
--service N       instructions spent on a packet [default: 1000]
--burst N         packets that arrive together [default: 16]
--window NS       preprocessing and DMA of a burst [default: 3200]
--seed N          of the arrivals [default: 1]
--threshold N     empty polls before the first yield
--no-probe        the accelerator never says that work is on its way
--no-yield        DP cores are never lent
--tasks, --rounds, --compute, --spawns N, --dir DIR   as for `cpwork`
--scale N         cores that share virtual time [default: 1]
--rings FILE      shared memory [default: /tmp/taichi-rings]

The programs accelerator, forwarder and cpwork are started from the directory
of this one. A core is taken to execute 1 instruction per ns of core time.
";

const SLOTS: usize = 4096;
/// For all programs to get ready; generous, for slow hosts.
const START: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    options::main("smartnic", HELP, run)
}

fn run(mut options: Options) -> Result<()> {
    let dp: Cpus = options.required("--dp")?;
    let accelerator: usize = options.required("--accelerator")?;
    let cp: Cpus = options.required("--cp")?;
    let load: f64 = options.value("--load", 0.3)?;
    let service: u64 = options.value("--service", 1000)?;
    let burst: u64 = options.value("--burst", 16)?;
    let time = CoreTime::new(options.value("--scale", 1)?);
    let path: PathBuf = options.value("--rings", "/tmp/taichi-rings".into())?;
    ensure!(
        load > 0.0 && load < 1.0,
        "--load {load}: a share between 0 and 1"
    );
    ensure!(
        service > 0 && burst > 0,
        "--service and --burst: at least 1"
    );

    let programs = Programs::beside_this_one(time)?;
    let mut wire = programs.command("accelerator", &path);
    wire.args([
        "--cpu",
        &accelerator.to_string(),
        "--cores",
        &dp.to_string(),
    ])
    .args(["--burst", &burst.to_string()])
    .args(["--gap", &((burst * service) as f64 / load).to_string()]);
    pass(
        &mut options,
        &mut wire,
        &["--window", "--seed"],
        &["--no-probe"],
    )?;

    let mut plane = programs.command("forwarder", &path);
    plane.args(["--service", &service.to_string()]);
    pass(&mut options, &mut plane, &["--threshold"], &["--no-yield"])?;
    let plane: Vec<_> = plane.get_args().map(ToOwned::to_owned).collect();

    let mut control = programs.bare("cpwork");
    control.args(["--cpus", &cp.to_string()]);
    pass(
        &mut options,
        &mut control,
        &["--tasks", "--rounds", "--compute", "--spawns", "--dir"],
        &[],
    )?;
    options.finish()?;

    cp.pin()?;
    let rings = Rings::create(&path, dp.len(), SLOTS)?;
    let mut crew = Crew(vec![start(&mut wire)?]);
    for (n, cpu) in dp.as_slice().iter().enumerate() {
        let mut command = Command::new(programs.path("forwarder"));
        command
            .args(&plane)
            .args(["--ring", &n.to_string(), "--cpu", &cpu.to_string()]);
        crew.0.push(start(&mut command)?);
    }
    crew.wait_until_ready(&rings)?;
    rings.set_phase(Phase::Run);
    let cp = start(&mut control).and_then(finish::<CpWork>);
    rings.set_phase(Phase::Stop);

    let accelerator = finish::<Accelerator>(crew.0.remove(0))?;
    let forwarders = crew
        .0
        .drain(..)
        .map(finish::<Forwarder>)
        .collect::<Result<Vec<_>>>()?;
    std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
    let firmware = Telemetry::open()?.is_some();
    let (hz, scale) = (time.hz, time.scale);
    let nic = SmartNic {
        hz,
        scale,
        firmware,
        accelerator,
        forwarders,
        cp: cp?,
    };
    println!("{}", serde_json::to_string(&nic)?);
    Ok(())
}

/// Hands options on to a program that knows them.
fn pass(
    options: &mut Options,
    command: &mut Command,
    values: &[&'static str],
    flags: &[&'static str],
) -> Result<()> {
    for name in values {
        if let Some(value) = options.optional::<String>(name)? {
            command.args([name, value.as_str()]);
        }
    }
    for name in flags {
        if options.flag(name) {
            command.arg(name);
        }
    }
    Ok(())
}

/// Where the other programs are.
struct Programs {
    dir: PathBuf,
    scale: u64,
}

impl Programs {
    fn beside_this_one(time: CoreTime) -> Result<Self> {
        let mut dir = std::env::current_exe().context("own program")?;
        dir.pop();
        Ok(Self {
            dir,
            scale: time.scale,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn bare(&self, name: &str) -> Command {
        let mut command = Command::new(self.path(name));
        command.args(["--scale", &self.scale.to_string()]);
        command
    }

    fn command(&self, name: &str, rings: &Path) -> Command {
        let mut command = self.bare(name);
        command.arg("--rings").arg(rings);
        command
    }
}

fn start(command: &mut Command) -> Result<Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {name}"))
}

/// Programs that spin until they are told to stop; killed when nobody will.
struct Crew(Vec<Child>);

impl Crew {
    /// Until every program has said that it is ready, or one has given up.
    fn wait_until_ready(&mut self, rings: &Rings) -> Result<()> {
        let since = Instant::now();
        while rings.ready() < self.0.len() as u64 {
            for child in &mut self.0 {
                if let Some(status) = child.try_wait().context("waiting for a program")? {
                    bail!("a program of the data plane gave up: {status}");
                }
            }
            ensure!(
                since.elapsed() < START,
                "the data plane isn't ready after {START:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Fails only where the program has ended by itself.
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

/// Waits for a program and reads its report.
fn finish<T: DeserializeOwned>(child: Child) -> Result<T> {
    let output = child.wait_with_output().context("waiting for a program")?;
    ensure!(
        output.status.success(),
        "a program failed: {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("a program's report")
}
