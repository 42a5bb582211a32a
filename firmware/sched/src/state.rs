// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The states of cores and vCPUs, and every step between them by name.
//!
//! ```text
//!            start              lend               idle / reclaim
//!   core Off ─────▶ Native ─────────────▶ Lent ─────────────────▶ Native
//!         ▲ stop ────┘ │ wait      wake ▲  ▲ │ rotate (another vCPU)
//!                      └──▶ Waiting ────┘  └─┘
//!                              └─ lend from Waiting goes through Native
//!
//!             start            dispatch            sleep
//!   vCPU Off ──────▶ Ready ──────────────▶ Running ──────▶ Idle
//!         ▲            ▲ ◀──── preempt ──────┘ │            │
//!         └─────────── │ ────── stop ──────────┘            │
//!                      └───────────── wake ─────────────────┘
//! ```
//! A step from a state that doesn't allow it is [`Illegal`]: the caller has a
//! bug, nothing has changed.

/// Index of a real core, below [`taichi_abi::MAX_CORES`].
pub type CoreId = usize;
/// Index of a vCPU, below [`taichi_abi::MAX_VCPUS`].
pub type VcpuId = usize;

/// What a core's native context is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// Control plane: runs ordinary tasks; may be taken by force.
    #[default]
    Cp,
    /// Data plane: polls queues; lends only what it offers itself.
    Dp,
}

/// Why a native context gave its core away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// Linux idles there (WFI).
    Idle = 0,
    /// The poller loaded from the doorbell.
    Yield = 1,
    /// A vCPU starved; the native context was busy.
    Forced = 2,
}

/// What a core does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CoreState {
    /// Not started, or switched off.
    #[default]
    Off,
    /// Linux's own CPU runs.
    Native,
    /// Linux's own CPU idles, EL2 waits for an interrupt or a vCPU.
    Waiting,
    /// A vCPU runs.
    Lent {
        /// Which one.
        vcpu: VcpuId,
        /// Why the native context doesn't have the core.
        why: Why,
    },
}

/// What a vCPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum VcpuState {
    /// Not started, or switched off.
    #[default]
    Off,
    /// It executed WFI.
    Idle,
    /// It could run and has no core.
    Ready,
    /// It runs.
    Running {
        /// There.
        core: CoreId,
    },
}

/// A step that the state doesn't allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal;

impl CoreState {
    /// Off → Native: PSCI CPU_ON.
    pub fn start(&mut self) -> Result<(), Illegal> {
        self.step(Self::Native, |s| s == Self::Off)
    }
    /// Native → Off: PSCI CPU_OFF.
    pub fn stop(&mut self) -> Result<(), Illegal> {
        self.step(Self::Off, |s| s == Self::Native)
    }
    /// Native → Waiting: idle, and no vCPU wants the core.
    pub fn wait(&mut self) -> Result<(), Illegal> {
        self.step(Self::Waiting, |s| s == Self::Native)
    }
    /// Waiting → Native: an interrupt, or a vCPU to lend to.
    pub fn wake(&mut self) -> Result<(), Illegal> {
        self.step(Self::Native, |s| s == Self::Waiting)
    }
    /// Native → Lent.
    pub fn lend(&mut self, vcpu: VcpuId, why: Why) -> Result<(), Illegal> {
        self.step(Self::Lent { vcpu, why }, |s| s == Self::Native)
    }
    /// Lent → Lent, to another vCPU; the reason of the lend stays.
    pub fn rotate(&mut self, to: VcpuId) -> Result<(), Illegal> {
        match *self {
            Self::Lent { vcpu, why } if vcpu != to => {
                *self = Self::Lent { vcpu: to, why };
                Ok(())
            }
            _ => Err(Illegal),
        }
    }
    /// Lent → Native; says which vCPU had it and why.
    pub fn reclaim(&mut self) -> Result<(VcpuId, Why), Illegal> {
        match *self {
            Self::Lent { vcpu, why } => {
                *self = Self::Native;
                Ok((vcpu, why))
            }
            _ => Err(Illegal),
        }
    }

    fn step(&mut self, to: Self, allowed: impl Fn(Self) -> bool) -> Result<(), Illegal> {
        if !allowed(*self) {
            return Err(Illegal);
        }
        *self = to;
        Ok(())
    }
}

impl VcpuState {
    /// Off → Ready: PSCI CPU_ON.
    pub fn start(&mut self) -> Result<(), Illegal> {
        self.step(Self::Ready, |s| s == Self::Off)
    }
    /// Running → Off: PSCI CPU_OFF, which a CPU calls for itself.
    pub fn stop(&mut self) -> Result<(), Illegal> {
        self.step(Self::Off, |s| matches!(s, Self::Running { .. }))
    }
    /// Ready → Running.
    pub fn dispatch(&mut self, core: CoreId) -> Result<(), Illegal> {
        self.step(Self::Running { core }, |s| s == Self::Ready)
    }
    /// Running → Ready: it lost the core.
    pub fn preempt(&mut self) -> Result<(), Illegal> {
        self.step(Self::Ready, |s| matches!(s, Self::Running { .. }))
    }
    /// Running → Idle: WFI.
    pub fn sleep(&mut self) -> Result<(), Illegal> {
        self.step(Self::Idle, |s| matches!(s, Self::Running { .. }))
    }
    /// Idle → Ready: an interrupt for it.
    pub fn wake(&mut self) -> Result<(), Illegal> {
        self.step(Self::Ready, |s| s == Self::Idle)
    }

    fn step(&mut self, to: Self, allowed: impl Fn(Self) -> bool) -> Result<(), Illegal> {
        if !allowed(*self) {
            return Err(Illegal);
        }
        *self = to;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENT: CoreState = CoreState::Lent {
        vcpu: 1,
        why: Why::Yield,
    };

    /// The state after `step`, and whether it was allowed.
    fn after<S: Copy, T>(state: S, step: impl Fn(&mut S) -> Result<T, Illegal>) -> (S, bool) {
        let mut state = state;
        let allowed = step(&mut state).is_ok();
        (state, allowed)
    }

    #[test]
    fn a_core_takes_the_named_steps_and_no_others() {
        use CoreState::*;
        let to_two = Lent {
            vcpu: 2,
            why: Why::Idle,
        };
        let rotated = Lent {
            vcpu: 2,
            why: Why::Yield,
        };
        for state in [Off, Native, Waiting, LENT] {
            let expect = |from, to| {
                if state == from {
                    (to, true)
                } else {
                    (state, false)
                }
            };
            assert_eq!(after(state, CoreState::start), expect(Off, Native));
            assert_eq!(after(state, CoreState::stop), expect(Native, Off));
            assert_eq!(after(state, CoreState::wait), expect(Native, Waiting));
            assert_eq!(after(state, CoreState::wake), expect(Waiting, Native));
            assert_eq!(
                after(state, |s| s.lend(2, Why::Idle)),
                expect(Native, to_two)
            );
            assert_eq!(after(state, |s| s.rotate(2)), expect(LENT, rotated));
            assert_eq!(after(state, |s| s.rotate(1)), (state, false));
            assert_eq!(after(state, CoreState::reclaim), expect(LENT, Native));
        }
        let mut lent = LENT;
        assert_eq!(lent.reclaim(), Ok((1, Why::Yield)));
    }

    #[test]
    fn a_vcpu_takes_the_named_steps_and_no_others() {
        use VcpuState::*;
        let running = Running { core: 3 };
        for state in [Off, Idle, Ready, running] {
            let expect = |from, to| {
                if state == from {
                    (to, true)
                } else {
                    (state, false)
                }
            };
            assert_eq!(after(state, VcpuState::start), expect(Off, Ready));
            assert_eq!(after(state, VcpuState::stop), expect(running, Off));
            assert_eq!(after(state, |s| s.dispatch(3)), expect(Ready, running));
            assert_eq!(after(state, VcpuState::preempt), expect(running, Ready));
            assert_eq!(after(state, VcpuState::sleep), expect(running, Idle));
            assert_eq!(after(state, VcpuState::wake), expect(Idle, Ready));
        }
    }
}
