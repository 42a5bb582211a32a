// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What belongs to one CPU of Linux: a native context or a vCPU.
//!
//! While a context is *loaded*, its registers are in the core and the copy
//! here is stale, but for the general registers, which the vectors save at
//! every exception.

use crate::gic::ListRegisters;
use crate::memory;
use crate::sve::Place;
use crate::sysreg::hcr;
use crate::{features, float};
use crate::{read_sysreg, write_sysreg};
use core::mem::offset_of;
use taichi_machine::debug::Debug;

/// The registers of one CPU, with the offsets that `switch.rs` and the vectors
/// have; they are asserted at the end.
#[repr(C, align(64))]
pub struct Context {
    system: System,
    /// What EL2 traps while this context is loaded.
    controls: Controls,
    /// The virtual CPU interface; of no use to the native context of a DP
    /// core, which has the physical one.
    ich_vmcr_el2: u64,
    ich_ap1r0_el2: u64,
    /// x0 to x30; the last is XZR and stays 0.
    pub(crate) x: [u64; 32],
    /// FPSR and FPCR.
    float: [u64; 2],
    /// v0 to v31.
    v: [[u64; 2]; 32],
    /// AMAIR_EL1, AFSR0_EL1, AFSR1_EL1, where the core has them.
    pub(crate) implementation: [u64; 3],
    lists: ListRegisters,
    /// Where its vectors are on a core with SVE.
    pub(crate) vectors: Place,
    /// Of pointer authentication: two words for each of the keys IA, IB, DA, DB
    /// and GA.
    pub(crate) keys: [u64; 10],
    /// Breakpoints, watchpoints and single-step.
    pub(crate) debug: Debug,
}

/// System registers; those that only `switch.rs` looks at have no names here.
#[repr(C)]
#[derive(Clone, Copy)]
struct System {
    elr_el2: u64,
    spsr_el2: u64,
    sctlr_el1: u64,
    _more: [u64; 16],
    cntv_cval_el0: u64,
    cntv_ctl_el0: u64,
    vmpidr_el2: u64,
    /// TCR_EL1, TTBR0_EL1, TTBR1_EL1.
    _translation: [u64; 3],
    _spare: u64,
}

impl System {
    const RESET: Self = Self {
        elr_el2: 0,
        spsr_el2: PSTATE_ENTRY,
        sctlr_el1: SCTLR_RESET,
        _more: [0; 16],
        cntv_cval_el0: 0,
        cntv_ctl_el0: 0,
        vmpidr_el2: 0,
        _translation: [0; 3],
        _spare: 0,
    };
}

/// What EL2 traps while a context is loaded.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Controls {
    /// HCR_EL2.
    pub hcr: u64,
    /// ICH_HCR_EL2.
    pub ich_hcr: u64,
    /// CNTHCTL_EL2.
    pub cnthctl: u64,
    /// CPTR_EL2, what it has besides [`features::cptr`].
    pub cptr: u64,
}

impl Controls {
    /// With what the machine's cores ask for.
    fn on_this_machine(self) -> Self {
        Self {
            hcr: self.hcr | features::hcr(),
            cptr: self.cptr | features::cptr(),
            ..self
        }
    }

    const COMMON: u64 = hcr::VM | hcr::RW | hcr::TSC | hcr::SWIO | hcr::TWI;
    const VIRTUAL_GIC: u64 = hcr::IMO | hcr::FMO | hcr::AMO;
    /// EL1 may read the physical counter and use the physical timer.
    const CNTHCTL_ALL: u64 = 0b11;
    /// EL1 may read the physical counter; its physical timer traps.
    const CNTHCTL_COUNTER: u64 = 0b01;

    /// The native context of a DP core: interrupts go straight to EL1.
    pub const DP: Self = Self {
        hcr: Self::COMMON,
        ich_hcr: crate::sysreg::ich_hcr::TC | crate::sysreg::ich_hcr::TALL0,
        cnthctl: Self::CNTHCTL_ALL,
        cptr: 0,
    };
    /// The native context of a CP core.
    pub const CP: Self = Self {
        hcr: Self::COMMON | Self::VIRTUAL_GIC,
        ich_hcr: crate::sysreg::ich_hcr::EN,
        cnthctl: Self::CNTHCTL_ALL,
        cptr: 0,
    };
    /// A vCPU: local TLB operations and barriers are made broadcast, because
    /// it migrates; its first use of floating point traps (`float.rs`).
    pub const VCPU: Self = Self {
        hcr: Self::COMMON | Self::VIRTUAL_GIC | hcr::FB | hcr::BSU_IS,
        ich_hcr: crate::sysreg::ich_hcr::EN,
        cnthctl: Self::CNTHCTL_COUNTER,
        cptr: float::TFP | float::TZ,
    };
}

/// PSTATE of a CPU that enters Linux: EL1h, everything masked.
const PSTATE_ENTRY: u64 = 0x3c5;
/// SCTLR_EL1 with MMU and caches off: the RES1 bits of Armv8.0.
const SCTLR_RESET: u64 = 0x30d0_0800;
/// CNTV_CTL: enabled, and not masked.
const TIMER_ON: u64 = 0b001;
const TIMER_MASKED: u64 = 0b010;
/// ICH_VMCR_EL2 of a CPU interface after reset: everything closed.
const VMCR_RESET: u64 = 0;

impl Context {
    /// A CPU with this MPIDR that has not started.
    pub(crate) const fn new(controls: Controls, vectors: Place) -> Self {
        Self {
            system: System::RESET,
            controls,
            ich_vmcr_el2: VMCR_RESET,
            ich_ap1r0_el2: 0,
            x: [0; 32],
            float: [0; 2],
            v: [[0; 2]; 32],
            implementation: [0; 3],
            lists: ListRegisters::new(),
            vectors,
            keys: [0; 10],
            debug: Debug::new(),
        }
    }

    /// Makes it a CPU just out of reset that will execute at `entry` with x0 =
    /// `x0`, MMU off, as PSCI CPU_ON demands (Arm DEN 0022, 6.4).
    pub fn reset(&mut self, controls: Controls, mpidr: u64, entry: u64, x0: u64) {
        *self = Self::new(controls.on_this_machine(), self.vectors);
        self.x[0] = x0;
        self.system.elr_el2 = entry;
        // Bit 31 of MPIDR is RES1.
        self.system.vmpidr_el2 = mpidr | 1 << 31;
    }

    /// Writes a general register; register 31 is XZR. For a loaded context:
    /// [`crate::percore::Core::give`].
    #[inline]
    pub fn set_x(&mut self, register: u8, value: u64) {
        if register < 31 {
            self.x[usize::from(register)] = value;
        }
    }

    /// Reads a general register; register 31 is XZR.
    #[inline]
    pub fn get_x(&self, register: u8) -> u64 {
        self.x[usize::from(register & 31)]
    }

    /// x0 to x17, as SMCCC passes arguments and results. Writing them is safe
    /// in a loaded context too: every way back reloads them.
    #[inline]
    pub fn arguments(&mut self) -> &mut [u64; 18] {
        let [arguments @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _] = &mut self.x;
        arguments
    }

    /// When its virtual timer fires, in ticks; `None` while it is off or
    /// masked. Only for a context that is not loaded.
    #[inline]
    pub fn timer(&self) -> Option<u64> {
        let on = self.system.cntv_ctl_el0 & (TIMER_ON | TIMER_MASKED) == TIMER_ON;
        on.then_some(self.system.cntv_cval_el0)
    }

    /// Masks its virtual timer, as EL2 does when it injects the interrupt.
    /// Only for a context that is not loaded.
    #[inline]
    pub fn mask_timer(&mut self) {
        self.system.cntv_ctl_el0 |= TIMER_MASKED;
    }

    /// Whether it would take an interrupt now. Only for a context that is not
    /// loaded.
    #[inline]
    pub fn interrupts_enabled(&self) -> bool {
        self.system.spsr_el2 & (1 << 7) == 0
    }

    /// Whether, once it is loaded, EL2 is told that list registers are free.
    #[inline]
    pub fn set_underflow(&mut self, on: bool) {
        use crate::sysreg::ich_hcr::UIE;
        let hcr = &mut self.controls.ich_hcr;
        *hcr = if on { *hcr | UIE } else { *hcr & !UIE };
    }

    /// Whether it is the native context of a DP core.
    pub(crate) fn is_dp(&self) -> bool {
        self.controls.hcr & hcr::IMO == 0
    }

    /// Its list registers, while it is not loaded.
    #[inline]
    pub fn lists(&mut self) -> &mut ListRegisters {
        &mut self.lists
    }
}

/// Steps over the instruction that trapped, in the loaded context.
#[inline]
pub fn skip_instruction() {
    let pc = read_sysreg!("elr_el2").wrapping_add(4);
    // SAFETY: where EL1 goes on is EL1's affair.
    unsafe { write_sysreg!("elr_el2", pc) };
}

/// What a single step in the loaded context was about to execute is done:
/// SPSR_EL2.SS is clear, so that the step's exception is next.
pub(crate) fn end_step() {
    let pstate = read_sysreg!("spsr_el2") & !(1 << 21);
    // SAFETY: a bit of EL1's or EL0's own state.
    unsafe { write_sysreg!("spsr_el2", pstate) };
}

/// Makes the loaded context execute nothing any more: with its MMU off it is in
/// memory that is ours, so that whenever it is entered, the fetch faults. With
/// the MMU off, because its page tables may be another kernel's than those of
/// the contexts that share its VMID (rule R4 of docs/tlb-and-vmid.md).
pub fn stop_executing() {
    // SAFETY: as above; stage 2 keeps EL1 out of there.
    unsafe {
        write_sysreg!("elr_el2", memory::reserved().start);
        write_sysreg!("spsr_el2", PSTATE_ENTRY);
        write_sysreg!("sctlr_el1", SCTLR_RESET);
    }
}

/// While this lives, physical interrupts are EL2's, so that they end a wait
/// there; they stay masked.
pub struct Routed(u64);

/// See [`Routed`].
pub fn route_interrupts_here() -> Routed {
    let before = read_sysreg!("hcr_el2");
    // SAFETY: changes where interrupts go, which EL2 masks.
    unsafe { write_sysreg!("hcr_el2", before | hcr::IMO) };
    crate::sysreg::isb();
    Routed(before)
}

impl Drop for Routed {
    fn drop(&mut self) {
        // SAFETY: as it was.
        unsafe { write_sysreg!("hcr_el2", self.0) };
        crate::sysreg::isb();
    }
}

/// Whether the loaded context was at EL0.
#[inline]
pub fn was_el0() -> bool {
    read_sysreg!("spsr_el2") & 0b1111 == 0
}

/// Gives the loaded context a synchronous external abort of its load or store,
/// as a bus error would (Arm ARM D1.3, AArch64.TakeException).
pub fn inject_abort() {
    const DATA: u64 = 0x24;
    inject_external(DATA);
}

/// The same, of its instruction fetch.
pub fn inject_fetch_abort() {
    const FETCH: u64 = 0x20;
    inject_external(FETCH);
}

/// `class`: ESR_EL1.EC for EL0; that for EL1 is one more.
fn inject_external(class: u64) {
    let class = class + u64::from(!was_el0());
    // SAFETY: EL1's own fault address.
    unsafe { write_sysreg!("far_el1", read_sysreg!("far_el2")) };
    inject(class << 26 | 1 << 25 | 0x10);
}

/// Gives the loaded context an undefined instruction exception.
pub fn inject_undefined() {
    inject(1 << 25);
}

/// Enters EL1's vector for a synchronous exception with this syndrome.
fn inject(esr: u64) {
    let pstate = read_sysreg!("spsr_el2");
    let vbar = read_sysreg!("vbar_el1");
    // SAFETY: writes EL1's exception state, as the architecture would.
    unsafe {
        write_sysreg!("esr_el1", esr);
        write_sysreg!("elr_el1", read_sysreg!("elr_el2"));
        write_sysreg!("spsr_el1", pstate);
        write_sysreg!("elr_el2", vbar.wrapping_add(vector(pstate)));
        write_sysreg!("spsr_el2", PSTATE_ENTRY);
    }
}

/// Offset of EL1's vector for a synchronous exception from `pstate`.
fn vector(pstate: u64) -> u64 {
    match pstate & 0b1_1111 {
        0b0_0000 => 0x400, // EL0
        0b0_0100 => 0x000, // EL1 with SP_EL0
        0b0_0101 => 0x200, // EL1 with SP_EL1
        _ => 0x600,        // AArch32, which only EL0 can be in
    }
}

const _: () = {
    assert!(offset_of!(Context, system) == 0);
    assert!(offset_of!(System, elr_el2) == 0);
    assert!(offset_of!(System, sctlr_el1) == 16);
    assert!(offset_of!(System, _more) == 24);
    assert!(offset_of!(System, cntv_cval_el0) == 152);
    assert!(offset_of!(System, vmpidr_el2) == 168);
    assert!(offset_of!(System, _translation) == 176);
    assert!(offset_of!(Context, controls) == 208);
    assert!(offset_of!(Controls, cnthctl) == 16);
    assert!(offset_of!(Context, ich_vmcr_el2) == 240);
    assert!(offset_of!(Context, x) == 256);
    assert!(offset_of!(Context, float) == 512);
    assert!(offset_of!(Context, v) == 528);
};
