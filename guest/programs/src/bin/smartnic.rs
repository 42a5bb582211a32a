// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The whole modelled SmartNIC: starts the accelerator, a forwarder on each DP
//! core, and the control plane; prints what all of them have seen.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use taichi_dataplane::Telemetry;
use taichi_guest::cpus::Cpus;
use taichi_guest::options::{self, Options};
use taichi_guest::report::{Accelerator, CpWork, Forwarder, SmartNic, measured_scale};
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
--scale N         ns of the clock in one of core time [default: 1]
--calibrate       runs twice: the second time with the scale that the first
                  one has measured on the DP cores
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
    let mut nic = Nic {
        dp: options.required("--dp")?,
        accelerator: options.required("--accelerator")?,
        cp: options.required("--cp")?,
        rings: options.value("--rings", "/tmp/taichi-rings".into())?,
        wire: Vec::new(),
        plane: Vec::new(),
        control: Vec::new(),
    };
    let load: f64 = options.value("--load", 0.3)?;
    let service: u64 = options.value("--service", 1000)?;
    let burst: u64 = options.value("--burst", 16)?;
    let scale: f64 = options.value("--scale", 1.0)?;
    let calibrate = options.flag("--calibrate");
    ensure!(
        load > 0.0 && load < 1.0,
        "--load {load}: a share between 0 and 1"
    );
    ensure!(
        service > 0 && burst > 0,
        "--service and --burst: at least 1"
    );
    let gap = (burst * service) as f64 / load;
    nic.wire = words(&[("--burst", &burst), ("--gap", &gap)]);
    pass(&mut options, &mut nic.wire, &["--window", "--seed"])?;
    if options.flag("--no-probe") {
        nic.wire.push("--no-probe".into());
    }
    nic.plane = words(&[("--service", &service)]);
    pass(&mut options, &mut nic.plane, &["--threshold"])?;
    if options.flag("--no-yield") {
        nic.plane.push("--no-yield".into());
    }
    let names = ["--tasks", "--rounds", "--compute", "--spawns", "--dir"];
    pass(&mut options, &mut nic.control, &names)?;
    options.finish()?;

    nic.cp.pin()?;
    let mut time = CoreTime::new(scale)?;
    if calibrate {
        time = CoreTime::new(nic.run(time)?.measured_scale)?;
    }
    println!("{}", serde_json::to_string(&nic.run(time)?)?);
    Ok(())
}

/// Everything but the time.
struct Nic {
    dp: Cpus,
    accelerator: usize,
    cp: Cpus,
    rings: PathBuf,
    /// Options of the accelerator, of the forwarders, and of the control plane.
    wire: Vec<String>,
    plane: Vec<String>,
    control: Vec<String>,
}

impl Nic {
    /// Runs everything once.
    fn run(&self, time: CoreTime) -> Result<SmartNic> {
        let rings = Rings::create(&self.rings, self.dp.len(), SLOTS)?;
        let path = self.rings.display();
        let mut wire = program("accelerator", time)?;
        wire.args(&self.wire).args(words(&[
            ("--rings", &path),
            ("--cpu", &self.accelerator),
            ("--cores", &self.dp),
        ]));
        let mut crew = Crew(vec![start(&mut wire)?]);
        for (n, cpu) in self.dp.as_slice().iter().enumerate() {
            let mut plane = program("forwarder", time)?;
            plane.args(&self.plane).args(words(&[
                ("--rings", &path),
                ("--ring", &n),
                ("--cpu", cpu),
            ]));
            crew.0.push(start(&mut plane)?);
        }
        crew.wait_until_ready(&rings)?;
        rings.set_phase(Phase::Run);
        let mut control = program("cpwork", time)?;
        control
            .args(&self.control)
            .args(words(&[("--cpus", &self.cp)]));
        let cp = start(&mut control).and_then(finish::<CpWork>);
        rings.set_phase(Phase::Stop);

        let accelerator = finish::<Accelerator>(crew.0.remove(0))?;
        let forwarders = crew.0.drain(..).map(finish::<Forwarder>);
        let forwarders = forwarders.collect::<Result<Vec<_>>>()?;
        std::fs::remove_file(&self.rings).with_context(|| path.to_string())?;
        Ok(SmartNic {
            hz: time.hz,
            scale: time.scale,
            measured_scale: measured_scale(time.hz, &forwarders),
            firmware: Telemetry::open()?.is_some(),
            accelerator,
            forwarders,
            cp: cp?,
        })
    }
}

/// Options and their values as a command line has them.
fn words(options: &[(&str, &dyn Display)]) -> Vec<String> {
    let both = |(name, value): &(&str, &dyn Display)| [(*name).to_owned(), value.to_string()];
    options.iter().flat_map(both).collect()
}

/// Hands options on to a program that knows them.
fn pass(options: &mut Options, to: &mut Vec<String>, names: &[&'static str]) -> Result<()> {
    for name in names {
        if let Some(value) = options.optional::<String>(name)? {
            to.extend(words(&[(name, &value)]));
        }
    }
    Ok(())
}

/// One of the other programs.
fn program(name: &str, time: CoreTime) -> Result<Command> {
    let mut path = std::env::current_exe().context("own program")?;
    path.set_file_name(name);
    let mut command = Command::new(path);
    command.args(words(&[("--scale", &time.scale)]));
    Ok(command)
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
