// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A status as text.

use std::fmt::{self, Display, Formatter};

use taichi_abi::doorbell::Reason;
use taichi_abi::epitaph::Epitaph;
use taichi_abi::telemetry::{CoreState, Parked};

use crate::snapshot::Core;
use crate::status::{Harvest, Status};

impl Display for Status {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let now = &self.now;
        writeln!(
            f,
            "firmware: build {:016x}, ABI {}; {} cores, {} vCPUs",
            now.build,
            now.version,
            now.cores.len(),
            now.vcpus.len()
        )?;
        writeln!(f, "lending: {}", self.lending())?;
        writeln!(f, "harvest: {}", self.verdict())?;
        if now.kicks_again > 0 {
            writeln!(
                f,
                "warning: {} interrupts between cores got lost and were sent again; \
                 this is a bug in the firmware or below it, please report it",
                now.kicks_again
            )?;
        }
        match &now.epitaph {
            None => writeln!(f, "last death: none known")?,
            Some((age, text)) => {
                let reason = Epitaph { age: *age, text }.reason().to_owned();
                let s = if *age == 1 { "" } else { "s" };
                writeln!(f, "last death: {age} boot{s} ago: {reason}")?;
            }
        }
        match self.elapsed {
            Some(ticks) => writeln!(f, "\nin the last {}:", self.seconds(ticks))?,
            None => writeln!(f, "\nsince the start:")?,
        }
        self.core_table(f)?;
        self.vcpu_table(f)
    }
}

impl Status {
    fn lending(&self) -> String {
        match self.parked() {
            Some(Parked::No) => "DP cores are lent when they are idle".to_owned(),
            Some(Parked::Asked) => {
                "parked: DP cores are not lent, as root asked; `taichi park off` lends them again"
                    .to_owned()
            }
            Some(Parked::LostKicks) => {
                "parked: DP cores are not lent, because interrupts between cores got lost again \
                 and again; `taichi park off` lends them again"
                    .to_owned()
            }
            None => format!(
                "parked for reason {}, newer than this tool",
                self.now.parked
            ),
        }
    }

    fn verdict(&self) -> String {
        let percent = |share: u64| format!("{}.{}%", share / 10, share % 10);
        match self.harvest() {
            Harvest::NoneConfigured => "none: there are no DP cores, or no vCPUs".to_owned(),
            Harvest::Parked => "none: parked".to_owned(),
            Harvest::NothingToHarvest => "DP cores are at 100%: nothing to harvest".to_owned(),
            Harvest::NotWanted { idle } => {
                format!(
                    "DP cores have time, and no vCPU wants it (idle in WFI: {})",
                    percent(idle)
                )
            }
            Harvest::Lent { share } => {
                format!("vCPUs had {} of the DP cores' time", percent(share))
            }
            Harvest::SomeTime => "vCPUs had some of the DP cores' time".to_owned(),
        }
    }

    fn core_table(&self, f: &mut Formatter) -> fmt::Result {
        writeln!(
            f,
            "core role state         lent waiting  stolen  came back for: nothing   slice  \
             interr   probe | refused  forced"
        )?;
        for (n, core) in self.cores.iter().enumerate() {
            let back = |reason: Reason| core.reclaims[reason as usize];
            writeln!(
                f,
                "{n:>4} {:<4} {:<12} {:>6} {:>7} {:>7} {:>23} {:>7} {:>7} {:>7} | {:>7} {:>7}",
                if core.dp { "DP" } else { "CP" },
                core_state(core),
                self.time(core.lent),
                self.time(core.waiting),
                self.time(core.stolen),
                back(Reason::Nothing),
                back(Reason::Slice),
                back(Reason::Interrupt),
                back(Reason::Probe),
                core.refusals,
                core.forced,
            )?;
        }
        Ok(())
    }

    fn vcpu_table(&self, f: &mut Formatter) -> fmt::Result {
        if self.vcpus.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "vCPU state                ran  stolen  moved  longest wait ever"
        )?;
        for (n, vcpu) in self.vcpus.iter().enumerate() {
            writeln!(
                f,
                "{n:>4} {:<18} {:>6} {:>7} {:>6}  {}",
                self.vcpu_state(n),
                self.time(vcpu.run),
                self.time(vcpu.steal),
                vcpu.migrations,
                self.seconds(vcpu.longest_wait),
            )?;
        }
        Ok(())
    }

    /// A share of the time that passed, or, where that isn't known, the time.
    fn time(&self, ticks: u64) -> String {
        match self.elapsed {
            Some(elapsed) if elapsed > 0 => {
                format!("{:.1}%", ticks as f64 * 100.0 / elapsed as f64)
            }
            _ => self.seconds(ticks),
        }
    }

    fn seconds(&self, ticks: u64) -> String {
        let seconds = ticks as f64 / self.now.frequency.max(1) as f64;
        if seconds < 1.0 {
            format!("{:.2}ms", seconds * 1e3)
        } else {
            format!("{seconds:.1}s")
        }
    }
}

fn core_state(core: &Core) -> String {
    match core.lent_to() {
        Some(vcpu) => format!("runs vCPU {vcpu}"),
        None if core.is(CoreState::Native) => "native".to_owned(),
        None if core.is(CoreState::Waiting) => "idle".to_owned(),
        None if core.is(CoreState::Off) => "off".to_owned(),
        None => format!("state {}", core.state & 0xff),
    }
}
