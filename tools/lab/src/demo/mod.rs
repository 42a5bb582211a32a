// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The main job, shown: a static partition of a SmartNIC against ours.
//!
//! Two guests run the same programs with the same packets in measured mode:
//! one with the DP cores kept for the data plane, one that lends them to vCPUs
//! while they are idle. Everything is deterministic, so both run at once.
//!
//! - [`scene`]: the two guests, and what they run
//! - [`summary`]: numbers from their reports, and the table
//! - [`plots`], [`page`]: the HTML report

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use taichi_guest::report::SmartNic;

use crate::cache::Cache;
use crate::{Streams, build, guest, progress};

pub mod page;
pub mod plots;
pub mod scene;
pub mod summary;

pub use scene::{Scene, Settings};
pub use summary::{Comparison, Summary};

/// How far the scale of core time may move while it is used.
const DRIFT: f64 = 0.05;

/// Runs both guests and compares what they report.
///
/// # Errors
/// A guest can't be built or run, fails, loses packets, or drifts from the
/// scale of core time that it was measured with.
pub fn run(settings: &Settings) -> Result<Comparison> {
    let scenes = [settings.still(), settings.lending()];
    let cache = Cache::open()?;
    build::programs(&cache)?;
    build::firmware(&cache)?;
    progress::step("running a static partition and ours, in instruction time");
    let reports = thread::scope(|scope| {
        let runs = scenes
            .each_ref()
            .map(|scene| scope.spawn(|| observe(scene)));
        runs.map(|run| {
            run.join()
                .unwrap_or_else(|_| Err(anyhow!("the thread of a guest panicked")))
        })
    });
    let [still, lending] = reports;
    Comparison::new(settings, (&scenes[0], still?), (&scenes[1], lending?))
}

/// Runs one guest and checks its report.
fn observe(scene: &Scene) -> Result<SmartNic> {
    let outcome = guest::run(&scene.machine, &scene.command, Streams::Captured)
        .with_context(|| scene.name.to_owned())?;
    outcome
        .success()
        .with_context(|| format!("{}: the guest failed", scene.name))?;
    let nic: SmartNic = serde_json::from_slice(&outcome.stdout)
        .with_context(|| format!("{}: the guest's report", scene.name))?;
    check(&nic).with_context(|| format!("{}: no comparison is possible", scene.name))?;
    Ok(nic)
}

/// What must hold before numbers mean anything.
fn check(nic: &SmartNic) -> Result<()> {
    let dropped = nic.accelerator.dropped;
    ensure!(dropped == 0, "{dropped} packets found their ring full");
    let done: u64 = nic.forwarders.iter().map(|f| f.packets).sum();
    let made = nic.accelerator.packets;
    ensure!(done == made, "{made} packets were made and {done} arrived");
    let disorder: u64 = nic.forwarders.iter().map(|f| f.disorder).sum();
    ensure!(disorder == 0, "{disorder} packets came out of order");
    let drift = nic.measured_scale / nic.scale - 1.0;
    ensure!(
        drift.abs() < DRIFT,
        "core time was taken as 1/{:.2} of virtual time and was 1/{:.2}",
        nic.scale,
        nic.measured_scale
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::summary::tests::comparison;
    use super::*;

    #[test]
    fn reports_that_allow_no_comparison_are_refused() {
        let good = comparison().lending.nic;
        // The model counts its packets itself; this one made as many as arrived.
        let mut nic = good.clone();
        nic.accelerator.packets = 100;
        check(&nic).unwrap();
        let refused = |change: fn(&mut SmartNic), why: &str| {
            let mut bad = nic.clone();
            change(&mut bad);
            let error = check(&bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(|n| n.accelerator.dropped = 1, "found their ring full");
        refused(
            |n| n.accelerator.packets = 101,
            "101 packets were made and 100 arrived",
        );
        refused(|n| n.forwarders[0].disorder = 2, "out of order");
        refused(
            |n| n.measured_scale = 2.2,
            "1/2.00 of virtual time and was 1/2.20",
        );
    }
}
