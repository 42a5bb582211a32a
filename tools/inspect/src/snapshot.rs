// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The telemetry window at one time.

use taichi_abi::telemetry as abi;
use taichi_dataplane::{Telemetry, raw};

/// Everything that is told, but for the traces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The system counter; `None` where the window is a copy of unknown age.
    pub ticks: Option<u64>,
    /// Its ticks in a second.
    pub frequency: u64,
    /// Version of the ABI.
    pub version: u32,
    /// The firmware's build id.
    pub build: u64,
    /// vCPUs that could run and had no core.
    pub ready: u32,
    /// [`abi::Header::kicks_again`].
    pub kicks_again: u64,
    /// [`abi::Header::parked`].
    pub parked: u32,
    /// Real cores, by number.
    pub cores: Vec<Core>,
    /// vCPUs, by number.
    pub vcpus: Vec<Vcpu>,
    /// The epitaph that an earlier run left, and how many boots ago.
    pub epitaph: Option<(u32, String)>,
}

/// One core; times in ticks. Fields as in [`abi::Core`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the ABI says what they are")]
pub struct Core {
    pub dp: bool,
    pub state: u64,
    pub lent: u64,
    pub waiting: u64,
    pub stolen: u64,
    pub reclaims: [u64; 8],
    pub yields_empty: u64,
    pub refusals: u64,
    pub forced: u64,
    pub rotations: u64,
}

/// One vCPU; times in ticks. Fields as in [`abi::Vcpu`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the ABI says what they are")]
pub struct Vcpu {
    pub state: u64,
    pub run: u64,
    pub steal: u64,
    pub migrations: u64,
    pub longest_wait: u64,
}

impl Snapshot {
    /// What the window tells now, if it is `live`; else what a copy of it tells.
    pub fn take(telemetry: &Telemetry, live: bool) -> Self {
        let header = telemetry.header();
        let dp = header.dp_cores.into_inner();
        let cores = telemetry.cores().into_iter().enumerate();
        Self {
            ticks: live.then(raw::ticks),
            frequency: header.frequency.into_inner(),
            version: header.version.into_inner(),
            build: header.build.into_inner(),
            ready: header.ready.into_inner(),
            kicks_again: header.kicks_again.into_inner(),
            parked: header.parked.into_inner(),
            cores: cores.map(|(n, c)| Core::of(c, dp >> n & 1 == 1)).collect(),
            vcpus: telemetry.vcpus().into_iter().map(Vcpu::of).collect(),
            epitaph: telemetry.epitaph(),
        }
    }

    /// The core that a vCPU runs on.
    pub fn place(&self, vcpu: usize) -> Option<usize> {
        self.cores
            .iter()
            .position(|core| core.lent_to() == Some(vcpu))
    }
}

impl Core {
    fn of(core: abi::Core, dp: bool) -> Self {
        Self {
            dp,
            state: core.state.into_inner(),
            lent: core.lent_ticks.into_inner(),
            waiting: core.waiting_ticks.into_inner(),
            stolen: core.stolen_ticks.into_inner(),
            reclaims: core.reclaims.map(|n| n.into_inner()),
            yields_empty: core.yields_empty.into_inner(),
            refusals: core.refusals.into_inner(),
            forced: core.forced.into_inner(),
            rotations: core.rotations.into_inner(),
        }
    }

    /// Which vCPU runs here.
    pub fn lent_to(&self) -> Option<usize> {
        (self.is(abi::CoreState::Lent)).then_some((self.state >> 8 & 0xff) as usize)
    }

    /// Whether it does this.
    pub fn is(&self, state: abi::CoreState) -> bool {
        self.state & 0xff == state as u64
    }

    /// What was counted since `before`. A stay that goes on is counted when it
    /// ends; one that lasted all of `elapsed` ticks is counted here.
    #[must_use]
    pub fn since(&self, before: &Self, elapsed: u64) -> Self {
        let (reclaims, old) = (self.reclaims, before.reclaims);
        let mut new = Self {
            dp: self.dp,
            state: self.state,
            lent: self.lent.wrapping_sub(before.lent),
            waiting: self.waiting.wrapping_sub(before.waiting),
            stolen: self.stolen.wrapping_sub(before.stolen),
            reclaims: std::array::from_fn(|n| reclaims[n].wrapping_sub(old[n])),
            yields_empty: self.yields_empty.wrapping_sub(before.yields_empty),
            refusals: self.refusals.wrapping_sub(before.refusals),
            forced: self.forced.wrapping_sub(before.forced),
            rotations: self.rotations.wrapping_sub(before.rotations),
        };
        let nothing_ended = new.lent == 0 && new.waiting == 0;
        if nothing_ended && self.state == before.state {
            match self {
                core if core.is(abi::CoreState::Lent) => new.lent = elapsed,
                core if core.is(abi::CoreState::Waiting) => new.waiting = elapsed,
                _ => {}
            }
        }
        new
    }
}

impl Vcpu {
    fn of(vcpu: abi::Vcpu) -> Self {
        Self {
            state: vcpu.state.into_inner(),
            run: vcpu.run_ticks.into_inner(),
            steal: vcpu.steal_ticks.into_inner(),
            migrations: vcpu.migrations.into_inner(),
            longest_wait: vcpu.longest_wait.into_inner(),
        }
    }

    /// What was counted since `before`. A stay that goes on is counted when it
    /// ends; one that lasted all of `elapsed` ticks is counted here.
    #[must_use]
    pub fn since(&self, before: &Self, elapsed: u64, stays: bool) -> Self {
        let mut new = self.counted_since(before);
        if stays && new.run == 0 && new.steal == 0 {
            new.run = elapsed;
        }
        new
    }

    fn counted_since(&self, before: &Self) -> Self {
        Self {
            state: self.state,
            run: self.run.wrapping_sub(before.run),
            steal: self.steal.wrapping_sub(before.steal),
            migrations: self.migrations.wrapping_sub(before.migrations),
            longest_wait: self.longest_wait,
        }
    }
}
