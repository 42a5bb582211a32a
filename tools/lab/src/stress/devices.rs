// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Device interrupts that move over all CPUs while there is traffic.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use taichi_guest::report::Devices;

use super::scene;
use crate::guest::Outcome;
use crate::machine::Machine;

/// Modules of the devices, beside those of the lab's own.
const MODULES: [&str; 3] = ["virtio_blk", "virtio_net", "virtio_mmio"];
/// Disks by how their interrupts are made: one MSI-X for each queue, whose CPUs
/// Linux chooses; one for all queues; a line of PCI, which is an SPI with a level;
/// and an SPI with edges.
const DISKS: [&str; 4] = [
    "virtio-blk-pci,ioeventfd=off,num-queues=CPUS",
    "virtio-blk-pci,ioeventfd=off,num-queues=2,vectors=2",
    "virtio-blk-pci,ioeventfd=off,vectors=0",
    "virtio-blk-device",
];
const DISK_BYTES: u64 = 4 << 20;
/// Seconds that a request, a frame or an interrupt may take: where the host's speed
/// is the guest's, it may have other work.
const LIMIT: u32 = 60;
const LIMIT_MEASURED: u32 = 1;

/// How much is moved.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Times that each interrupt goes to each CPU, at least.
    pub rounds: u64,
    /// Guest's time that it takes, at least.
    pub seconds: u64,
    /// Debian's irqbalance moves interrupts too.
    pub balanced: bool,
}

/// The long form, with real concurrency: in the first half of so many minutes nobody
/// else moves interrupts, and each must come where it was sent; in the second
/// irqbalance does too, and each must come. Gives what was seen in each.
///
/// # Errors
/// As [`moved`].
pub fn long(machine: &Machine, minutes: u64) -> Result<[Devices; 2]> {
    let seconds = minutes * 30;
    let machine = Machine {
        measured: false,
        // Beside the boot, and until the last round is over.
        timeout: Duration::from_secs(2 * seconds + 600),
        ..machine.clone()
    };
    let half = |balanced| {
        let amount = Amount {
            rounds: 1,
            seconds,
            balanced,
        };
        moved(&machine, amount).map(|(report, _)| report)
    };
    Ok([half(false)?, half(true)?])
}

/// Boots `machine` with four disks and two network interfaces on one wire, and moves
/// their interrupts. Gives what the guest's program `devices` saw.
///
/// # Errors
/// If anything was wrong, lost or late, or an interrupt came where it shouldn't.
pub fn moved(machine: &Machine, amount: Amount) -> Result<(Devices, Outcome)> {
    let directory = tempfile::tempdir().context("a directory for disks")?;
    let cpus = machine.cores + machine.vcpus;
    let mut machine = machine.clone();
    machine.modules.extend(MODULES.map(String::from));
    // Queues are served while the guest waits: the host's speed is seen less.
    let here = ["-global", "virtio-mmio.ioeventfd=off"];
    machine.qemu.extend(here.map(String::from));
    for (n, device) in DISKS.iter().enumerate() {
        let path = directory.path().join(format!("disk{n}"));
        let file = File::create(&path).context("a disk")?;
        file.set_len(DISK_BYTES).context("a disk")?;
        let device = device.replace("CPUS", &cpus.to_string());
        machine.qemu.extend([
            "-drive".to_owned(),
            format!("file={},if=none,id=disk{n},format=raw", path.display()),
            "-device".to_owned(),
            format!("{device},drive=disk{n}"),
        ]);
    }
    for n in 0..2 {
        machine.qemu.extend([
            "-netdev".to_owned(),
            format!("hubport,id=end{n},hubid=1"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=end{n},romfile=,ioeventfd=off"),
        ]);
    }
    let Amount {
        rounds,
        seconds,
        balanced,
    } = amount;
    let mut script = "ip link set eth0 up && ip link set eth1 up && ".to_owned();
    let mut others = "";
    if balanced {
        machine.debs.push("irqbalance".to_owned());
        // Its process must still be there at the end.
        script += "{ irqbalance --foreground --interval=1 >&2 & } && balancer=$! && ";
        others = "--shared && kill $balancer";
    }
    let cores = machine.cores;
    let limit = if machine.measured {
        LIMIT_MEASURED
    } else {
        LIMIT
    };
    script += &format!(
        "devices --cores {cores} --rounds {rounds} --seconds {seconds} --limit {limit} {others}"
    );
    let outcome = scene::sh(&machine, &script)?;
    let report: Devices = serde_json::from_str(&outcome.text()).context("devices' report")?;
    // Queues of the first disk, the other three, and two of each interface.
    let expected = (cpus + 3 + 4) as usize;
    ensure!(
        report.interrupts.len() == expected,
        "{} interrupts instead of {expected}: {report:?}",
        report.interrupts.len()
    );
    Ok((report, outcome))
}
