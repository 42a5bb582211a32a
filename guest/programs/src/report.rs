// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the programs print, as JSON, and what the lab reads.
//!
//! Times in `*_ns` are nanoseconds of core time; `*_ticks` are ticks of the
//! system counter.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::time::CoreTime;

/// The modelled SmartNIC: everything that `smartnic` has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SmartNic {
    /// Ticks of the system counter in a second.
    pub hz: u64,
    /// Nanoseconds of the clock that all programs took for one of core time.
    pub scale: f64,
    /// What it was in truth, on the DP cores' average while it was measured.
    pub measured_scale: f64,
    /// Whether the firmware was below.
    pub firmware: bool,
    /// The packets' side.
    pub accelerator: Accelerator,
    /// One per DP core.
    pub forwarders: Vec<Forwarder>,
    /// The control plane's side.
    pub cp: CpWork,
}

impl SmartNic {
    /// How its ticks are converted.
    pub fn time(&self) -> CoreTime {
        CoreTime {
            hz: self.hz,
            scale: self.scale,
        }
    }
}

/// Nanoseconds of the clock for an instruction of a DP core, by what the
/// forwarders spent on packets. 1 where there were none.
pub fn measured_scale(hz: u64, forwarders: &[Forwarder]) -> f64 {
    let ticks: u64 = forwarders.iter().map(|f| f.service_ticks).sum();
    let instructions: u64 = forwarders.iter().map(|f| f.service_instructions).sum();
    if instructions == 0 {
        return 1.0;
    }
    ticks as f64 * 1e9 / hz as f64 / instructions as f64
}

/// What the accelerator did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerator {
    /// Bursts that arrived.
    pub bursts: u64,
    /// Packets written to the rings.
    pub packets: u64,
    /// Packets lost because their ring was full.
    pub dropped: u64,
    /// Probes sent when a burst arrived and found its core lent.
    pub probes_early: u64,
    /// Probes sent because a descriptor lay in the ring of a lent core.
    pub probes_late: u64,
    /// The longest that the model itself was late with a burst, in ns. Large
    /// values mean that the model, not the machine, was too slow.
    pub worst_lag_ns: u64,
}

/// What one DP core did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forwarder {
    /// The Linux CPU, which is also the firmware's number of the core.
    pub cpu: usize,
    /// Packets done.
    pub packets: u64,
    /// Descriptors out of sequence: 0, or something is broken.
    pub disorder: u64,
    /// Arrival to done.
    pub latency: Latencies,
    /// Length of the measured time.
    pub total_ticks: u64,
    /// Time without a packet in hand.
    pub idle_ticks: u64,
    /// Instructions of known number that were spent on packets.
    pub service_instructions: u64,
    /// How long these took.
    pub service_ticks: u64,
    /// Polls that found nothing.
    pub empty_polls: u64,
    /// Times the core was offered to the firmware.
    pub yields: u64,
    /// Answers, by the number of the reason.
    pub reasons: [u64; 6],
    /// What the firmware says that it lent of this core; 0 without firmware.
    pub lent_ticks: u64,
    /// Times the firmware says that it lent this core.
    pub lends: u64,
    /// What happened in a short window, for a picture of it.
    pub timeline: Vec<Moment>,
}

/// A change in what a DP core does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Ticks since the start.
    pub at: u64,
    /// What the core does from then on.
    pub doing: Doing,
}

/// What a DP core does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Doing {
    /// It polls and finds nothing.
    Idle,
    /// It has packets in hand.
    Busy,
    /// It waits for the firmware to give it back.
    Lent,
}

/// A histogram of latencies: value in ticks, count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latencies(pub Vec<(u64, u64)>);

impl Latencies {
    /// The recorded values of a histogram of ticks.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let values = histogram.iter_recorded();
        Self(
            values
                .map(|v| (v.value_iterated_to(), v.count_at_value()))
                .collect(),
        )
    }

    /// All values of several histograms in one.
    ///
    /// # Errors
    /// A value is too large for a histogram (damaged report).
    pub fn merge<'a>(all: impl IntoIterator<Item = &'a Latencies>) -> Result<Histogram<u64>> {
        let mut merged = histogram();
        for &(ticks, count) in all.into_iter().flat_map(|l| &l.0) {
            merged
                .record_n(ticks, count)
                .context("a latency out of range")?;
        }
        Ok(merged)
    }
}

/// An empty histogram for latencies in ticks, three digits exact.
pub fn histogram() -> Histogram<u64> {
    // A minute at 1 GHz times 64 cores: nothing that ends takes longer.
    let mut histogram = Histogram::new_with_bounds(1, 1 << 42, 3).expect("constant bounds");
    // Touches its memory now, not in the middle of a measurement.
    histogram.reset();
    histogram
}

/// What the control plane did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpWork {
    /// Concurrent tasks.
    pub tasks: usize,
    /// Rounds of work that each task did.
    pub rounds: u64,
    /// From before the first start to after the last end, by the system counter.
    pub completion_ns: u64,
    /// The same by CLOCK_MONOTONIC.
    pub monotonic_ns: u64,
    /// When each task had finished, after the start, ascending.
    pub finished_ns: Vec<u64>,
    /// Rounds that ended on each CPU.
    pub rounds_by_cpu: BTreeMap<usize, u64>,
    /// What computing took on each CPU.
    pub computing: BTreeMap<usize, Computing>,
}

/// Instructions of known number, and the CPU time that Linux charged for them:
/// the speed of a CPU. A vCPU's includes what was stolen from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Computing {
    /// Instructions.
    pub instructions: u64,
    /// CPU time, in ns of the clock.
    pub clock_ns: u64,
}

/// What one task of the control plane prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpTask {
    /// When it had finished: ticks of the system counter.
    pub finished_ticks: u64,
    /// Rounds that ended on each CPU.
    pub rounds_by_cpu: BTreeMap<usize, u64>,
    /// What computing took on each CPU, where a round's stayed on one.
    pub computing: BTreeMap<usize, Computing>,
}

/// What `storm` has checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// Threads.
    pub threads: usize,
    /// Rounds that ended on each CPU.
    pub rounds_by_cpu: BTreeMap<usize, u64>,
    /// Checks made, by name.
    pub checks: BTreeMap<String, u64>,
    /// What was wrong; empty, or something is broken.
    pub mismatches: Vec<String>,
    /// The longest that a round took, in ns.
    pub longest_round_ns: u64,
}

/// What `steal` has seen: time that a CPU could have run and others had its
/// core, by whom it was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steal {
    /// How long was looked at, in ns.
    pub elapsed_ns: u64,
    /// By CPU of Linux; real cores first, then vCPUs.
    pub cpus: Vec<Stolen>,
}

/// One CPU's stolen time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stolen {
    /// By Linux (/proc/stat), in ns.
    pub linux_ns: u64,
    /// By the firmware (telemetry), in ns.
    pub firmware_ns: u64,
}

/// What `hotplug` has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hotplug {
    /// The CPU; none if it was any.
    pub cpu: Option<usize>,
    /// Times it went offline and came back.
    pub rounds: u64,
    /// The longest that going offline took, in ns.
    pub worst_offline_ns: u64,
    /// The longest that coming back took, in ns.
    pub worst_online_ns: u64,
}

/// What `saturate` has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saturate {
    /// Units of work by CPU.
    pub units_by_cpu: BTreeMap<usize, u64>,
    /// The longest that a unit took there, in ns.
    pub longest_ns_by_cpu: BTreeMap<usize, u64>,
    /// What Linux counted as work there, without stolen time, in ns.
    pub busy_ns_by_cpu: BTreeMap<usize, u64>,
    /// How long it all took, in ns.
    pub elapsed_ns: u64,
}

/// What `traps` has seen: entries to EL2 on all cores together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traps {
    /// How long was looked at, in ns.
    pub elapsed_ns: u64,
    /// How many, by cause.
    pub causes: BTreeMap<String, u64>,
}

impl Traps {
    /// How many a minute had of this cause, rounded up.
    pub fn a_minute(&self, cause: &str) -> u64 {
        let count = self.causes.get(cause).copied().unwrap_or(0);
        let minutes = self.elapsed_ns as f64 / 60e9;
        (count as f64 / minutes).ceil() as u64
    }
}

/// What `devices` has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// Interrupts by name.
    pub interrupts: BTreeMap<String, Moved>,
    /// Requests to disks.
    pub requests: u64,
    /// Frames that went to the other interface and came back.
    pub frames: u64,
    /// The longest that a request took, in ns.
    pub longest_request_ns: u64,
    /// The longest that a frame took there and back, in ns.
    pub longest_frame_ns: u64,
}

/// What became of an interrupt whose receiver was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Controller and trigger.
    pub source: String,
    /// How often it was sent to each CPU, and came where it should.
    pub sent: BTreeMap<usize, u64>,
    /// How often it came to each CPU, in all.
    pub came: BTreeMap<usize, u64>,
}

/// What `features` has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Rounds by the name of the check; what the CPUs don't have is not there.
    pub checks: BTreeMap<String, u64>,
    /// Rounds by the CPU on which they ended.
    pub rounds_by_cpu: BTreeMap<usize, u64>,
}

/// What the users of the test driver's locks have seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sections {
    /// Threads that took the locks.
    pub threads: usize,
    /// Sections that all of them were to run, and ran.
    pub sections: u64,
    /// From the first section's start to the last one's end.
    pub elapsed_ns: u64,
    /// By the CPU on which a section ended.
    pub by_cpu: BTreeMap<usize, SectionsOn>,
    /// What was wrong with the locks; empty, or something is broken.
    pub wrong: Vec<String>,
    /// The accelerator's side of the data plane, where one ran.
    pub accelerator: Option<Accelerator>,
    /// The data plane's DP cores.
    pub forwarders: Vec<Forwarder>,
}

impl Sections {
    /// The longest of one kind of time, on the CPUs that are wanted.
    pub fn longest(&self, wanted: impl Fn(usize) -> bool, time: fn(&SectionsOn) -> u64) -> u64 {
        let on = self.by_cpu.iter().filter(|(cpu, _)| wanted(**cpu));
        on.map(|(_, on)| time(on)).max().unwrap_or_default()
    }

    /// Times between two looks at the device, on the CPUs that are wanted and of
    /// at least so many ns: how many, and the one at a quantile.
    pub fn gaps(&self, wanted: impl Fn(usize) -> bool, least_ns: u64, quantile: f64) -> (u64, u64) {
        let mut counts = BTreeMap::<u64, u64>::new();
        let on = self.by_cpu.iter().filter(|(cpu, _)| wanted(**cpu));
        for (ns, count) in on.flat_map(|(_, on)| on.gaps.range(least_ns..)) {
            *counts.entry(*ns).or_default() += count;
        }
        let all: u64 = counts.values().sum();
        let mut rest = ((all as f64 * quantile).ceil() as u64).max(1);
        for (&ns, &count) in &counts {
            if count >= rest {
                return (all, ns);
            }
            rest -= count;
        }
        (0, 0)
    }
}

/// Sections that ended on one CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectionsOn {
    /// How many.
    pub sections: u64,
    /// How long they were to last, all together.
    pub asked_ns: u64,
    /// How long they lasted, all together. What is more than asked was spent
    /// without a core.
    pub held_ns: u64,
    /// The most that one lasted longer than asked.
    pub longest_over_ns: u64,
    /// The longest between two looks at the device.
    pub longest_gap_ns: u64,
    /// How often it did not look for how long: counts by the least ns; each is at
    /// most a quarter longer.
    pub gaps: BTreeMap<u64, u64>,
    /// The longest wait for a lock.
    pub longest_wait_ns: u64,
    /// The longest part of a wait for which holders had no core.
    pub longest_spin_on_lost_ns: u64,
    /// The longest that a lock was free and wanted, until a section here took
    /// it: a long one was handed to a CPU without a core.
    pub longest_handover_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_reports_loses_no_value() {
        let (mut a, mut b) = (histogram(), histogram());
        for value in 1..=1000 {
            a.record(value).unwrap();
            b.record(value * 1000).unwrap();
        }
        let merged = Latencies::merge([&Latencies::of(&a), &Latencies::of(&b)]).unwrap();
        a.add(&b).unwrap();
        assert_eq!(merged.len(), 2000);
        for quantile in [0.01, 0.5, 0.99, 0.999, 1.0] {
            assert_eq!(
                merged.value_at_quantile(quantile),
                a.value_at_quantile(quantile)
            );
        }
    }

    #[test]
    fn gaps_of_several_cpus_are_one_distribution() {
        let on = |gaps: &[(u64, u64)]| SectionsOn {
            gaps: gaps.iter().copied().collect(),
            ..SectionsOn::default()
        };
        let report = Sections {
            by_cpu: BTreeMap::from([
                (0, on(&[(9_000, 1)])),
                (4, on(&[(10, 100), (80, 90)])),
                (5, on(&[(80, 9), (500, 1)])),
            ]),
            ..Sections::default()
        };
        let vcpus = |cpu| cpu >= 4;
        assert_eq!(report.gaps(vcpus, 50, 0.99), (100, 80));
        assert_eq!(report.gaps(vcpus, 50, 1.0), (100, 500));
        assert_eq!(report.gaps(vcpus, 0, 0.5), (200, 10));
        assert_eq!(report.gaps(vcpus, 501, 0.5), (0, 0));
    }

    #[test]
    fn reports_survive_json() {
        let forwarder = Forwarder {
            cpu: 3,
            packets: 7,
            disorder: 0,
            latency: Latencies(vec![(10, 7)]),
            total_ticks: 100,
            idle_ticks: 60,
            service_instructions: 7,
            service_ticks: 14,
            empty_polls: 5,
            yields: 2,
            reasons: [0, 1, 0, 1, 0, 0],
            lent_ticks: 50,
            lends: 2,
            timeline: vec![Moment {
                at: 5,
                doing: Doing::Lent,
            }],
        };
        let cp = CpWork {
            rounds_by_cpu: BTreeMap::from([(0, 5), (7, 3)]),
            ..CpWork::default()
        };
        let nic = SmartNic {
            hz: 500_000_000,
            scale: 7.0,
            measured_scale: measured_scale(500_000_000, std::slice::from_ref(&forwarder)),
            firmware: true,
            accelerator: Accelerator::default(),
            forwarders: vec![forwarder],
            cp,
        };
        assert_eq!(
            nic.measured_scale, 4.0,
            "2 ticks of 2 ns for an instruction"
        );
        let text = serde_json::to_string(&nic).unwrap();
        assert_eq!(serde_json::from_str::<SmartNic>(&text).unwrap(), nic);
    }
}
