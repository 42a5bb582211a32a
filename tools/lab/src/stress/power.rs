// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernels and CPUs that come and go: kexec, a crash kernel, hotplug.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use taichi_guest::report;
use tempfile::TempDir;

use super::health;
use super::scene::{self, Job, Scene};
use crate::cache::Cache;
use crate::guest::Outcome;
use crate::initramfs::{self, Add, Contents, Session};
use crate::kernel::Kernel;
use crate::machine::Machine;

/// Memory that a crash kernel gets.
const CRASH_MEMORY: &str = "crashkernel=256M";
/// What the second kernel is asked: its version, and its CPUs.
const WHO: &str = "uname -r; cat /sys/devices/system/cpu/online";

/// A kernel and its initramfs, for a guest that starts them itself.
struct Next {
    directory: TempDir,
}

impl Next {
    /// `kernel` with these modules, to run `script`.
    fn new(kernel: &Kernel, modules: &[String], script: &str) -> Result<Self> {
        let cache = Cache::open()?;
        let image = kernel.image(&cache)?.context("no kernel to go on with")?;
        let words = ["sh", "-c", script].map(String::from);
        let contents = Contents {
            kernel,
            modules,
            programs: &[],
            add: &[],
            debs: &[],
            session: Session::Command {
                words: &words,
                input: false,
            },
        };
        let directory = TempDir::new().context("making a directory for a kernel")?;
        let initrd = initramfs::build(&cache, &contents)?;
        fs::write(directory.path().join("initrd"), initrd).context("writing an initrd")?;
        fs::copy(image, directory.path().join("Image")).context("copying a kernel")?;
        Ok(Self { directory })
    }

    /// `machine` with it in /root/next, and the program that loads it.
    fn given_to(&self, machine: &Machine) -> Machine {
        let mut machine = machine.clone();
        machine.add.push(Add {
            from: self.directory.path().to_owned(),
            to: "/root/next".to_owned(),
        });
        machine.debs.push("kexec-tools".to_owned());
        machine
    }
}

/// The shell's command that loads the kernel in /root/next.
fn load(how: &str, append: &str) -> String {
    format!(
        "kexec {how} next/Image --initrd=next/initrd \
         --append='console=ttyAMA0 earlycon panic=-1 {append}'"
    )
}

/// Boots `machine`, and from it `next` by kexec, which must come up with all
/// CPUs. Gives the second kernel's version.
///
/// # Errors
/// If it doesn't.
pub fn kexec(machine: &Machine, next: &Kernel) -> Result<String> {
    let files = Next::new(next, &[], WHO)?;
    let script = format!("{} && exec kexec -e", load("-l", ""));
    let outcome = scene::sh(&files.given_to(machine), &script)?;
    second_kernel(
        &outcome,
        &format!("0-{}", machine.cores + machine.vcpus - 1),
    )
}

/// Lets the kernel of `machine` crash on Linux's CPU `cpu`; the crash kernel,
/// `next` with one CPU, must come up there, read a disk, and end. Gives its
/// version.
///
/// # Errors
/// If it doesn't.
pub fn crash(machine: &Machine, next: &Kernel, cpu: u32) -> Result<String> {
    // The disk's interrupts are MSIs, and so LPIs; those of the ports, by which
    // the answer comes, are SPIs.
    let script = format!(
        "{WHO}; dd if=/dev/vda bs=4k iflag=direct | md5sum; grep -c 'MSI.*virtio' /proc/interrupts"
    );
    let files = Next::new(next, &["virtio_blk".to_owned()], &script)?;
    let disk = files.directory.path().join("disk");
    let bytes = (0..1u32 << 20).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8);
    fs::write(&disk, bytes.collect::<Vec<_>>()).context("writing a disk")?;
    let mut machine = files.given_to(machine);
    machine.append = format!("{} {CRASH_MEMORY}", machine.append);
    let drive = format!("file={},if=none,id=disk,format=raw", disk.display());
    let device = "virtio-blk-pci,drive=disk";
    let more = ["-drive", &drive, "-device", device].map(String::from);
    machine.qemu.extend(more);
    let script = format!(
        "md5sum next/disk; {} && taskset -c {cpu} sh -c 'echo c >/proc/sysrq-trigger'",
        load("-p", "nr_cpus=1 reset_devices")
    );
    let outcome = scene::sh(&machine, &script)?;
    let text = outcome.text();
    let words = text.lines().map(|l| l.split(' ').next().unwrap_or(""));
    let words: Vec<_> = words.collect();
    let &[ours, version, "0", theirs, vectors] = words.as_slice() else {
        bail!("the kernels printed {text:?}\n{}", outcome.tail());
    };
    ensure!(ours == theirs, "the crash kernel read another disk");
    ensure!(vectors != "0", "the disk has no MSIs");
    Ok(version.to_owned())
}

/// Checks what the second kernel said; gives its version.
fn second_kernel(outcome: &Outcome, online: &str) -> Result<String> {
    let text = outcome.text();
    let lines: Vec<_> = text.lines().collect();
    let &[version, cpus] = lines.as_slice() else {
        bail!("the second kernel printed {text:?}\n{}", outcome.tail());
    };
    ensure!(
        cpus == online,
        "the second kernel has CPUs {cpus}, not {online}\n{}",
        outcome.tail()
    );
    Ok(version.to_owned())
}

/// How long CPUs come and go.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// For so many rounds.
    Rounds(u64),
    /// For so many seconds.
    Seconds(u64),
}

/// All CPUs but the boot CPU go offline and come back, in random order, under
/// load; and the boot CPU refuses to. Gives the report.
///
/// # Errors
/// If Linux and a CPU disagree, or the kernel is not well afterwards.
pub fn hotplug(machine: &Machine, until: Until, seed: u64) -> Result<(report::Hotplug, Outcome)> {
    let bound = match until {
        Until::Rounds(n) => format!("--rounds {n}"),
        Until::Seconds(n) => format!("--rounds 1000000 --seconds {n}"),
    };
    let script = format!(
        "! {{ test -e /sys/devices/system/cpu/cpu0/online && echo 0 \
         >/sys/devices/system/cpu/cpu0/online; }} || exit 3; \
         storm --seconds 100000 --programs 16 >/dev/null & \
         exec hotplug --random --seed {seed} {bound}"
    );
    let outcome = scene::sh(machine, &script)?;
    let report = serde_json::from_str(&outcome.text()).context("hotplug's report")?;
    Ok((report, outcome))
}

/// What a machine takes to come up and go, in real time.
const BOOT: Duration = Duration::from_secs(12);

/// The scene in which CPUs come and go.
#[derive(Clone, Copy, Debug)]
pub struct Hotplug;

impl Scene for Hotplug {
    fn name(&self) -> &'static str {
        "hotplug"
    }

    fn about(&self) -> &'static str {
        "any CPU but the boot CPU goes offline and comes back in a storm"
    }

    fn run(&self, job: &mut Job) -> Result<()> {
        let until = Until::Seconds(job.seconds(BOOT));
        let (report, outcome) = hotplug(&job.machine, until, job.seed)?;
        job.rounds = report.rounds;
        health::check(&outcome)?;
        health::check_stalls(&outcome)
    }
}

/// The scene in which one kernel starts another.
#[derive(Clone, Copy, Debug)]
pub struct Kexec;

impl Scene for Kexec {
    fn name(&self) -> &'static str {
        "kexec"
    }

    fn about(&self) -> &'static str {
        "a kernel starts another by kexec, which has all CPUs"
    }

    fn least(&self) -> Duration {
        Duration::from_secs(40)
    }

    fn run(&self, job: &mut Job) -> Result<()> {
        job.repeat(|job, seed| {
            let next = &Kernel::DEBIAN[(seed % Kernel::DEBIAN.len() as u64) as usize];
            kexec(&job.machine, next).with_context(|| format!("kexec to {next}"))?;
            Ok(1)
        })
    }
}

/// The scene in which kernels crash.
#[derive(Clone, Copy, Debug)]
pub struct Crash;

impl Scene for Crash {
    fn name(&self) -> &'static str {
        "crash"
    }

    fn about(&self) -> &'static str {
        "a kernel crashes on a random CPU, and the crash kernel comes up there and reads a disk"
    }

    fn least(&self) -> Duration {
        Duration::from_secs(40)
    }

    fn run(&self, job: &mut Job) -> Result<()> {
        job.repeat(|job, seed| {
            let Machine { cores, vcpus, .. } = job.machine;
            let cpu = (seed % u64::from(cores + vcpus)) as u32;
            crash(&job.machine, &job.machine.kernel, cpu)
                .with_context(|| format!("a crash on CPU {cpu}"))?;
            Ok(1)
        })
    }
}
