// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who looks after a vCPU that has no core: its timer while it is idle, its
//! patience while it is ready.

use super::{Kicks, Scheduler, Vcpu};
use crate::state::{CoreId, VcpuId, VcpuState};
use taichi_abi::MAX_CORES;

impl Scheduler {
    /// The n-th core is the n-th vCPU's guardian, if that is a CP core and
    /// online; else the one that it has stays, while that is online.
    pub(super) fn choose_guardians(&mut self) {
        let online = self.guardians;
        for (n, vcpu) in self.vcpus.0.iter_mut().enumerate() {
            let is_online = |core: CoreId| online & (1 << core) != 0;
            if is_online(n % MAX_CORES) {
                vcpu.guardian = n % MAX_CORES;
            } else if !is_online(vcpu.guardian) && online != 0 {
                let mut left = online;
                for _ in 0..(n as u32 % online.count_ones()) {
                    left &= left - 1;
                }
                vcpu.guardian = left.trailing_zeros() as CoreId;
            }
        }
    }

    /// A vCPU without a core: its guardian is kicked if its timer must now fire
    /// earlier.
    #[inline]
    pub(super) fn guard(&mut self, vcpu: VcpuId, now: u64) -> Kicks {
        let Vcpu {
            state,
            timer,
            since,
            urgent,
            ..
        } = self.vcpus[vcpu];
        let at = match state {
            VcpuState::Idle => timer,
            VcpuState::Ready if urgent => self.next_round(vcpu, now),
            // One that starves already is looked at again when native code has
            // had as long a turn as a forced slice.
            VcpuState::Ready => match since.saturating_add(self.params.patience) {
                end if end > now => end,
                _ => now.saturating_add(2 * self.params.forced_slice),
            },
            VcpuState::Off | VcpuState::Running { .. } => return Kicks::NONE,
        };
        self.guard_until(vcpu, at)
    }

    /// The guardian of `vcpu` looks after it at `at`.
    #[inline(always)]
    pub(super) fn guard_until(&mut self, vcpu: VcpuId, at: u64) -> Kicks {
        let guardian = self.vcpus[vcpu].guardian;
        let wards = &mut self.cores[guardian].wards;
        if at >= *wards {
            return Kicks::NONE;
        }
        *wards = at;
        // While no CP core is online nobody need come: `core_on` looks after
        // everybody.
        Kicks(self.guardians & 1 << guardian)
    }

    /// An idle vCPU's timer fired. It is next, but nobody waits for it.
    fn timer_fired(&mut self, vcpu: VcpuId, core: CoreId, now: u64) -> Kicks {
        if self.vcpus[vcpu].state.wake().is_err() {
            return Kicks::NONE;
        }
        self.vcpus[vcpu].urgent = false;
        self.vcpus[vcpu].since = now;
        self.push_front(vcpu, now);
        self.place(vcpu, core, now)
    }

    /// Wakes wards whose timer fired, finds whether one starves, and works out
    /// when to look again.
    pub(super) fn look_after_wards(&mut self, core: CoreId, now: u64) -> (bool, Kicks) {
        self.cores[core].wards = self.cores[core].watch;
        let mut kicks = Kicks::NONE;
        let mut starving = None;
        for vcpu in 0..self.vcpu_count {
            if self.vcpus[vcpu].guardian != core {
                continue;
            }
            if self.vcpus[vcpu].state == VcpuState::Idle && self.vcpus[vcpu].timer <= now {
                kicks.0 |= self.timer_fired(vcpu, core, now).0;
                continue;
            }
            kicks.0 |= self.guard(vcpu, now).0;
            let starved = self.vcpus[vcpu].state == VcpuState::Ready && self.starves(vcpu, now);
            if starved && starving.is_none_or(|s| self.waited(s, now) < self.waited(vcpu, now)) {
                starving = Some(vcpu);
            }
        }
        if let Some(vcpu) = starving
            && self.ready.remove(vcpu)
        {
            self.push_front(vcpu, now);
        }
        (starving.is_some(), kicks.without(core))
    }
}
