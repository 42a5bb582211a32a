// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What happened between two snapshots, and what to make of it.

use taichi_abi::telemetry::{Parked, VcpuState};

use crate::snapshot::{Core, Snapshot, Vcpu};

/// Of a core's time, in thousandths: less is nothing.
const NOTHING: u64 = 10;

/// What happened between two snapshots, or, with one copy of unknown age, since
/// the machine started.
#[derive(Clone, Debug)]
pub struct Status {
    /// What was true at the end.
    pub now: Snapshot,
    /// Ticks between the two; `None`: since the start, which isn't known.
    pub elapsed: Option<u64>,
    /// What each core did in that time.
    pub cores: Vec<Core>,
    /// What each vCPU did.
    pub vcpus: Vec<Vcpu>,
}

/// What DP cores gave to vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harvest {
    /// There are no DP cores, or no vCPUs.
    NoneConfigured,
    /// DP cores aren't lent.
    Parked,
    /// They do their own work all the time.
    NothingToHarvest,
    /// They are idle, but no vCPU wants them.
    NotWanted {
        /// Thousandths of their time that they waited, as far as that is
        /// counted: pollers that find nobody ready go on polling.
        idle: u64,
    },
    /// vCPUs run there.
    Lent {
        /// Thousandths of the DP cores' time.
        share: u64,
    },
    /// vCPUs ran there, of unknown share.
    SomeTime,
}

impl Status {
    /// What happened from one to the other.
    pub fn between(before: &Snapshot, now: Snapshot) -> Self {
        let elapsed = now.ticks.zip(before.ticks);
        let elapsed = elapsed.map(|(now, before)| now.wrapping_sub(before));
        let cores = now.cores.iter().zip(&before.cores);
        let vcpus = now.vcpus.iter().zip(&before.vcpus);
        Self {
            elapsed,
            cores: cores
                .map(|(now, before)| now.since(before, elapsed.unwrap_or(0)))
                .collect(),
            vcpus: vcpus
                .enumerate()
                .map(|(n, (vcpu, old))| {
                    let place = now.place(n);
                    let stays = place.is_some() && place == before.place(n);
                    vcpu.since(old, elapsed.unwrap_or(0), stays)
                })
                .collect(),
            now,
        }
    }

    /// What happened since the machine started.
    pub fn since_start(now: Snapshot) -> Self {
        Self {
            elapsed: None,
            cores: now.cores.clone(),
            vcpus: now.vcpus.clone(),
            now,
        }
    }

    /// Whether DP cores are lent, as the firmware says.
    pub fn parked(&self) -> Option<Parked> {
        Parked::from_number(self.now.parked)
    }

    /// What DP cores gave.
    pub fn harvest(&self) -> Harvest {
        let dp: Vec<&Core> = self.cores.iter().filter(|core| core.dp).collect();
        if dp.is_empty() || self.vcpus.is_empty() {
            return Harvest::NoneConfigured;
        }
        if self.parked() != Some(Parked::No) {
            return Harvest::Parked;
        }
        let sum = |what: fn(&Core) -> u64| dp.iter().map(|core| what(core)).sum::<u64>();
        let (lent, waiting) = (sum(|c| c.lent), sum(|c| c.waiting));
        let offers = sum(|c| c.yields_empty);
        let Some(elapsed) = self.elapsed.filter(|&ticks| ticks > 0) else {
            return match (lent, waiting + offers) {
                (0, 0) => Harvest::NothingToHarvest,
                (0, _) => Harvest::NotWanted { idle: 0 },
                _ => Harvest::SomeTime,
            };
        };
        let share = |ticks: u64| ticks * 1000 / (elapsed * dp.len() as u64);
        match (share(lent), share(waiting)) {
            (lent, _) if lent >= NOTHING => Harvest::Lent { share: lent },
            (_, idle) if idle >= NOTHING || offers > 0 => Harvest::NotWanted { idle },
            _ => Harvest::NothingToHarvest,
        }
    }

    /// What a vCPU does.
    pub(crate) fn vcpu_state(&self, vcpu: usize) -> String {
        let state = self.now.vcpus[vcpu].state & 0xff;
        match (self.now.place(vcpu), state) {
            (Some(core), _) => format!("runs on {core}"),
            (None, s) if s == VcpuState::Off as u64 => "off".to_owned(),
            (None, s) if s == VcpuState::Idle as u64 => "idle".to_owned(),
            (None, s) if s == VcpuState::Runnable as u64 => "waits for a core".to_owned(),
            (None, s) => format!("unknown state {s}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taichi_abi::telemetry::CoreState;

    /// A CP core, two DP cores and a vCPU, looked at twice 1000 ticks apart.
    fn machine() -> (Snapshot, Snapshot) {
        let core = |dp| Core {
            dp,
            ..Core::default()
        };
        let snapshot = |ticks| Snapshot {
            ticks: Some(ticks),
            frequency: 1000,
            version: 1,
            cores: vec![core(false), core(true), core(true)],
            vcpus: vec![Vcpu::default()],
            ..Snapshot::default()
        };
        (snapshot(5000), snapshot(6000))
    }

    #[test]
    fn busy_dp_cores_leave_nothing_to_harvest() {
        let (before, mut now) = machine();
        let status = Status::between(&before, now.clone());
        assert_eq!(status.harvest(), Harvest::NothingToHarvest);
        assert!(status.to_string().contains("nothing to harvest"));
        // A yield that found nobody: they have time, and nobody wants it.
        now.cores[1].yields_empty = 3;
        let status = Status::between(&before, now.clone());
        assert_eq!(status.harvest(), Harvest::NotWanted { idle: 0 });
        now.cores[2].lent = 500;
        let status = Status::between(&before, now.clone());
        assert_eq!(status.harvest(), Harvest::Lent { share: 250 });
        now.parked = Parked::Asked as u32;
        let status = Status::between(&before, now.clone());
        assert_eq!(status.harvest(), Harvest::Parked);
        now.cores.truncate(1);
        let status = Status::between(&before, now);
        assert_eq!(status.harvest(), Harvest::NoneConfigured);
    }

    #[test]
    fn a_stay_that_goes_on_is_counted() {
        let (mut before, mut now) = machine();
        for snapshot in [&mut before, &mut now] {
            snapshot.cores[1].state = CoreState::Lent as u64;
            snapshot.cores[2].state = CoreState::Waiting as u64;
        }
        let status = Status::between(&before, now.clone());
        assert_eq!(
            (status.cores[1].lent, status.cores[2].waiting),
            (1000, 1000)
        );
        assert_eq!(status.harvest(), Harvest::Lent { share: 500 });
        assert_eq!(status.vcpu_state(0), "runs on 1");
        assert_eq!(status.vcpus[0].run, 1000);
        // It ended, and another began: what was counted holds.
        now.cores[1].lent = 40;
        let status = Status::between(&before, now);
        assert_eq!(status.cores[1].lent, 40);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let (before, mut now) = machine();
        let text = |now: &Snapshot| Status::between(&before, now.clone()).to_string();
        assert!(text(&now).contains("last death: none known"));
        assert!(!text(&now).contains("warning"));
        now.epitaph = Some((1, "\nreason: a test\n".to_owned()));
        now.kicks_again = 3;
        now.parked = Parked::LostKicks as u32;
        let text = text(&now);
        for part in [
            "last death: 1 boot ago: a test",
            "warning: 3 interrupts between cores got lost",
            "parked: DP cores are not lent, because interrupts",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn counters_wrap() {
        let (mut before, mut now) = machine();
        before.vcpus[0].run = u64::MAX - 9;
        now.vcpus[0].run = 90;
        let status = Status::between(&before, now);
        assert_eq!(status.vcpus[0].run, 100);
    }

    #[test]
    fn a_copy_has_no_shares() {
        let (_, mut now) = machine();
        now.cores[1].lent = 7;
        let status = Status::since_start(now.clone());
        assert_eq!(status.harvest(), Harvest::SomeTime);
        now.cores[1].lent = 0;
        assert_eq!(
            Status::since_start(now).harvest(),
            Harvest::NothingToHarvest
        );
    }
}
