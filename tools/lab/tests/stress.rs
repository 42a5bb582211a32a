// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask stress`, short: two scenes, one of which finds something. The
//! scenes themselves run in the other files. `cargo xtask test` runs this; alone:
//! `cargo test -p taichi-lab --features guest --test stress`.
#![cfg(feature = "guest")]

use std::fs;
use std::time::Duration;

use anyhow::Result;
use taichi_lab::stress::scene::sh;
use taichi_lab::stress::{self, Job, Scene, Settings, health, saturation, storm};
use taichi_lab::{Kernel, Machine};

/// A scene of ours, shortly.
struct Short(&'static dyn Scene);

impl Scene for Short {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn about(&self) -> &'static str {
        self.0.about()
    }

    fn kernels(&self) -> Vec<Kernel> {
        vec![Kernel::Debian61]
    }

    fn most(&self) -> Duration {
        self.0.least()
    }

    fn run(&self, job: &mut Job) -> Result<()> {
        self.0.run(job)
    }
}

/// Says something bad after a while.
struct Sick;

impl Scene for Sick {
    fn name(&self) -> &'static str {
        "sick"
    }

    fn about(&self) -> &'static str {
        "a kernel with a new warning"
    }

    fn kernels(&self) -> Vec<Kernel> {
        vec![Kernel::Debian61]
    }

    fn least(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn most(&self) -> Duration {
        self.least()
    }

    fn run(&self, job: &mut Job) -> Result<()> {
        let machine = job.machine.clone();
        let script = format!(
            "sleep 1; echo '<4>WARNING: CPU 5 has lost 17 ticks' >/dev/kmsg; {}",
            health::WARNINGS
        );
        job.repeat(|job, _| {
            let outcome = sh(&machine, &script)?;
            job.well(&machine, &outcome)?;
            Ok(1)
        })
    }
}

#[test]
fn a_stress_run_shows_what_ran_and_what_was_found() {
    // Time that it needs on no host: a row may take longer than its share.
    let settings = Settings {
        time: Duration::from_secs(600),
        scene: None,
        kernel: None,
        // Small machines.
        seed: 3,
        passes: 1,
    };
    let table = stress::run(&[&Short(&storm::Storm), &Sick], &settings).unwrap();
    let text = table.text();
    assert_eq!((table.entries.len(), table.found()), (2, 1), "{text}");
    let rows: Vec<Vec<_>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert!(rows[1].starts_with(&["storm", "6.1"]), "{text}");
    assert!(rows[1].ends_with(&["nothing"]), "{text}");
    assert!(rows[2].starts_with(&["sick", "6.1"]), "{text}");
    assert!(rows[2].ends_with(&["0", "see", "1"]), "{text}");
    let finding = text.lines().find(|l| l.starts_with("1. sick on 6.1"));
    let words = ["the kernel is not well", "WARNING: CPU 5 has lost 17"];
    assert!(words.iter().all(|w| finding.unwrap().contains(w)), "{text}");
    let markdown = fs::read_to_string(stress::directory().join("table.md")).unwrap();
    assert_eq!(markdown, table.markdown());
    let whole = fs::read_to_string(stress::directory().join("1-sick.txt")).unwrap();
    assert!(whole.contains("CPU 5 has lost"), "{whole}");
}

/// DP cores that never yield and eight busy vCPUs behind two CP cores, in
/// deterministic time.
#[test]
fn cp_cores_keep_their_share_when_there_is_nothing_to_harvest() {
    let machine = Machine {
        kernel: Kernel::Debian612,
        cores: 6,
        dp: "2-5".parse().unwrap(),
        isolate: true,
        vcpus: 8,
        measured: true,
        spin: false,
        timeout: Duration::from_secs(600),
        ..Machine::default()
    };
    let (report, outcome) = saturation::saturate(&machine, 0.5).unwrap();
    health::check(&outcome).unwrap();
    assert_eq!(report.units_by_cpu.len(), 14, "{report:?}");
}
