// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The vCPUs' contexts. A context is *claimed* by the core that runs it; the
//! claim, not the scheduler, is what keeps it on one core at a time.

use crate::context::{Context, Controls};
use crate::timer;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};
use taichi_abi::MAX_VCPUS;

const FREE: u32 = u32::MAX;

struct Slot {
    /// The core that has the context, or [`FREE`].
    owner: AtomicU32,
    context: UnsafeCell<Context>,
}

// SAFETY: the context is only reached through `Claim`, of which the owner
// word allows one at a time.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_VCPUS] = [const {
    Slot {
        owner: AtomicU32::new(FREE),
        context: UnsafeCell::new(Context::new(Controls::VCPU)),
    }
}; MAX_VCPUS];

/// Seconds that a core waits while another saves a context. That takes some
/// hundred instructions, but a host that emulates the other core may stop it.
const PATIENCE: u64 = 10;

/// The right to a vCPU's context. Given back by [`Claim::release`], or on drop.
pub struct Claim(usize);

impl Claim {
    /// Claims `vcpu`'s context for `core`; waits while another core is still
    /// saving it. `None` if there is no such vCPU, or another core runs it.
    #[inline]
    pub fn new(vcpu: usize, core: usize) -> Option<Self> {
        let slot = SLOTS.get(vcpu)?;
        let free = || {
            let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
            slot.owner
                .compare_exchange(FREE, core as u32, acquire, relaxed)
                .is_ok()
        };
        if !free() {
            let end = timer::now() + PATIENCE * timer::frequency();
            while !free() {
                if timer::now() > end {
                    return None;
                }
                core::hint::spin_loop();
            }
        }
        Some(Self(vcpu))
    }

    /// Which vCPU.
    #[inline]
    pub fn vcpu(&self) -> usize {
        self.0
    }

    /// The context.
    #[inline]
    pub fn context(&mut self) -> &mut Context {
        // SAFETY: this claim is the only one, by the owner word, and `&mut
        // self` makes this the only reference from it.
        unsafe { &mut *SLOTS[self.0].context.get() }
    }

    pub(crate) fn as_ptr(&self) -> *mut Context {
        SLOTS[self.0].context.get()
    }
}

impl Drop for Claim {
    #[inline]
    fn drop(&mut self) {
        SLOTS[self.0].owner.store(FREE, Ordering::Release);
    }
}
