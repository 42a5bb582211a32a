// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a core does when its hypervisor timer fires or somebody kicked it.

use super::{Kicks, NEVER, Scheduler, Tick};
use crate::state::{CoreId, CoreState, Illegal, VcpuId, Why};

impl Scheduler {
    /// The hypervisor timer fired, or somebody kicked. `inside`: the context
    /// that runs here is inside a section.
    pub fn tick(&mut self, core: CoreId, now: u64, inside: bool) -> Result<(Tick, Kicks), Illegal> {
        let mut kicks = Kicks::NONE;
        let mut starving = false;
        if now >= self.cores[core].wards {
            (starving, kicks) = self.look_after_wards(core, now);
        }
        let mut tick = match self.cores[core].state {
            CoreState::Lent { vcpu, why } if now >= self.cores[core].until => {
                self.slice_over(core, vcpu, why, now, inside, &mut kicks)?
            }
            CoreState::Waiting if self.lendable & 1 << core == 0 => {
                // Kicked before it was kept: another takes what it came for.
                if !self.ready.is_empty() {
                    kicks.0 |= self.kick_waiting().0;
                }
                Tick::Continue
            }
            CoreState::Waiting if !self.ready.is_empty() => Tick::Lend(Why::Idle),
            CoreState::Waiting => {
                // Somebody else took what this core was kicked for.
                self.waiting |= 1 << core;
                Tick::Continue
            }
            CoreState::Native if starving => self.take_for_starving(core, now, inside),
            _ => Tick::Continue,
        };
        if tick == Tick::Continue
            && let Some(vcpu) = self.urgent()
        {
            tick = self.seek(core, vcpu, now, inside, &mut kicks)?;
        }
        Ok((tick, kicks))
    }

    fn slice_over(
        &mut self,
        core: CoreId,
        vcpu: VcpuId,
        why: Why,
        now: u64,
        inside: bool,
        kicks: &mut Kicks,
    ) -> Result<Tick, Illegal> {
        // Where nobody else wants an idle core, its vCPU goes on anyway.
        let wanted = self.cores[core].wanted != NEVER;
        let contended = wanted || why != Why::Idle || !self.ready.is_empty();
        if inside
            && contended
            && let Some(until) = self.prolonged(core, why, now)
        {
            self.cores[core].until = until;
            return Ok(Tick::Continue);
        }
        if wanted {
            return Ok(Tick::Return);
        }
        match (why, self.ready.pop()) {
            // An idle core serves the next one, or goes on with the only one.
            (Why::Idle, None) => {
                self.cores[core].start = now;
                self.cores[core].until = now.saturating_add(self.params.slice);
                Ok(Tick::Continue)
            }
            (Why::Idle, Some(next)) => self.rotate(core, vcpu, next, now, inside, kicks),
            // A poller looks at its queues, busy native code goes on.
            (_, next) => {
                if let Some(next) = next {
                    self.ready.push_front(next);
                }
                Ok(Tick::Return)
            }
        }
    }
}
