// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rescue: a vCPU that others may be waiting for gets a core at once.
//!
//! Such a vCPU is *urgent*. It was stopped inside a section, where it may hold a
//! lock or be next in the queue for one; or it was sent an interrupt. What a
//! section is, the caller knows: at least, whatever isn't EL0.
//!
//! Kernel mode first: code outside all sections is the code to stop. An urgent
//! vCPU takes the core of a vCPU or, on a CP core, of the native context that
//! is outside. Whether a core's code is, is known on that core alone, so cores
//! are asked one after the other by a kick: a core whose code is inside asks the
//! next. When all have been asked in vain, the round starts again a little
//! later ([`Params::look`]), and after [`Params::rescue`] any CP core will do.
//! A slice that ends inside a section is prolonged step by step for the same
//! reason, but a poller's, which bounds how long its packets wait.
//!
//! [`Params::look`]: super::Params::look
//! [`Params::rescue`]: super::Params::rescue

use super::{Core, Kicks, NEVER, Scheduler, Tick};
use crate::state::{CoreId, CoreState, Illegal, Role, VcpuId, Why};
use taichi_abi::MAX_CORES;

impl Scheduler {
    /// A vCPU has lost `core`, which was given to it for `why`. It is in no
    /// queue yet.
    #[inline(never)]
    pub(super) fn stopped(
        &mut self,
        vcpu: VcpuId,
        core: CoreId,
        why: Why,
        now: u64,
        inside: bool,
    ) -> Kicks {
        let slice_over = now >= self.cores[core].until;
        if why == Why::Forced {
            self.end_force(core, now);
        }
        self.cores[core].until = NEVER;
        self.cores[core].wanted = NEVER;
        // A poller that finds its queues empty yields again at once, and a slice
        // that was prolonged for long enough was a long section.
        let at = if slice_over {
            now.saturating_add(self.params.look)
        } else {
            now
        };
        self.enqueue(vcpu, core, now, inside.then_some(at))
    }

    /// A vCPU that was stopped or started on `core` joins the queue; as an urgent
    /// one, if cores are to be asked from some time on.
    pub(super) fn enqueue(
        &mut self,
        vcpu: VcpuId,
        core: CoreId,
        now: u64,
        ask: Option<u64>,
    ) -> Kicks {
        self.vcpus[vcpu].urgent = false;
        self.vcpus[vcpu].since = now;
        match ask {
            Some(at) => self.make_urgent(vcpu, core, now, at),
            None => {
                self.ready.push(vcpu);
                self.place(vcpu, core, now)
            }
        }
    }

    /// A ready vCPU, in no queue, is urgent: a waiting core takes it, or cores
    /// are asked from `at` on.
    #[inline(never)]
    pub(super) fn make_urgent(&mut self, vcpu: VcpuId, from: CoreId, now: u64, at: u64) -> Kicks {
        self.vcpus[vcpu].urgent = true;
        self.push_front(vcpu, now);
        if self.waiting != 0 {
            // Should that core turn to something else, the guardian asks.
            let guardian = self.guard_until(vcpu, now.saturating_add(self.params.look));
            return Kicks(self.kick_waiting().0 | guardian.without(from).0);
        }
        self.guard_until(vcpu, at).without(from)
    }

    /// The native context of a CP core that is lent has an interrupt. Whether
    /// its vCPU may keep the core for a moment, because it is inside a section;
    /// then set the timer anew.
    pub fn want_back(&mut self, core: CoreId, now: u64) -> bool {
        let CoreState::Lent { why, .. } = self.cores[core].state else {
            return false;
        };
        if self.cores[core].wanted == NEVER {
            self.cores[core].wanted = now.saturating_add(self.params.rescue);
        }
        let until = self.prolonged(core, why, now);
        if let Some(until) = until {
            self.cores[core].until = until;
        }
        until.is_some()
    }

    /// The urgent vCPU that is to run first.
    pub(super) fn urgent(&self) -> Option<VcpuId> {
        self.ready.iter().find(|&v| self.vcpus[v].urgent)
    }

    /// Asks this core, and then another, to run `vcpu`, which is urgent.
    pub(super) fn seek(
        &mut self,
        core: CoreId,
        vcpu: VcpuId,
        now: u64,
        inside: bool,
        kicks: &mut Kicks,
    ) -> Result<Tick, Illegal> {
        match self.cores[core].state {
            CoreState::Lent { .. }
                if self.cores[core].wanted == NEVER && (!inside || self.insists(vcpu, now)) =>
            {
                self.rotate_urgent(core, vcpu, now, inside, kicks)
            }
            CoreState::Native if self.may_take(core, vcpu, now, inside) => {
                self.cores[core].native_inside = inside;
                Ok(Tick::Lend(Why::Forced))
            }
            _ => {
                if now >= self.cores[0].round.saturating_add(self.params.look) {
                    self.cores[0].round = now;
                    self.asked = 0;
                }
                self.asked |= 1 << core;
                kicks.0 |= self.ask_another().0;
                Ok(Tick::Continue)
            }
        }
    }

    fn may_take(&self, core: CoreId, vcpu: VcpuId, now: u64, inside: bool) -> bool {
        let Core { role, turn, .. } = self.cores[core];
        let may = if inside {
            self.insists(vcpu, now)
        } else {
            now >= turn
        };
        may && role == Role::Cp
    }

    /// Whether code inside a section must give way too: it may be what waits
    /// for `vcpu`, in vain.
    fn insists(&self, vcpu: VcpuId, now: u64) -> bool {
        self.waited(vcpu, now) >= self.params.rescue
    }

    /// `to` runs in place of the vCPU that has this core, as long as that might
    /// have.
    fn rotate_urgent(
        &mut self,
        core: CoreId,
        to: VcpuId,
        now: u64,
        inside: bool,
        kicks: &mut Kicks,
    ) -> Result<Tick, Illegal> {
        let Core {
            state: CoreState::Lent { vcpu: from, why },
            start,
            until,
            ..
        } = self.cores[core]
        else {
            return Err(Illegal);
        };
        self.ready.remove(to);
        let tick = self.rotate(core, from, to, now, inside, kicks)?;
        if why != Why::Idle {
            let core = &mut self.cores[core];
            (core.start, core.until) = (start, until);
        }
        Ok(tick)
    }

    /// `to`, which is in no queue, runs in place of `from`, for a slice. If that
    /// was inside a section, cores are asked soon.
    pub(super) fn rotate(
        &mut self,
        core: CoreId,
        from: VcpuId,
        to: VcpuId,
        now: u64,
        inside: bool,
        kicks: &mut Kicks,
    ) -> Result<Tick, Illegal> {
        self.cores[core].state.rotate(to)?;
        self.vcpus[from].state.preempt()?;
        let again = now.saturating_add(self.params.look);
        kicks.0 |= self.enqueue(from, core, now, inside.then_some(again)).0;
        self.dispatch(core, to, Why::Idle, now)?;
        Ok(Tick::Rotate { from, to })
    }

    /// The next core of this round: those that are lent first, then CP cores.
    /// When all have been asked, the vCPU's guardian begins the next round.
    fn ask_another(&mut self) -> Kicks {
        let lent = |c: &CoreId| matches!(self.cores[*c].state, CoreState::Lent { .. });
        let native = |c: &CoreId| {
            self.cores[*c].state == CoreState::Native && self.cores[*c].role == Role::Cp
        };
        let fresh = |c: &CoreId| self.asked & 1 << *c == 0;
        let mut others = (0..MAX_CORES).filter(fresh);
        let next = others.clone().find(lent).or_else(|| others.find(native));
        let next = next.map_or(0, |core| 1 << core);
        self.asked |= next;
        Kicks(next)
    }

    /// When cores are asked again for `vcpu`: soon, the later the longer that
    /// was in vain, and not while all of them have their turn.
    pub(super) fn next_round(&self, vcpu: VcpuId, now: u64) -> u64 {
        let soon = now.saturating_add(self.step(self.waited(vcpu, now)));
        let turns = self.cores.0.iter().filter_map(|core| match core.state {
            CoreState::Native if core.role == Role::Cp => Some(core.turn),
            CoreState::Lent { .. } => Some(now),
            _ => None,
        });
        soon.max(turns.min().unwrap_or(now))
    }

    /// A ward of this CP core, whose native context is busy, starves.
    pub(super) fn take_for_starving(&mut self, core: CoreId, now: u64, inside: bool) -> Tick {
        let Core { turn, .. } = self.cores[core];
        let patient = self.ready.first().is_some_and(|vcpu| {
            self.waited(vcpu, now)
                < self
                    .params
                    .patience
                    .saturating_add(self.params.forced_slice)
        });
        let again = if now < turn {
            turn
        } else if inside && patient {
            now.saturating_add(self.params.look)
        } else {
            self.cores[core].native_inside = inside;
            return Tick::Lend(Why::Forced);
        };
        let wards = &mut self.cores[core].wards;
        *wards = (*wards).min(again);
        Tick::Continue
    }

    /// The slice on a core that is taken by force now.
    pub(super) fn forced_slice(&mut self, core: CoreId, vcpu: VcpuId, now: u64) -> u64 {
        let slice = if self.vcpus[vcpu].urgent {
            self.params.look
        } else {
            self.params.forced_slice
        };
        self.cores[core].turn = now.saturating_add(2 * slice);
        slice
    }

    /// How long a slice that is over goes on, because the vCPU is inside a
    /// section.
    pub(super) fn prolonged(&self, core: CoreId, why: Why, now: u64) -> Option<u64> {
        let Core {
            start,
            native_inside,
            wanted,
            ..
        } = self.cores[core];
        let longest = match why {
            Why::Yield => return None,
            // They may be waiting for one another.
            Why::Forced if native_inside => 4 * self.params.look,
            Why::Forced => 2 * self.params.forced_slice,
            Why::Idle => self.params.slice.saturating_add(self.params.forced_slice),
        };
        let end = start.saturating_add(longest).min(wanted);
        let step = self.step(now.saturating_sub(start));
        let again = now.saturating_add(step).min(end);
        (now < end).then_some(again)
    }

    /// How long not to look again at what has been the same for `elapsed`: so
    /// looks stay few, however slow the machine.
    fn step(&self, elapsed: u64) -> u64 {
        self.params.look.max(elapsed / 2)
    }

    /// The native context of a core that was taken by force has it back, and
    /// keeps it for as long as it hadn't it.
    pub(super) fn end_force(&mut self, core: CoreId, now: u64) {
        let core = &mut self.cores[core];
        core.wanted = NEVER;
        core.turn = now.saturating_add(now.saturating_sub(core.start));
    }
}
