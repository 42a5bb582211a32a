// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The vCPUs' contexts. A context is *claimed* by the core that runs it; the
//! claim, not the scheduler, is what keeps it on one core at a time.

use crate::context::{Context, Controls};
use crate::sve::Place;
use crate::timer;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};
use taichi_abi::MAX_VCPUS;

/// No core's [`name`].
const FREE: u32 = 0;

/// What the words below hold for a core.
#[inline]
fn name(core: usize) -> u32 {
    core as u32 + 1
}

// The first word is the one that is written most; and aligned, so that finding
// one is a shift.
#[repr(C, align(2048))]
struct Slot {
    /// The core that has the context, or [`FREE`].
    owner: AtomicU32,
    /// The core that had it last; only the one that has it looks.
    last: AtomicU32,
    vcpu: usize,
    context: UnsafeCell<Context>,
}

// SAFETY: the context is only reached through `Claim`, of which the owner
// word allows one at a time.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_VCPUS] = slots();

const fn slots() -> [Slot; MAX_VCPUS] {
    let mut slots = [const {
        Slot {
            owner: AtomicU32::new(FREE),
            last: AtomicU32::new(FREE),
            vcpu: 0,
            context: UnsafeCell::new(Context::new(Controls::VCPU, Place::vcpu(0))),
        }
    }; MAX_VCPUS];
    let mut n = 0;
    while n < MAX_VCPUS {
        slots[n].vcpu = n;
        slots[n].context = UnsafeCell::new(Context::new(Controls::VCPU, Place::vcpu(n)));
        n += 1;
    }
    slots
}

/// Seconds that a core waits while another saves a context. That takes some
/// hundred instructions, but a host that emulates the other core may stop it.
const PATIENCE: u64 = 10;

/// The right to a vCPU's context. Given back on drop.
pub struct Claim(&'static Slot);

impl Claim {
    /// Claims `vcpu`'s context (modulo their number) for `core`. `None` if
    /// another core has it, which may be saving it just now.
    #[inline(always)]
    pub fn try_new(vcpu: usize, core: usize) -> Option<Self> {
        let slot = &SLOTS[vcpu % MAX_VCPUS];
        let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
        let claimed = slot
            .owner
            .compare_exchange(FREE, name(core), acquire, relaxed);
        // A `Claim` may only be made once it is claimed: dropping it, as an
        // argument of `then_some` would be, gives another core's back.
        match claimed {
            Ok(_) => Some(Self(slot)),
            Err(_) => None,
        }
    }

    /// The same, but waits while another core is saving it. `None` if another
    /// core runs it.
    pub fn new(vcpu: usize, core: usize) -> Option<Self> {
        let end = timer::now() + PATIENCE * timer::frequency();
        loop {
            let claim = Self::try_new(vcpu, core);
            if claim.is_some() || timer::now() > end {
                return claim;
            }
            core::hint::spin_loop();
        }
    }

    /// Which vCPU.
    #[inline]
    pub fn vcpu(&self) -> usize {
        self.0.vcpu
    }

    /// Notes that `core` runs it now, and says whether another did before.
    #[inline]
    pub fn migrated(&self, core: usize) -> bool {
        let same = self.0.last.load(Ordering::Relaxed) == name(core);
        if !same {
            self.0.last.store(name(core), Ordering::Relaxed);
        }
        !same
    }

    /// The context.
    #[inline]
    pub fn context(&mut self) -> &mut Context {
        // SAFETY: this claim is the only one, by the owner word, and `&mut
        // self` makes this the only reference from it.
        unsafe { &mut *self.0.context.get() }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut Context {
        self.0.context.get()
    }
}

impl Drop for Claim {
    #[inline]
    fn drop(&mut self) {
        self.0.owner.store(FREE, Ordering::Release);
    }
}
