// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The probe, our bare-metal guest, as the worst kernel that could be: random
//! calls and accesses to everything, from all CPUs.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::scene::{Job, Scene};
use crate::guest;
use crate::kernel::Kernel;
use crate::machine::Machine;

/// What it does in the scene: its chaos, and whether all still works. The
/// ping-pong is left out, which takes minutes on few host CPUs.
const TESTS: &str =
    "chaos,exits,protect,vcpu,irouter,sgi-e,sgi-o,sgi-1,sgi-a,timer,switch,probe,power,storm";
/// Tests that pass on every machine that the scene runs on.
const PASS: u32 = 30;

/// Boots the probe on `machine`; at least `least` of its tests must run, and none
/// fail. Gives how many ran.
///
/// # Errors
/// The console, if that isn't so.
pub fn probe(machine: &Machine, least: u32) -> Result<u32> {
    let machine = Machine {
        kernel: Kernel::Probe,
        ..machine.clone()
    };
    let outcome = guest::boot(&machine)?;
    let console = &outcome.console;
    let last = console.lines().find_map(|l| l.strip_prefix("done "));
    let words: Vec<_> = last.unwrap_or("").split_whitespace().collect();
    let ["0", "failed"] = words[words.len().saturating_sub(2)..] else {
        bail!("the probe failed or never ended:\n{console}");
    };
    let count: u32 = words[0].parse()?;
    ensure!(count >= least, "only {count} tests ran:\n{console}");
    Ok(count)
}

/// The scene.
#[derive(Clone, Copy, Debug)]
pub struct Chaos;

impl Scene for Chaos {
    fn name(&self) -> &'static str {
        "chaos"
    }

    fn about(&self) -> &'static str {
        "a million random calls, and accesses to all that is emulated or forbidden; \
         then the probe's tests"
    }

    fn kernels(&self) -> Vec<Kernel> {
        vec![Kernel::Probe]
    }

    fn least(&self) -> Duration {
        Duration::from_secs(90)
    }

    fn run(&self, job: &mut Job) -> Result<()> {
        job.repeat(|job, _| {
            let machine = Machine {
                append: format!("probe={TESTS}"),
                ..job.machine.clone()
            };
            probe(&machine, PASS).map(u64::from)
        })
    }
}
