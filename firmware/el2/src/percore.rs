// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What belongs to one real core while it is in EL2.

use crate::context::Context;
use crate::shared;
use crate::sysreg;
use crate::vcpus::Claim;
use crate::vectors::Outcome;
use core::ptr;
use taichi_abi::telemetry;
use taichi_abi::trace::{Event, Ring};

/// One real core. Handlers get it by `&mut`: EL2 runs with interrupts masked,
/// so there is one handler per core at a time.
#[repr(C, align(64))]
pub struct Core {
    /// The context that is loaded. First: the vectors read it.
    current: *mut Context,
    pub(crate) stack_top: u64,
    next: Option<Next>,
    /// The vCPU that is loaded, `None` while the native context is.
    vcpu: Option<Claim>,
    id: usize,
    counters: &'static telemetry::Core,
    ring: &'static Ring,
    /// The native context. Not inside of this block, because `current` may
    /// point to it while a handler has `&mut Core`.
    native: *mut Context,
}

/// What a core counts in before it has its place in the telemetry window.
static NO_COUNTERS: telemetry::Core = telemetry::Core::new();
static NO_RING: Ring = Ring::new();

enum Next {
    Native,
    Vcpu(Claim),
}

impl Core {
    /// A core with this index, of no use before [`Core::pin`].
    pub(crate) const fn new(id: usize) -> Self {
        Self {
            current: ptr::null_mut(),
            stack_top: 0,
            next: None,
            vcpu: None,
            id,
            counters: &NO_COUNTERS,
            ring: &NO_RING,
            native: ptr::null_mut(),
        }
    }

    /// Called once, before anybody gets the core. `native` is its context
    /// alone and stays valid.
    pub(crate) fn pin(&mut self, id: usize, stack_top: u64, native: *mut Context) {
        self.id = id;
        self.native = native;
        self.stack_top = stack_top;
        self.counters = shared::core(id);
        self.ring = shared::ring(id);
        self.vcpu = None;
        self.next = None;
        self.current = native;
    }

    /// The core's index, in the order of the device tree's cpu nodes.
    #[inline]
    pub fn id(&self) -> usize {
        self.id
    }

    /// Its block in the telemetry window.
    #[inline]
    pub fn counters(&self) -> &'static telemetry::Core {
        self.counters
    }

    /// Records an event in its trace ring; `now` in ticks.
    #[inline]
    pub fn trace(&self, now: u64, event: Event, vcpu: Option<usize>, argument: u64) {
        shared::record(self.ring, now, event, vcpu, argument);
    }

    /// Which vCPU is loaded; `None`: the native context is.
    #[inline]
    pub fn vcpu(&self) -> Option<usize> {
        self.vcpu.as_ref().map(Claim::vcpu)
    }

    /// The context that is loaded. Of use are its general registers: all to
    /// read, x0-x18 to write (the others through [`Self::give`]); and its list
    /// registers.
    #[inline]
    pub fn current(&mut self) -> &mut Context {
        // SAFETY: `self.native`, or the context that `self.vcpu` claims: this
        // core's alone, and `self` is borrowed while the reference lives.
        unsafe { &mut *self.current }
    }

    /// Writes a general register of the loaded context, the result of a trapped
    /// instruction; 31 is XZR.
    #[inline]
    pub fn give(&mut self, register: u8, value: u64) -> Outcome {
        self.current().set_x(register, value);
        Outcome::Reload
    }

    /// The native context. While it is not loaded, its fields may be changed.
    #[inline]
    pub fn native(&mut self) -> &mut Context {
        // SAFETY: as for `current`.
        unsafe { &mut *self.native }
    }

    /// Chooses the native context for [`Outcome::Switch`].
    #[inline]
    pub fn choose_native(&mut self) -> Outcome {
        self.next = Some(Next::Native);
        Outcome::Switch
    }

    /// Chooses a vCPU for [`Outcome::Switch`].
    #[inline]
    pub fn choose_vcpu(&mut self, vcpu: usize) -> Outcome {
        self.next = Claim::new(vcpu, self.id).map(Next::Vcpu);
        assert!(
            self.next.is_some(),
            "vCPU {vcpu} is running on another core"
        );
        Outcome::Switch
    }

    /// The context of the vCPU that was chosen, to be changed before it is
    /// loaded; `None` if none was.
    #[inline]
    pub fn chosen(&mut self) -> Option<&mut Context> {
        match &mut self.next {
            Some(Next::Vcpu(claim)) => Some(claim.context()),
            _ => None,
        }
    }

    /// Leaves EL2 into the native context, for the first time after boot or
    /// CPU_ON.
    pub fn enter_native(&mut self) -> ! {
        self.vcpu = None;
        self.current = self.native;
        // SAFETY: nothing else runs on this core, and the native context is
        // this core's alone; the stack is left for good.
        unsafe {
            self.current().load();
            crate::vectors::taichi_enter(self)
        }
    }
}

/// Called by the vectors when a handler chose another context, with the old
/// one's general registers saved.
#[unsafe(no_mangle)]
extern "C" fn taichi_world_switch(core: &mut Core) {
    core.current().save();
    // A vCPU may be stopped between a TLB invalidation and the DSB that
    // completes it, and go on elsewhere, where its DSB waits for nothing of
    // this core's: rule R6 of docs/tlb-and-vmid.md.
    sysreg::dsb_ish();
    // The old vCPU may be claimed by others from here on.
    core.vcpu = None;
    match core.next.take() {
        Some(Next::Vcpu(claim)) => {
            core.current = claim.as_ptr();
            core.vcpu = Some(claim);
        }
        Some(Next::Native) | None => core.current = core.native,
    }
    // SAFETY: the vectors return to this context next; the claim, or the core
    // itself, keeps others away from it.
    unsafe { core.current().load() };
}
