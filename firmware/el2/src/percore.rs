// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What belongs to one real core while it is in EL2.

use crate::context::Context;
use crate::float::{self, Holder};
use crate::switch::More;
use crate::vcpus::Claim;
use crate::vectors::Outcome;
use crate::{context, debug, fault, features, shared, switch};
use core::ptr;
use taichi_abi::telemetry;
use taichi_abi::trace::{Event, Ring};
use taichi_machine::debug::Counts;
use taichi_machine::features::IdRegister;
use taichi_sched::Why;

/// One real core. Handlers get it by `&mut`: EL2 runs with interrupts masked,
/// so there is one handler per core at a time.
#[repr(C, align(64))]
pub struct Core {
    /// The context that is loaded. First: the vectors read it.
    current: *mut Context,
    pub(crate) stack_top: u64,
    /// The vCPU that is loaded, `None` while the native context is.
    vcpu: Option<Claim>,
    /// The vCPU that [`Outcome::Switch`] means, `None` for the native context.
    next: Option<Claim>,
    /// The native context. Not inside of this block, because `current` may
    /// point to it while a handler has `&mut Core`.
    native: *mut Context,
    counters: &'static telemetry::Core,
    ring: &'static Ring,
    id: usize,
    is_dp: bool,
    more: More,
    aside: Aside,
    counts: Counts,
    /// How the core is lent; of no meaning while it isn't.
    pub lend: Lend,
}

/// What a plain world switch leaves alone.
#[derive(Clone, Copy)]
#[repr(C, align(2))]
struct Aside {
    float: Holder,
    /// The loaded context's debug registers could hit
    /// ([`Debug::is_armed`](taichi_machine::debug::Debug::is_armed)).
    armed: bool,
}

impl Aside {
    /// A plain switch is enough: the core holds the native context's floating
    /// point, and no debug registers that could hit. One load and one test.
    #[inline(always)]
    fn is_nothing(&self) -> bool {
        const _: () = assert!(Holder::Native as u8 == 0 && size_of::<Aside>() == 2);
        // SAFETY: two bytes that are always valid, aligned as one number.
        unsafe { *ptr::from_ref(self).cast::<u16>() == 0 }
    }
}

/// How a core was lent.
#[derive(Clone, Copy, Debug)]
pub struct Lend {
    /// When the loaded vCPU got it, in ticks.
    pub since: u64,
    /// When the native context's own timer fires, in ticks; `u64::MAX`: never.
    pub native_timer: u64,
    /// Why.
    pub why: Why,
    /// The general register that the poller's load fills when the core is
    /// back; 31 (XZR) if none does.
    pub register: u8,
}

/// What is to know of a vCPU that was chosen.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    /// When its virtual timer fires, in ticks; `None` while it is off or
    /// masked.
    pub timer: Option<u64>,
}

/// What a core counts in before it has its place in the telemetry window.
static NO_COUNTERS: telemetry::Core = telemetry::Core::new();
static NO_RING: Ring = Ring::new();

impl Core {
    /// A core with this index, of no use before [`Core::pin`].
    pub(crate) const fn new(id: usize) -> Self {
        Self {
            current: ptr::null_mut(),
            stack_top: 0,
            vcpu: None,
            next: None,
            native: ptr::null_mut(),
            counters: &NO_COUNTERS,
            ring: &NO_RING,
            id,
            is_dp: false,
            more: More::NOTHING,
            aside: Aside {
                float: Holder::Nobody,
                armed: false,
            },
            counts: Counts {
                breakpoints: 0,
                watchpoints: 0,
            },
            lend: Lend {
                since: 0,
                native_timer: u64::MAX,
                why: Why::Idle,
                register: 31,
            },
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

    /// Whether the physical CPU interface is Linux's: on a DP core.
    #[inline]
    pub fn is_dp(&self) -> bool {
        self.is_dp
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

    /// Whether a vCPU is loaded.
    #[inline]
    pub fn is_lent(&self) -> bool {
        self.vcpu.is_some()
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

    /// Chooses a vCPU for [`Outcome::Switch`]; gives nothing if another core has
    /// it, which may be saving it just now.
    #[inline(always)]
    pub fn try_choose(&mut self, vcpu: usize) -> Option<Chosen> {
        let id = self.id;
        let claim = Claim::try_new(vcpu, id)?;
        Some(self.take_claim(claim, id))
    }

    /// The same, but waits while another core is saving it. The machine ends
    /// if another core runs it: nothing may run on two cores.
    pub fn choose(&mut self, vcpu: usize) -> Chosen {
        let Some(claim) = Claim::new(vcpu, self.id) else {
            fault::die("a vCPU that runs on another core was chosen");
        };
        self.take_claim(claim, self.id)
    }

    #[inline(always)]
    fn take_claim(&mut self, claim: Claim, id: usize) -> Chosen {
        if claim.migrated(id) {
            shared::add(&shared::vcpu(claim.vcpu()).migrations, 1);
        }
        let context = claim.as_ptr();
        self.next = Some(claim);
        // SAFETY: the claim keeps everybody else away from it, and `self` is
        // borrowed.
        let timer = unsafe { (*context).timer() };
        Chosen { timer }
    }

    /// The context of the vCPU that was chosen, to be changed before it is
    /// loaded. The machine ends if none was.
    #[inline]
    pub fn chosen(&mut self) -> &mut Context {
        let Some(claim) = &mut self.next else {
            fault::die("no vCPU was chosen");
        };
        claim.context()
    }

    /// The loaded context was stopped at its first use of floating point; it
    /// has it from here on. Only vCPUs are.
    pub fn give_float(&mut self) {
        let holder = self.aside.float;
        if !self.is_lent() || holder == Holder::Vcpu {
            fault::die("floating point trapped where it is not trapped");
        }
        // SAFETY: both contexts are this core's, and `aside` is kept here.
        self.aside.float = unsafe { float::give(holder, self.native, self.current) };
    }

    /// The loaded context reads a debug register; `None`: there is no such
    /// register. `op` as [`taichi_machine::trap::sysreg`] has it.
    pub fn read_debug(&mut self, op: u32) -> Option<u64> {
        let counts = self.counts;
        self.current().debug.read(op, counts)
    }

    /// The loaded context writes a debug register; `None`: there is no such
    /// register.
    pub fn write_debug(&mut self, op: u32, value: u64) -> Option<()> {
        let counts = self.counts;
        let debug = &mut self.current().debug;
        debug.write(op, value, counts)?;
        debug::load(debug, counts);
        self.aside.armed = debug.is_armed();
        Some(())
    }

    /// Steps over the instruction that trapped, in the loaded context, as if it
    /// had been executed: a single step ends with it.
    #[inline]
    pub fn skip_instruction(&self) {
        context::skip_instruction();
        self.end_step();
    }

    /// What a single step was about to execute is done.
    #[inline]
    pub fn end_step(&self) {
        if self.aside.armed {
            context::end_step();
        }
    }

    /// The context that [`Outcome::Switch`] means.
    #[inline(always)]
    fn chosen_context(&self) -> *mut Context {
        self.next.as_ref().map_or(self.native, Claim::as_ptr)
    }

    /// Leaves EL2 into the native context, for the first time after boot or
    /// CPU_ON.
    pub fn enter_native(&mut self) -> ! {
        self.vcpu = None;
        self.current = self.native;
        self.is_dp = self.native().is_dp();
        self.more = More::of_this_core();
        self.counts = Counts::of(features::id_register(IdRegister::DFR0));
        debug::unload();
        // SAFETY: nothing else runs on this core, and the native context is
        // this core's alone; the stack is left for good.
        unsafe {
            let float = float::take(Holder::Nobody, self.native, Some(self.native));
            self.aside = Aside {
                float,
                armed: false,
            };
            switch::load(self.native, self.more);
            crate::vectors::taichi_enter(self)
        }
    }
}

/// Called by the vectors when a handler chose another context, with the old
/// one's general registers saved. Gives the context that is then loaded.
#[unsafe(no_mangle)]
extern "C" fn taichi_world_switch(core: &mut Core) -> *mut Context {
    let new = core.chosen_context();
    // SAFETY: the next context is this core's: its native one, or claimed.
    let armed = unsafe { (*new).debug.is_armed() };
    if core.aside.is_nothing() && !armed {
        return switch_now(core, new);
    }
    if core.aside.armed || armed {
        return switch_with_debug(core);
    }
    // Gets no `new`: were the answer known here, the call would not be the last
    // thing that a switch does, and cost it a stack frame.
    switch_with_float(core)
}

/// The same where debug registers of either context could hit.
#[cold]
#[inline(never)]
fn switch_with_debug(core: &mut Core) -> *mut Context {
    if core.vcpu.is_none() && core.lend.why == Why::Yield {
        // The poller's load, which has been stepped over, is executed.
        core.end_step();
    }
    // SAFETY: the next context is this core's.
    let debug = unsafe { &(*core.chosen_context()).debug };
    debug::load(debug, core.counts);
    core.aside.armed = debug.is_armed();
    switch_with_float(core)
}

/// The same where the core may not hold the native context's floating point.
#[cold]
#[inline(never)]
fn switch_with_float(core: &mut Core) -> *mut Context {
    let holder = core.aside.float;
    if holder != Holder::Native {
        let native = core.next.is_none().then_some(core.native);
        // SAFETY: the contexts are this core's, and `aside` is kept here.
        core.aside.float = unsafe { float::take(holder, core.current, native) };
    }
    let new = core.chosen_context();
    switch_now(core, new)
}

#[inline(always)]
fn switch_now(core: &mut Core, new: *mut Context) -> *mut Context {
    // SAFETY: the vectors return to the new context next; the claims, or the
    // core itself, keep others away from both.
    unsafe { switch::switch(core.current, new, core.more) };
    core.current = new;
    // The old vCPU may be claimed by others from here on.
    core.vcpu = core.next.take();
    new
}
