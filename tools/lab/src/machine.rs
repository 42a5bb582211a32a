// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The machine that a guest runs on, and how QEMU is told.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::initramfs::Add;
use crate::kernel::Kernel;

/// Where Linux is put in memory: above the firmware, which QEMU loads at the
/// bottom of RAM (0x4000_0000), and below the initrd, which it loads 128 MiB
/// above it.
const KERNEL_ADDRESS: u64 = 0x4200_0000;

/// Microseconds of virtual time between two ticks of the metronome, unless
/// [`Machine::tick`] says otherwise.
pub const TICK: u32 = 20;

/// Core numbers in the kernel's notation, such as `2-4,7`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores(Vec<u32>);

impl Cores {
    /// From `first` to `last`.
    pub fn range(first: u32, last: u32) -> Self {
        Self((first..=last).collect())
    }

    /// The numbers, ascending.
    pub fn numbers(&self) -> &[u32] {
        &self.0
    }
}

impl FromStr for Cores {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |t: &str| -> Result<u32> {
            t.parse()
                .with_context(|| format!("{text}: write core numbers as in 2-4,7"))
        };
        let mut all = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            ensure!(
                first <= last && last < 1024,
                "{text}: {part} is no range of cores"
            );
            all.extend(first..=last);
        }
        all.sort_unstable();
        all.dedup();
        Ok(Self(all))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match range {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

/// A guest, described.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its kernel.
    pub kernel: Kernel,
    /// Real cores, 1 to 16 (2 to 16 with vCPUs).
    pub cores: u32,
    /// Cores that the firmware treats as DP cores.
    pub dp: Cores,
    /// Whether Linux keeps its own work off the DP cores.
    pub isolate: bool,
    /// vCPUs that the firmware adds.
    pub vcpus: u32,
    /// Without our firmware: the kernel directly on the same machine.
    pub bare: bool,
    /// Deterministic: one instruction is one nanosecond, the same run gives
    /// the same bytes.
    pub measured: bool,
    /// In measured mode, whether idle cores execute (the firmware spins, a bare
    /// kernel polls), so that time runs alike for all. Off where the
    /// instructions of one core are counted and the others must stand still.
    pub spin: bool,
    /// Metronome of measured mode, in microseconds of virtual time: the
    /// longest that a core runs before the others have their turn.
    pub tick: u32,
    /// Memory, as QEMU reads it (`1G`).
    pub memory: String,
    /// QEMU's CPU model.
    pub cpu: String,
    /// Further configuration of the firmware, words with blanks between.
    pub config: String,
    /// Further arguments of Linux.
    pub append: String,
    /// Files of the host that the guest gets.
    pub add: Vec<Add>,
    /// Debian packages that the guest gets.
    pub debs: Vec<String>,
    /// Kernel modules that are loaded before the command runs: the kernel's own,
    /// and our test driver ([`crate::driver::NAME`]).
    pub modules: Vec<String>,
    /// The firmware's flat image, instead of building ours.
    pub firmware: Option<PathBuf>,
    /// Whether our guest programs are built and put into /usr/bin.
    pub programs: bool,
    /// The longest the guest runs, in real time.
    pub timeout: Duration,
    /// Where the console is written to as well.
    pub log: Option<PathBuf>,
    /// Overrides the `-machine` option's properties (for tests of bad input).
    pub machine_properties: String,
    /// Further arguments of QEMU.
    pub qemu: Vec<String>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            kernel: Kernel::Debian61,
            cores: 4,
            dp: Cores::default(),
            isolate: false,
            vcpus: 0,
            bare: false,
            measured: false,
            spin: true,
            tick: TICK,
            memory: "1G".to_owned(),
            cpu: "cortex-a76".to_owned(),
            config: String::new(),
            append: String::new(),
            add: Vec::new(),
            debs: Vec::new(),
            modules: Vec::new(),
            firmware: None,
            programs: true,
            timeout: Duration::from_secs(1800),
            log: None,
            machine_properties: "virtualization=on,gic-version=3".to_owned(),
            qemu: Vec::new(),
        }
    }
}

/// Files that QEMU loads.
#[derive(Debug)]
pub struct Files<'a> {
    /// The kernel's raw Image, if there is one.
    pub kernel: Option<&'a Path>,
    /// The firmware's flat image; none on a bare machine.
    pub firmware: Option<&'a Path>,
    /// The initramfs, if there is one.
    pub initrd: Option<&'a Path>,
}

impl Machine {
    /// Refuses descriptions that contradict themselves. What the firmware
    /// refuses itself passes.
    ///
    /// # Errors
    /// A message for the user.
    pub fn check(&self) -> Result<()> {
        ensure!(
            (1..=16).contains(&self.cores),
            "--cores {}: 1 to 16",
            self.cores
        );
        if let Some(core) = self.dp.numbers().iter().find(|&&n| n >= self.cores) {
            bail!(
                "--dp {}: there is no core {core} among {}",
                self.dp,
                self.cores
            );
        }
        ensure!(
            !self.isolate || !self.dp.numbers().is_empty(),
            "--isolate needs --dp"
        );
        ensure!(
            !self.bare || self.vcpus == 0,
            "--vcpus needs the firmware; leave out --bare"
        );
        ensure!(
            !self.bare || self.kernel != Kernel::None,
            "neither firmware nor kernel"
        );
        ensure!(self.tick > 0, "--tick 0: at least 1 us");
        ensure!(
            !self.config.contains('"'),
            "--config: a quotation mark would end the firmware's configuration"
        );
        Ok(())
    }

    /// The kernel's command line, with the firmware's configuration in it.
    pub fn arguments(&self) -> String {
        let mut words = vec!["console=ttyAMA0 earlycon panic=-1".to_owned()];
        if self.isolate {
            let dp = &self.dp;
            words.push(format!("isolcpus=domain,managed_irq,{dp} nohz_full={dp}"));
            words.push(format!(
                "rcu_nocbs={dp} irqaffinity={}",
                self.housekeeping()
            ));
        }
        if self.measured {
            words.push("nokaslr".to_owned());
            if self.bare && self.spin {
                // Idle cores poll, so that all cores always execute.
                words.push("nohlt".to_owned());
            }
        }
        if !self.append.is_empty() {
            words.push(self.append.clone());
        }
        if !self.bare {
            words.push(format!("taichi=\"{}\"", self.configuration()));
        }
        words.join(" ")
    }

    /// The firmware's configuration.
    fn configuration(&self) -> String {
        let mut words = vec![format!("vcpus={}", self.vcpus)];
        if !self.dp.numbers().is_empty() {
            words.push(format!("dp={}", self.dp));
        }
        if !self.measured && !self.config.contains("look=") {
            // In real time a core of QEMU is a hundred times slower than a real
            // one, and would do nothing but look.
            words.push("look=1ms".to_owned());
        }
        if self.measured && self.spin {
            // The firmware spins where it would wait, for the same reason.
            words.push("spin".to_owned());
        }
        if !self.config.is_empty() {
            words.push(self.config.clone());
        }
        words.join(" ")
    }

    /// The cores that aren't DP cores.
    fn housekeeping(&self) -> Cores {
        Cores(
            (0..self.cores)
                .filter(|n| !self.dp.numbers().contains(n))
                .collect(),
        )
    }

    /// QEMU's arguments for the machine; the caller adds its devices.
    pub fn qemu_arguments(&self, files: &Files) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
        let properties = &self.machine_properties;
        // The seed of the kernel's random numbers, itself made from `-seed`: a
        // kernel without one hashes for 9,300 instructions at every system
        // call, to choose the place of its stack.
        let randomness = if self.measured { "on" } else { "off" };
        add(
            "-machine",
            format!("virt,dtb-randomness={randomness},{properties}"),
        );
        add("-cpu", self.cpu.clone());
        add("-smp", self.cores.to_string());
        add("-m", self.memory.clone());
        if self.measured {
            add("-accel", "tcg,thread=single".to_owned());
            add("-icount", "shift=0,sleep=off".to_owned());
            add("-netdev", "hubport,id=metronome,hubid=0".to_owned());
            add(
                "-object",
                format!(
                    "filter-buffer,id=tick,netdev=metronome,interval={}",
                    self.tick
                ),
            );
            add("-seed", "1".to_owned());
            add("-rtc", "base=2026-01-01T00:00:00,clock=vm".to_owned());
        } else {
            add("-accel", "tcg,thread=multi".to_owned());
        }
        let loader = |kernel: &Path| {
            let kernel = kernel.display().to_string().replace(',', ",,");
            format!("guest-loader,addr={KERNEL_ADDRESS:#x},kernel={kernel}")
        };
        match (files.firmware, files.kernel) {
            (Some(firmware), kernel) => {
                add("-kernel", firmware.display().to_string());
                if let Some(kernel) = kernel {
                    add("-device", loader(kernel));
                }
            }
            (None, Some(kernel)) => add("-kernel", kernel.display().to_string()),
            (None, None) => {}
        }
        if let Some(initrd) = files.initrd {
            add("-initrd", initrd.display().to_string());
        }
        add("-append", self.arguments());
        args.extend(["-nodefaults", "-no-reboot", "-display", "none"].map(String::from));
        args.extend(["-nic", "none", "-monitor", "none"].map(String::from));
        args.extend(self.qemu.iter().cloned());
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_read_and_print_as_the_kernel_does() {
        let cores: Cores = "7,2-4,3".parse().unwrap();
        assert_eq!(cores.numbers(), [2, 3, 4, 7]);
        assert_eq!(cores.to_string(), "2-4,7");
        for wrong in ["", "x", "4-2", "1,,2", "-1", "0-9999"] {
            assert!(wrong.parse::<Cores>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let ok = Machine {
            dp: "2-3".parse().unwrap(),
            ..Machine::default()
        };
        ok.check().unwrap();
        let wrong = [
            Machine {
                cores: 0,
                ..Machine::default()
            },
            Machine {
                cores: 3,
                ..ok.clone()
            },
            Machine {
                isolate: true,
                ..Machine::default()
            },
            Machine {
                bare: true,
                vcpus: 1,
                ..Machine::default()
            },
            Machine {
                config: "a\"b".to_owned(),
                ..Machine::default()
            },
        ];
        for machine in wrong {
            assert!(machine.check().is_err(), "{machine:?}");
        }
    }

    #[test]
    fn arguments_name_the_dp_cores_to_whom_they_concern() {
        let mut m = Machine {
            dp: "2-3".parse().unwrap(),
            vcpus: 2,
            ..Machine::default()
        };
        assert!(
            m.arguments()
                .ends_with("taichi=\"vcpus=2 dp=2-3 look=1ms\"")
        );
        assert!(!m.arguments().contains("isolcpus"));
        m.isolate = true;
        assert!(m.arguments().contains("isolcpus=domain,managed_irq,2-3"));
        assert!(m.arguments().contains("irqaffinity=0-1"));
        m.measured = true;
        m.config = "slice=40us".to_owned();
        assert!(
            m.arguments()
                .ends_with("taichi=\"vcpus=2 dp=2-3 spin slice=40us\"")
        );
        m.bare = true;
        assert!(m.arguments().contains(" nohlt") && !m.arguments().contains("taichi="));
    }
}
