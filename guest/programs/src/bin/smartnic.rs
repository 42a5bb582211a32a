// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The whole modelled SmartNIC: starts the accelerator, a forwarder on each DP
//! core, and the control plane; prints what all of them have seen.

use std::process::ExitCode;

use anyhow::Result;
use taichi_dataplane::Telemetry;
use taichi_guest::cpus::Cpus;
use taichi_guest::options::{self, Options};
use taichi_guest::plane::{self, Plane};
use taichi_guest::report::{CpWork, SmartNic, measured_scale};
use taichi_guest::time::CoreTime;

const HELP: &str = "\
The whole modelled SmartNIC.

Usage: smartnic --dp LIST --accelerator N --cp LIST [OPTIONS]

--dp LIST         DP cores
--accelerator N   the accelerator's core
--cp LIST         CPUs of the control plane: CP cores, and vCPUs where there are any
--seed N          of the arrivals [default: 1]
--tasks, --rounds, --compute, --spawns N, --dir DIR   as for `cpwork`
--scale N         ns of the clock in one of core time [default: 1]
--calibrate       runs twice: the second time with the scale that the first
                  one has measured on the DP cores
";
const MORE: &str = "
The programs accelerator, forwarder and cpwork are started from the directory
of this one. A core is taken to execute 1 instruction per ns of core time.
";

fn main() -> ExitCode {
    options::main("smartnic", &[HELP, plane::HELP, MORE].concat(), run)
}

fn run(mut options: Options) -> Result<()> {
    let dp = options.required("--dp")?;
    let cp: Cpus = options.required("--cp")?;
    let seed = options.value("--seed", 1)?;
    let scale: f64 = options.value("--scale", 1.0)?;
    let calibrate = options.flag("--calibrate");
    let mut nic = Nic {
        plane: Plane::new(dp, seed, &mut options)?,
        control: plane::words(&[("--cpus", &cp)]),
    };
    let names = ["--tasks", "--rounds", "--compute", "--spawns", "--dir"];
    plane::pass(&mut options, &mut nic.control, &names)?;
    options.finish()?;

    cp.pin()?;
    let mut time = CoreTime::new(scale)?;
    if calibrate {
        time = CoreTime::new(nic.run(time)?.measured_scale)?;
    }
    println!("{}", serde_json::to_string(&nic.run(time)?)?);
    Ok(())
}

/// Everything but the time.
struct Nic {
    plane: Plane,
    /// Options of the control plane.
    control: Vec<String>,
}

impl Nic {
    /// Runs everything once.
    fn run(&self, time: CoreTime) -> Result<SmartNic> {
        let work = || {
            let mut control = plane::program("cpwork", time)?;
            plane::start(control.args(&self.control)).and_then(plane::finish::<CpWork>)
        };
        let (cp, accelerator, forwarders) = self.plane.run(time, work)?;
        Ok(SmartNic {
            hz: time.hz,
            scale: time.scale,
            measured_scale: measured_scale(time.hz, &forwarders),
            firmware: Telemetry::open()?.is_some(),
            accelerator,
            forwarders,
            cp,
        })
    }
}
