// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The data plane of the modelled SmartNIC beside other work: starts the
//! accelerator and a forwarder on each DP core, and collects what they saw.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;

use crate::cpus::Cpus;
use crate::options::Options;
use crate::report::{Accelerator, Forwarder};
use crate::rings::{Phase, Rings};
use crate::time::CoreTime;

/// The options that [`Plane::new`] takes, for a program's help.
pub const HELP: &str = "\
--load F          share of a DP core's time that packets need [default: 0.3]
--service N       instructions spent on a packet [default: 1000]
--burst N         packets that arrive together [default: 16]
--window NS       preprocessing and DMA of a burst [default: 3200]
--threshold N     empty polls before the first yield
--no-probe        the accelerator never says that work is on its way
--no-yield        DP cores are never lent
--rings FILE      shared memory [default: /tmp/taichi-rings]
";

const SLOTS: usize = 4096;
/// For all programs to get ready; generous, for slow hosts.
const START: Duration = Duration::from_secs(120);

/// Which cores, and how they are kept busy.
#[derive(Debug)]
pub struct Plane {
    dp: Cpus,
    accelerator: usize,
    rings: PathBuf,
    /// Options of the accelerator and of the forwarders.
    wire: Vec<String>,
    plane: Vec<String>,
}

impl Plane {
    /// Takes the options in [`HELP`] and the accelerator's core; `seed` is for
    /// the arrivals.
    ///
    /// # Errors
    /// Values are missing or make no sense.
    pub fn new(dp: Cpus, seed: u64, options: &mut Options) -> Result<Self> {
        let accelerator = options.required("--accelerator")?;
        let rings = options.value("--rings", "/tmp/taichi-rings".into())?;
        let load: f64 = options.value("--load", 0.3)?;
        let service: u64 = options.value("--service", 1000)?;
        let burst: u64 = options.value("--burst", 16)?;
        ensure!(
            load > 0.0 && load < 1.0,
            "--load {load}: a share between 0 and 1"
        );
        ensure!(
            service > 0 && burst > 0,
            "--service and --burst: at least 1"
        );
        let gap = (burst * service) as f64 / load;
        let mut wire = words(&[("--burst", &burst), ("--gap", &gap), ("--seed", &seed)]);
        pass(options, &mut wire, &["--window"])?;
        if options.flag("--no-probe") {
            wire.push("--no-probe".into());
        }
        let mut plane = words(&[("--service", &service)]);
        pass(options, &mut plane, &["--threshold"])?;
        if options.flag("--no-yield") {
            plane.push("--no-yield".into());
        }
        Ok(Self {
            dp,
            accelerator,
            rings,
            wire,
            plane,
        })
    }

    /// Its cores, the accelerator's too.
    pub fn cpus(&self) -> Cpus {
        let dp = self.dp.as_slice().iter().copied();
        dp.chain([self.accelerator]).collect()
    }

    /// Runs `work` while packets arrive; what was in flight is still forwarded.
    ///
    /// # Errors
    /// Those of `work`, or a program failed.
    pub fn run<T>(
        &self,
        time: CoreTime,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Accelerator, Vec<Forwarder>)> {
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
        let done = work();
        rings.set_phase(Phase::Stop);

        let accelerator = finish::<Accelerator>(crew.0.remove(0))?;
        let forwarders = crew.0.drain(..).map(finish::<Forwarder>);
        let forwarders = forwarders.collect::<Result<Vec<_>>>()?;
        std::fs::remove_file(&self.rings).with_context(|| path.to_string())?;
        Ok((done?, accelerator, forwarders))
    }
}

/// Options and their values as a command line has them.
pub fn words(options: &[(&str, &dyn Display)]) -> Vec<String> {
    let both = |(name, value): &(&str, &dyn Display)| [(*name).to_owned(), value.to_string()];
    options.iter().flat_map(both).collect()
}

/// Hands options on to a program that knows them.
///
/// # Errors
/// A value is missing.
pub fn pass(options: &mut Options, to: &mut Vec<String>, names: &[&'static str]) -> Result<()> {
    for name in names {
        if let Some(value) = options.optional::<String>(name)? {
            to.extend(words(&[(name, &value)]));
        }
    }
    Ok(())
}

/// One of the other programs, from the directory of this one.
///
/// # Errors
/// Linux doesn't say where that is.
pub fn program(name: &str, time: CoreTime) -> Result<Command> {
    let mut path = std::env::current_exe().context("own program")?;
    path.set_file_name(name);
    let mut command = Command::new(path);
    command.args(words(&[("--scale", &time.scale)]));
    Ok(command)
}

/// Starts it, to be read by [`finish`].
///
/// # Errors
/// It isn't there.
pub fn start(command: &mut Command) -> Result<Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {name}"))
}

/// Programs that spin until they are told to stop; killed when nobody will.
#[derive(Debug)]
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
///
/// # Errors
/// It failed, or printed something else.
pub fn finish<T: DeserializeOwned>(child: Child) -> Result<T> {
    let output = child.wait_with_output().context("waiting for a program")?;
    ensure!(
        output.status.success(),
        "a program failed: {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("a program's report")
}
