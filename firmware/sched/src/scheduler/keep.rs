// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cores that are kept for their native contexts: the fall-back to static
//! partition.

use super::{Kicks, Scheduler};
use crate::state::{CoreState, Role};
use taichi_abi::MAX_CORES;

impl Scheduler {
    /// Keeps all DP cores, or lets them be lent again. What the kicked ones must
    /// do is [`Self::tick`], as ever. Those that are lent stay so until they
    /// are reclaimed.
    pub fn keep_dp_cores(&mut self, keep: bool) -> Kicks {
        self.lendable = u32::MAX;
        for core in (0..MAX_CORES).filter(|&core| self.cores[core].role == Role::Dp) {
            let bit = 1 << core;
            if keep {
                self.lendable &= !bit;
                self.waiting &= !bit;
            } else if self.cores[core].state == CoreState::Waiting {
                self.waiting |= bit;
            }
        }
        // As many as there are vCPUs to run: none was kicked for these.
        let mut kicks = Kicks::NONE;
        for _ in 0..self.ready.len() {
            kicks.0 |= self.kick_waiting().0;
        }
        kicks
    }
}
