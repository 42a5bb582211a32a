// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The modelled SmartNIC in a guest: which core is what, and what runs.

use anyhow::Result;

use crate::kernel::Kernel;
use crate::machine::{Cores, Machine, TICK};

/// Real cores: four DP, two CP, one accelerator.
const CORES: u32 = 7;
/// Which is which. QEMU gives the first cores of a turn more than the last, in
/// a fixed pattern (0.93, 0.83, 1.26, 1.14, 1.03, 0.94, 0.87 at a tick of 20 us);
/// with this choice DP and CP cores get the same on average. The boot core
/// must be a CP core.
const DP: &str = "2,4-6";
const CP: &str = "0,3";
const ACCELERATOR: u32 = 1;
/// The firmware's first slice, in ns of core time.
const SLICE_NS: u32 = 50_000;
/// Linux starts on one core, which is the fastest, and gets the others before
/// the programs start.
const ALL_ONLINE: &str = "for c in /sys/devices/system/cpu/cpu[0-9]*/online; do \
                          grep -q 1 $c || echo 1 >$c; done";

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The guest's kernel.
    pub kernel: Kernel,
    /// Metronome, in us of virtual time.
    pub tick: u32,
    /// vCPUs of ours.
    pub vcpus: u32,
    /// Share of a DP core's time that packets need.
    pub load: f64,
    /// Concurrent CP tasks.
    pub tasks: u32,
    /// Rounds of work of each.
    pub rounds: u32,
    /// Of the packets' arrivals.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kernel: Kernel::Debian61,
            tick: TICK,
            vcpus: 4,
            load: 0.3,
            tasks: 32,
            rounds: 3,
            seed: 1,
        }
    }
}

/// A guest and what it runs.
#[derive(Clone, Debug)]
pub struct Scene {
    /// For people.
    pub name: &'static str,
    /// The guest.
    pub machine: Machine,
    /// The command in it.
    pub command: Vec<String>,
}

impl Settings {
    /// Static partition: our firmware without a vCPU, because Debian's arm64
    /// kernels can't be told to poll when they idle, and a core that sleeps
    /// makes the others faster in instruction time.
    pub fn still(&self) -> Scene {
        self.scene("static partition", 0)
    }

    /// The same with vCPUs on the idle DP cores.
    pub fn lending(&self) -> Scene {
        self.scene("Tai Chi", self.vcpus)
    }

    fn scene(&self, name: &'static str, vcpus: u32) -> Scene {
        let machine = Machine {
            kernel: self.kernel.clone(),
            cores: CORES,
            dp: dp_and_accelerator(),
            isolate: true,
            vcpus,
            measured: true,
            tick: self.tick,
            config: format!("slice={}us", SLICE_NS * CORES / 1000),
            append: "maxcpus=1".to_owned(),
            ..Machine::default()
        };
        let cp = match vcpus {
            0 => CP.to_owned(),
            n => format!("{CP},{CORES}-{}", CORES + n - 1),
        };
        let Self {
            load,
            tasks,
            rounds,
            seed,
            ..
        } = self;
        let smartnic = format!(
            "smartnic --dp {DP} --accelerator {ACCELERATOR} --cp {cp} --load {load} --seed {seed} \
             --tasks {tasks} --rounds {rounds} --spawns {rounds} --scale {CORES} --calibrate"
        );
        let command = ["sh", "-c", &format!("{ALL_ONLINE}; exec {smartnic}")];
        Scene {
            name,
            machine,
            command: command.map(String::from).to_vec(),
        }
    }
}

/// The firmware must leave the accelerator's core alone, as it does DP cores.
fn dp_and_accelerator() -> Cores {
    let cores: Result<Cores> = format!("{DP},{ACCELERATOR}").parse();
    cores.expect("a constant list")
}

impl Scene {
    /// What a user types to run the same.
    pub fn shell_command(&self) -> String {
        let m = &self.machine;
        format!(
            "taichi lab run --measured --tick {} --kernel {} --cores {} --dp {} --isolate --vcpus {} \
             --config '{}' --append '{}' -- {} {} '{}'",
            m.tick,
            m.kernel,
            m.cores,
            m.dp,
            m.vcpus,
            m.config,
            m.append,
            self.command[0],
            self.command[1],
            self.command[2]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_scenes_differ_in_their_vcpus_alone() {
        let settings = Settings::default();
        let (still, lending) = (settings.still(), settings.lending());
        still.machine.check().unwrap();
        lending.machine.check().unwrap();
        assert!(still.command[2].contains("--cp 0,3 "));
        assert!(lending.command[2].contains("--cp 0,3,7-10 "));
        let undone = lending.shell_command().replace(",7-10", "");
        assert_eq!(
            undone.replace("--vcpus 4", "--vcpus 0"),
            still.shell_command()
        );
        assert_eq!(still.machine.dp.to_string(), "1-2,4-6");
    }
}
