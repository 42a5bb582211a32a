// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The measurements.
//!
//! A bare guest counts the firmware's paths on one core while the others stand
//! still or can't disturb it; a small program in Linux on the bare machine
//! counts KVM's. Both read a counter that ticks once an instruction, and
//! subtract what reading it costs.

use std::time::Duration;

use anyhow::{Context, Result};

use super::counts::{self, Counts};
use crate::build;
use crate::cache::Cache;
use crate::initramfs::Add;
use crate::{Ending, Kernel, Machine, Streams, guest};

/// One instruction is one nanosecond: with this the counter ticks as often.
const CPU: &str = "cortex-a76,cntfrq=1000000000";

/// A path through the firmware.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Its name in the guest's output and in JSON.
    pub name: &'static str,
    /// For readers.
    pub title: &'static str,
    /// At most so many instructions are wanted.
    pub goal: Option<u64>,
    /// The name of KVM's count of the like.
    pub peer: Option<&'static str>,
    /// Instructions by which the count may be too great, because the guest
    /// looks only so often.
    pub error: u64,
}

const fn path(name: &'static str, title: &'static str, goal: u64) -> Path {
    Path {
        name,
        title,
        goal: Some(goal),
        peer: None,
        error: 0,
    }
}

const fn more(name: &'static str, title: &'static str) -> Path {
    Path {
        goal: None,
        ..path(name, title, 0)
    }
}

const fn peer(p: Path, name: &'static str) -> Path {
    Path {
        peer: Some(name),
        ..p
    }
}

const fn sampled(p: Path) -> Path {
    Path { error: 3, ..p }
}

/// All paths, in the order of the table. Entry, exit and the instruction that
/// traps are counted.
pub const PATHS: &[Path] = &[
    peer(path("null-trap", "null trap", 100), "kvm-hvc"),
    path("yield-nothing", "yield with nothing to run", 100),
    sampled(path("native-to-vcpu", "native → vCPU (yield)", 300)),
    sampled(path("vcpu-to-native", "vCPU → native (timer)", 300)),
    peer(
        more("round-trip", "native → vCPU → native"),
        "kvm-round-trip",
    ),
    more("float-first-use", "first floating point of a vCPU's stay"),
    sampled(more(
        "vcpu-to-native-float",
        "vCPU → native, floating point used",
    )),
    sampled(more(
        "vcpu-to-native-inside",
        "vCPU → native, rescue of the vCPU begun",
    )),
    path("sgi-forward", "SGI forward, from a DP core", 80),
    more("vtimer-injection", "virtual timer injection"),
    more("null-trap-cp", "null trap on a CP core"),
    more("null-trap-vcpu", "null trap on a vCPU"),
    more("sgi-forward-cp", "SGI forward, from a CP core"),
    more("sgi-to-vcpu", "SGI to an idle vCPU"),
    sampled(more(
        "native-to-vcpu-wfi",
        "native → vCPU (WFI of a CP core)",
    )),
    sampled(more("vcpu-to-native-wfi", "vCPU → native (CP core)")),
    more("round-trip-wfi", "native → vCPU → native (CP core)"),
    peer(
        more("user-space", "exit to the host's user space and back"),
        "kvm-mmio",
    ),
];

/// A column of the peer: which KVM.
#[derive(Clone, Debug)]
pub struct Peer {
    /// For readers: `KVM 6.1 VHE`.
    pub title: String,
    /// Its counts.
    pub counts: Counts,
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The compiler that built the firmware.
    pub compiler: String,
    /// The firmware's counts.
    pub ours: Counts,
    /// Those of KVM.
    pub peers: Vec<Peer>,
}

/// Measures the firmware.
///
/// # Errors
/// Where set-up, a build or the guest fails.
pub fn firmware() -> Result<Counts> {
    let probe = build::probe(&Cache::open()?)?;
    let machine = Machine {
        kernel: Kernel::File(probe.image),
        cores: 2,
        dp: "1".parse()?,
        vcpus: 1,
        // Nobody is forced, no slice ends while something is counted.
        config: "patience=10s slice=1s slice-max=1s".to_owned(),
        append: "probe=bench".to_owned(),
        ..machine()
    };
    let outcome = guest::boot(&machine)?;
    let counted = counts::read(&outcome.console).context("counting the firmware's instructions");
    match outcome.ending {
        Ending::TimedOut => counted.context("the probe didn't end in time"),
        _ => counted,
    }
}

/// Measures the KVM of `kernel`, split between EL1 and EL2 if `nvhe`.
///
/// # Errors
/// Where set-up, a build or the guest fails.
pub fn kvm(kernel: Kernel, nvhe: bool) -> Result<Peer> {
    let program = build::kvm_peer(&Cache::open()?)?;
    let mode = if nvhe { "nVHE" } else { "VHE" };
    let title = format!("KVM {kernel} {mode}");
    let add: Add = format!("{}:/usr/bin/kvm-peer", program.display()).parse()?;
    let machine = Machine {
        kernel,
        cores: 1,
        bare: true,
        append: if nvhe { "kvm-arm.mode=nvhe" } else { "" }.to_owned(),
        add: vec![add],
        programs: false,
        ..machine()
    };
    let outcome = guest::run(&machine, &["kvm-peer".to_owned()], Streams::Captured)?;
    outcome
        .success()
        .with_context(|| format!("measuring {title}"))?;
    let counts = counts::read(&outcome.text()).with_context(|| format!("measuring {title}"))?;
    Ok(Peer { title, counts })
}

/// What all measured machines share: deterministic, and idle cores stand still.
fn machine() -> Machine {
    Machine {
        measured: true,
        spin: false,
        tick: 1_000_000,
        cpu: CPU.to_owned(),
        timeout: Duration::from_secs(300),
        ..Machine::default()
    }
}

/// Measures everything.
///
/// # Errors
/// As [`firmware`] and [`kvm`].
pub fn run(with_peers: bool) -> Result<Run> {
    let ours = firmware()?;
    let mut peers = Vec::new();
    if with_peers {
        for kernel in [Kernel::Debian61, Kernel::Debian612] {
            for nvhe in [false, true] {
                peers.push(kvm(kernel.clone(), nvhe)?);
            }
        }
    }
    Ok(Run {
        compiler: build::compiler(&Cache::open()?)?,
        ours,
        peers,
    })
}

#[cfg(all(test, feature = "guest"))]
mod tests {
    use super::*;

    #[test]
    fn two_runs_of_kvm_count_the_same() {
        let [a, b] = [(); 2].map(|()| kvm(Kernel::Debian61, false).unwrap().counts);
        assert_eq!(a, b);
        let [null, user] = ["kvm-hvc", "kvm-mmio"].map(|name| a[name].least);
        assert!(null > 500 && user > 2 * null, "{a:?}");
    }
}
