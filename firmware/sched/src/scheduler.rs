// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The decisions: round-robin with slices on cores that are lent, forced
//! progress on CP cores for vCPUs that would starve, and rescue (`rescue.rs`)
//! for those that others may be waiting for.
//!
//! Times are ticks of the system counter; [`NEVER`] is a time that doesn't
//! come. Every vCPU that has no core has a *guardian*, an online CP core whose
//! hypervisor timer covers what the vCPU waits for: its own timer while it is
//! idle, the end of its patience while it is ready. [`Scheduler::deadline`] is
//! when that timer must fire; it may fire too early, never too late.
//!
//! Calls that make other cores do something return [`Kicks`]: raise SGI 0 at
//! these, with [`crate::handover::Mail::LOOK`] posted; they then call
//! [`Scheduler::tick`]. The core that called is not among those whose timer
//! must fire earlier: **after every call it sets its own timer anew** from
//! [`Scheduler::deadline`].

mod guardian;
mod keep;
mod rescue;
mod tick;
mod watch;

pub use watch::WATCH;

use crate::queue::Queue;
use crate::state::{CoreId, CoreState, Illegal, Role, VcpuId, VcpuState, Why};
use crate::table::Table;
use taichi_abi::{MAX_CORES, MAX_VCPUS};

/// A time that doesn't come.
pub const NEVER: u64 = u64::MAX;

/// What the operator chose, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// The longest a vCPU runs on a core that was lent, before the core goes
    /// back or on to the next vCPU.
    pub slice: u64,
    /// How long a vCPU is ready without a core before a CP core is taken.
    pub patience: u64,
    /// How long it may keep a core that was taken by force; and how much longer
    /// a slice may get because its vCPU is inside a section.
    pub forced_slice: u64,
    /// How soon code is looked at again that is inside a section and shouldn't
    /// be stopped there.
    pub look: u64,
    /// How long an urgent vCPU looks for a core whose code is outside all
    /// sections, before it takes a CP core that isn't.
    pub rescue: u64,
}

/// Cores to kick, bit n for core n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a core that isn't kicked may sleep forever"]
pub struct Kicks(pub u32);

impl Kicks {
    /// Nobody.
    pub const NONE: Kicks = Kicks(0);

    #[inline]
    fn without(self, core: CoreId) -> Self {
        Kicks(self.0 & !(1 << core))
    }
}

/// What a core must do after [`Scheduler::tick`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Go on with what it does.
    Continue,
    /// Run another vCPU in place of the one that has the core.
    Rotate {
        /// The one that had it.
        from: VcpuId,
        /// The one to run.
        to: VcpuId,
    },
    /// Give the core back to the native context: the slice is over.
    Return,
    /// Lend the core to somebody: it waits, or somebody starves. Call
    /// [`Scheduler::lend`] with this reason.
    Lend(Why),
}

// Aligned, so that finding one in its array is a shift.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Core {
    state: CoreState,
    role: Role,
    /// The native context was inside a section when it lost the core by force.
    native_inside: bool,
    /// When the vCPU that runs here, inside a section, must give the core back
    /// to its native context, which wants it.
    wanted: u64,
    /// Of core 0: when the round of questions to all cores began.
    round: u64,
    /// End of the slice of the vCPU that runs here, and its start; of a core
    /// taken by force, since it was taken.
    until: u64,
    start: u64,
    /// No ward of this core needs anything before this time.
    wards: u64,
    /// Not taken by force before this time: native code has its turn.
    turn: u64,
    /// When it looks for lost kicks next: one core does.
    watch: u64,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Vcpu {
    state: VcpuState,
    /// While it is ready: others may be waiting for it, see `rescue.rs`.
    urgent: bool,
    /// When its timer fires, while it is idle.
    timer: u64,
    /// Since when it is ready.
    since: u64,
    /// The online CP core that looks after it while it has no core; any core
    /// while there is none.
    guardian: CoreId,
}

const BLANK_CORE: Core = Core {
    state: CoreState::Off,
    role: Role::Cp,
    native_inside: false,
    wanted: NEVER,
    round: 0,
    until: NEVER,
    start: 0,
    wards: NEVER,
    turn: 0,
    watch: NEVER,
};
const BLANK_VCPU: Vcpu = Vcpu {
    state: VcpuState::Off,
    urgent: false,
    timer: NEVER,
    since: 0,
    guardian: 0,
};

/// All state of the policy. One for the machine, behind one lock.
#[derive(Clone, Debug)]
pub struct Scheduler {
    params: Params,
    cores: Table<Core, MAX_CORES>,
    vcpus: Table<Vcpu, MAX_VCPUS>,
    vcpu_count: usize,
    ready: Queue,
    /// Bit n: core n is [`CoreState::Waiting`] and not kicked yet.
    waiting: u32,
    /// Bit n: core n is a CP core and online.
    guardians: u32,
    /// Bit n: core n may be lent. Consulted where a core waits; what keeps
    /// others is [`crate::handover::Mail::KEEP`].
    lendable: u32,
    /// Bit n: core n was asked for its core by an urgent vCPU, in this round.
    asked: u32,
}

impl Scheduler {
    /// Nothing to decide about yet: no core, no vCPU.
    pub const fn empty() -> Self {
        Self {
            params: Params {
                slice: 0,
                patience: 0,
                forced_slice: 0,
                look: 0,
                rescue: 0,
            },
            cores: Table([BLANK_CORE; MAX_CORES]),
            vcpus: Table([BLANK_VCPU; MAX_VCPUS]),
            vcpu_count: 0,
            ready: Queue::new(),
            waiting: 0,
            guardians: 0,
            lendable: u32::MAX,
            asked: 0,
        }
    }

    /// Everything off. `roles` has one entry per core.
    pub fn new(params: Params, roles: &[Role], vcpus: usize) -> Self {
        let mut new = Self {
            params,
            vcpu_count: vcpus.min(MAX_VCPUS),
            ..Self::empty()
        };
        for (core, &role) in new.cores.0.iter_mut().zip(roles) {
            core.role = role;
        }
        new
    }

    /// What a core does.
    pub fn core(&self, core: CoreId) -> CoreState {
        self.cores[core].state
    }

    /// What a vCPU does.
    pub fn vcpu(&self, vcpu: VcpuId) -> VcpuState {
        self.vcpus[vcpu].state
    }

    /// vCPUs that could run and have no core.
    #[inline]
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// How long a ready vCPU has waited for a core, in ticks.
    #[inline]
    pub fn waited(&self, vcpu: VcpuId, now: u64) -> u64 {
        now.saturating_sub(self.vcpus[vcpu].since)
    }

    /// When this core's hypervisor timer must fire, as far as vCPUs go.
    #[inline]
    pub fn deadline(&self, core: CoreId) -> u64 {
        let core = &self.cores[core];
        core.until.min(core.wards)
    }

    // Cores

    /// A core enters Linux.
    pub fn core_on(&mut self, core: CoreId) -> Result<(), Illegal> {
        self.cores[core].state.start()?;
        if self.cores[core].role == Role::Cp {
            self.guardians |= 1 << core;
            self.choose_guardians();
            // It has new wards: look after them at once.
            self.cores[core].wards = 0;
        }
        Ok(())
    }

    /// A core is about to leave through PSCI CPU_OFF; its wards move.
    pub fn core_off(&mut self, core: CoreId, now: u64) -> Result<Kicks, Illegal> {
        self.cores[core].state.stop()?;
        self.guardians &= !(1 << core);
        self.cores[core].wards = NEVER;
        self.choose_guardians();
        let mut kicks = Kicks::NONE;
        for vcpu in 0..self.vcpu_count {
            kicks.0 |= self.guard(vcpu, now).0;
        }
        Ok(kicks)
    }

    /// A native context gives its core away. `Ok(None)`: nobody wants it.
    #[inline(always)]
    pub fn lend(&mut self, core: CoreId, why: Why, now: u64) -> Result<Option<VcpuId>, Illegal> {
        if self.cores[core].state != CoreState::Native {
            core::hint::cold_path();
            self.leave_waiting(core)?;
        }
        let Some(vcpu) = self.ready.pop() else {
            return Ok(None);
        };
        self.cores[core].state.lend(vcpu, why)?;
        self.dispatch(core, vcpu, why, now)?;
        Ok(Some(vcpu))
    }

    /// The native context idles and [`Self::lend`] found nobody. If somebody
    /// has become ready since, a waiting core is kicked, perhaps this one.
    pub fn wait(&mut self, core: CoreId) -> Result<Kicks, Illegal> {
        self.cores[core].state.wait()?;
        self.waiting |= self.lendable & 1 << core;
        if !self.ready.is_empty() {
            return Ok(self.kick_waiting());
        }
        Ok(Kicks::NONE)
    }

    /// A waiting core has something to do in its native context. If it had
    /// been kicked to take a vCPU, another waiting core is kicked instead.
    pub fn wake(&mut self, core: CoreId) -> Result<Kicks, Illegal> {
        self.leave_waiting(core)?;
        if !self.ready.is_empty() {
            return Ok(self.kick_waiting());
        }
        Ok(Kicks::NONE)
    }

    #[inline]
    fn leave_waiting(&mut self, core: CoreId) -> Result<(), Illegal> {
        self.cores[core].state.wake()?;
        self.waiting &= !(1 << core);
        Ok(())
    }

    /// The native context takes back a core that it gave away itself; the vCPU,
    /// which is returned, is ready. It was stopped outside all sections; else,
    /// and where the core was taken by force, call [`Self::reclaim`].
    #[inline(always)]
    pub fn reclaim_outside(&mut self, core: CoreId, now: u64) -> Result<(VcpuId, Kicks), Illegal> {
        let (vcpu, _) = self.cores[core].state.reclaim()?;
        self.cores[core].until = NEVER;
        self.cores[core].wanted = NEVER;
        self.vcpus[vcpu].state.preempt()?;
        self.vcpus[vcpu].urgent = false;
        self.ready.push(vcpu);
        Ok((vcpu, self.place(vcpu, core, now)))
    }

    /// The native context takes its core back. `inside`: the vCPU was stopped
    /// inside a section.
    pub fn reclaim(
        &mut self,
        core: CoreId,
        now: u64,
        inside: bool,
    ) -> Result<(VcpuId, Kicks), Illegal> {
        let (vcpu, why) = self.cores[core].state.reclaim()?;
        self.vcpus[vcpu].state.preempt()?;
        Ok((vcpu, self.stopped(vcpu, core, why, now, inside)))
    }

    // vCPUs

    /// PSCI CPU_ON for a vCPU.
    pub fn vcpu_on(&mut self, vcpu: VcpuId, from: CoreId, now: u64) -> Result<Kicks, Illegal> {
        if vcpu >= self.vcpu_count {
            return Err(Illegal);
        }
        self.vcpus[vcpu].state.start()?;
        Ok(self.enqueue(vcpu, from, now, None))
    }

    /// The vCPU on this core called PSCI CPU_OFF. See [`Self::next`].
    pub fn vcpu_off(&mut self, core: CoreId, now: u64) -> Result<Option<VcpuId>, Illegal> {
        let CoreState::Lent { vcpu, .. } = self.cores[core].state else {
            return Err(Illegal);
        };
        self.vcpus[vcpu].state.stop()?;
        self.next(core, now)
    }

    /// The vCPU on this core executed WFI; its timer fires at `timer`. See
    /// [`Self::next`].
    #[inline]
    pub fn vcpu_idle(
        &mut self,
        core: CoreId,
        timer: u64,
        now: u64,
    ) -> Result<(Option<VcpuId>, Kicks), Illegal> {
        let CoreState::Lent { vcpu, .. } = self.cores[core].state else {
            return Err(Illegal);
        };
        self.vcpus[vcpu].state.sleep()?;
        self.vcpus[vcpu].timer = timer;
        let kicks = if timer == NEVER {
            Kicks::NONE
        } else {
            self.guard(vcpu, now)
        };
        Ok((self.next(core, now)?, kicks.without(core)))
    }

    /// Somebody, on core `from`, sent a vCPU an interrupt: an idle one becomes
    /// ready, a ready one runs next, and urgently, because he may be waiting.
    #[inline]
    pub fn vcpu_interrupt(&mut self, vcpu: VcpuId, from: CoreId, now: u64) -> Kicks {
        if self.vcpus[vcpu].state.wake().is_ok() {
            self.vcpus[vcpu].since = now;
        } else if self.vcpus[vcpu].urgent || !self.ready.remove(vcpu) {
            return Kicks::NONE;
        }
        self.make_urgent(vcpu, from, now, now)
    }

    // Common steps

    /// The vCPU that follows one which gave up a lent core by itself, or
    /// `None`: then the core is native again.
    fn next(&mut self, core: CoreId, now: u64) -> Result<Option<VcpuId>, Illegal> {
        let CoreState::Lent { why, .. } = self.cores[core].state else {
            return Err(Illegal);
        };
        // What was taken by force goes back as soon as the starving one is done.
        let next = if why == Why::Forced || self.cores[core].wanted != NEVER {
            self.end_force(core, now);
            None
        } else {
            self.ready.pop()
        };
        match next {
            Some(next) => {
                self.cores[core].state.rotate(next)?;
                self.dispatch(core, next, why, now)?;
            }
            None => {
                self.cores[core].state.reclaim()?;
                self.cores[core].until = NEVER;
            }
        }
        Ok(next)
    }

    #[inline(always)]
    fn dispatch(&mut self, core: CoreId, vcpu: VcpuId, why: Why, now: u64) -> Result<(), Illegal> {
        self.vcpus[vcpu].state.dispatch(core)?;
        let slice = if why == Why::Forced {
            self.forced_slice(core, vcpu, now)
        } else {
            self.params.slice
        };
        self.cores[core].start = now;
        self.cores[core].until = now + slice;
        Ok(())
    }

    /// Whether a ready vCPU has lost its patience.
    #[inline]
    fn starves(&self, vcpu: VcpuId, now: u64) -> bool {
        self.waited(vcpu, now) >= self.params.patience
    }

    /// Puts a vCPU in front of all others, but not in front of a first one
    /// that starves and has waited longer: else vCPUs that interrupt one
    /// another would keep it from running forever.
    #[inline]
    fn push_front(&mut self, vcpu: VcpuId, now: u64) {
        match self.ready.pop() {
            Some(first)
                if self.starves(first, now) && self.waited(first, now) > self.waited(vcpu, now) =>
            {
                self.ready.push_front(vcpu);
                self.ready.push_front(first);
            }
            Some(first) => {
                self.ready.push_front(first);
                self.ready.push_front(vcpu);
            }
            None => self.ready.push_front(vcpu),
        }
    }

    /// A vCPU has just joined the ready queue: a waiting core takes it at
    /// once; otherwise its guardian watches its patience.
    #[inline(always)]
    fn place(&mut self, vcpu: VcpuId, from: CoreId, now: u64) -> Kicks {
        self.vcpus[vcpu].since = now;
        let mut kicks = match self.guard_until(vcpu, now + self.params.patience) {
            Kicks::NONE => Kicks::NONE,
            guardian => guardian.without(from),
        };
        if self.waiting != 0 {
            kicks.0 |= self.kick_waiting().0;
        }
        kicks
    }

    /// One waiting core for one vCPU: the next one kicks another.
    #[inline(always)]
    fn kick_waiting(&mut self) -> Kicks {
        let first = self.waiting & self.waiting.wrapping_neg();
        self.waiting &= !first;
        Kicks(first)
    }
}
