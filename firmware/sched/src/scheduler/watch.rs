// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watchman: one core, which never leaves, comes back to EL2 every now and
//! then whatever happens, to look for levels whose SGI 0 got lost. All others
//! may rely on being kicked.

use super::{Kicks, Scheduler};
use crate::state::{CoreId, CoreState, Role};

/// How many times the patience of a vCPU the watchman waits between two looks:
/// so seldom that nobody notices, and often enough for Linux, which complains
/// after seconds.
pub const WATCH: u64 = 8;

impl Scheduler {
    /// With this CP core as the watchman. It must never leave. Without one
    /// nobody looks.
    #[must_use]
    pub fn watched_by(mut self, core: CoreId) -> Self {
        self.cores[core].watch = 0;
        self
    }

    /// Before each [`Self::tick`]: whether this core is the watchman and must
    /// look now.
    pub fn watch(&mut self, core: CoreId, now: u64) -> bool {
        let watch = &mut self.cores[core].watch;
        if now < *watch {
            return false;
        }
        // `wards` is never later than this, and `tick` sets it anew.
        *watch = now.saturating_add(WATCH * self.params.patience);
        true
    }

    /// The cores that would take SGI 0 at EL2: all but those that are off, and
    /// native contexts of DP cores, which take it themselves.
    pub fn kickable(&self) -> Kicks {
        let mut kicks = Kicks::NONE;
        for (id, core) in self.cores.0.iter().enumerate() {
            let is_ours = match core.state {
                CoreState::Off => false,
                CoreState::Native => core.role == Role::Cp,
                CoreState::Waiting | CoreState::Lent { .. } => true,
            };
            kicks.0 |= u32::from(is_ours) << id;
        }
        kicks
    }
}
