// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What belongs to one CPU of Linux: a native context or a vCPU.
//!
//! While a context is *loaded*, its registers are in the core and the copy
//! here is stale, but for the general registers, which the vectors save at
//! every exception.

use crate::gic::{self, ListRegisters};
use crate::sysreg::hcr;
use crate::{read_sysreg, write_sysreg};
use core::arch::{asm, global_asm};

/// The registers of one CPU.
#[repr(C, align(64))]
pub struct Context {
    /// x0 to x30; the last is XZR and stays 0.
    x: [u64; 32],
    system: System,
    float: Float,
    /// The virtual CPU interface.
    gic: GicState,
    /// HCR_EL2, ICH_HCR_EL2 and CNTHCTL_EL2 while this context is loaded.
    controls: Controls,
    /// VMPIDR_EL2.
    vmpidr: u64,
}

/// System registers, in the order of [`plain_pairs`] and what follows it.
#[repr(C)]
#[derive(Clone, Copy)]
struct System {
    elr_el2: u64,
    spsr_el2: u64,
    /// From SP_EL0 to CNTKCTL_EL1, which nothing here looks at but these:
    _before_sctlr: [u64; 4],
    sctlr: u64,
    _after_sctlr: [u64; 15],
    cntv_cval: u64,
    cntv_ctl: u64,
    mdscr: u64,
    tcr: u64,
    ttbr0: u64,
    ttbr1: u64,
}

impl System {
    const RESET: Self = Self {
        elr_el2: 0,
        spsr_el2: PSTATE_ENTRY,
        _before_sctlr: [0; 4],
        sctlr: SCTLR_RESET,
        _after_sctlr: [0; 15],
        cntv_cval: 0,
        cntv_ctl: 0,
        mdscr: 0,
        tcr: 0,
        ttbr0: 0,
        ttbr1: 0,
    };
}

/// The registers that are saved and loaded without a look at them, two at a
/// time, with their byte offsets in [`System`]. One list serves both ways.
macro_rules! plain_pairs {
    ($each:ident) => {
        concat!(
            $each!("elr_el2", "spsr_el2", 0),
            $each!("sp_el0", "sp_el1", 16),
            $each!("elr_el1", "spsr_el1", 32),
            $each!("sctlr_el1", "cpacr_el1", 48),
            $each!("mair_el1", "amair_el1", 64),
            $each!("vbar_el1", "contextidr_el1", 80),
            $each!("esr_el1", "far_el1", 96),
            $each!("afsr0_el1", "afsr1_el1", 112),
            $each!("par_el1", "csselr_el1", 128),
            $each!("tpidr_el0", "tpidrro_el0", 144),
            $each!("tpidr_el1", "cntkctl_el1", 160),
            $each!("cntv_cval_el0", "cntv_ctl_el0", 176),
        )
    };
}

macro_rules! save_pair {
    ($a:literal, $b:literal, $at:literal) => {
        concat!(
            "mrs {a}, ",
            $a,
            "\nmrs {b}, ",
            $b,
            "\nstp {a}, {b}, [{s}, #",
            $at,
            "]\n"
        )
    };
}

macro_rules! load_pair {
    ($a:literal, $b:literal, $at:literal) => {
        concat!(
            "ldp {a}, {b}, [{s}, #",
            $at,
            "]\nmsr ",
            $a,
            ", {a}\nmsr ",
            $b,
            ", {b}\n"
        )
    };
}

/// v0 to v31, FPSR and FPCR.
#[repr(C, align(16))]
#[derive(Clone, Copy, Default)]
struct Float {
    fpsr: u64,
    fpcr: u64,
    v: [[u64; 2]; 32],
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct GicState {
    vmcr: u64,
    ap1r0: u64,
    lists: ListRegisters,
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
}

impl Controls {
    const COMMON: u64 = hcr::VM | hcr::RW | hcr::TSC | hcr::SWIO | hcr::TWI;
    const VIRTUAL_GIC: u64 = hcr::IMO | hcr::FMO | hcr::AMO;
    /// EL1 may read the physical counter and use the physical timer.
    const CNTHCTL_ALL: u64 = 0b11;
    /// EL1 may read the physical counter; its physical timer traps.
    const CNTHCTL_COUNTER: u64 = 0b01;

    /// The native context of a DP core: interrupts go straight to EL1.
    pub const DP: Self = Self {
        hcr: Self::COMMON,
        ich_hcr: crate::sysreg::ich_hcr::TC,
        cnthctl: Self::CNTHCTL_ALL,
    };
    /// The native context of a CP core.
    pub const CP: Self = Self {
        hcr: Self::COMMON | Self::VIRTUAL_GIC,
        ich_hcr: crate::sysreg::ich_hcr::EN,
        cnthctl: Self::CNTHCTL_ALL,
    };
    /// A vCPU: local TLB operations and barriers are made broadcast, because
    /// it migrates.
    pub const VCPU: Self = Self {
        hcr: Self::COMMON | Self::VIRTUAL_GIC | hcr::FB | hcr::BSU_IS,
        ich_hcr: crate::sysreg::ich_hcr::EN,
        cnthctl: Self::CNTHCTL_COUNTER,
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
    pub const fn new(controls: Controls) -> Self {
        Self {
            x: [0; 32],
            system: System::RESET,
            float: Float {
                fpsr: 0,
                fpcr: 0,
                v: [[0; 2]; 32],
            },
            gic: GicState {
                vmcr: VMCR_RESET,
                ap1r0: 0,
                lists: ListRegisters::new(),
            },
            controls,
            vmpidr: 0,
        }
    }

    /// Makes it a CPU just out of reset that will execute at `entry` with x0 =
    /// `x0`, MMU off, as PSCI CPU_ON demands (Arm DEN 0022, 6.4).
    pub fn reset(&mut self, controls: Controls, mpidr: u64, entry: u64, x0: u64) {
        *self = Self::new(controls);
        self.x[0] = x0;
        self.system.elr_el2 = entry;
        // Bit 31 of MPIDR is RES1.
        self.vmpidr = mpidr | 1 << 31;
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
        let on = self.system.cntv_ctl & (TIMER_ON | TIMER_MASKED) == TIMER_ON;
        on.then_some(self.system.cntv_cval)
    }

    /// Masks its virtual timer, as EL2 does when it injects the interrupt.
    /// Only for a context that is not loaded.
    #[inline]
    pub fn mask_timer(&mut self) {
        self.system.cntv_ctl |= TIMER_MASKED;
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

    /// Its list registers, while it is not loaded.
    #[inline]
    pub fn lists(&mut self) -> &mut ListRegisters {
        &mut self.gic.lists
    }

    /// Saves what the core holds, but for the general registers.
    #[inline(always)]
    pub(crate) fn save(&mut self) {
        let s = &mut self.system;
        // SAFETY: reads registers into `System`, whose layout is asserted
        // below.
        unsafe {
            asm!(
                plain_pairs!(save_pair),
                save_pair!("mdscr_el1", "tcr_el1", 192),
                save_pair!("ttbr0_el1", "ttbr1_el1", 208),
                s = in(reg) s, a = out(reg) _, b = out(reg) _, options(nostack, preserves_flags)
            );
        }
        // SAFETY: Float has the layout that the assembly expects.
        unsafe { float_save(&mut self.float) };
        if self.controls.hcr & hcr::IMO != 0 {
            self.gic.vmcr = read_sysreg!("ich_vmcr_el2");
            self.gic.ap1r0 = read_sysreg!("ich_ap1r0_el2");
            gic::unload(&mut self.gic.lists);
        }
        // A context on its boot page tables (MMU off, ASID 0, or EL1 code at
        // a low address: the identity map) must leave no translations behind:
        // another context uses the same VMID and ASID with other tables. Rule
        // R4 of docs/tlb-and-vmid.md.
        let boot_tables = s.sctlr & 1 == 0
            || s.ttbr1 >> 48 == 0
            || s.spsr_el2 & 0b1100 != 0 && s.elr_el2 >> 63 == 0;
        if boot_tables {
            // SAFETY: invalidating cached translations is always allowed.
            unsafe { asm!("tlbi vmalle1", "dsb nsh", options(nostack, preserves_flags)) };
        }
    }

    /// Puts the saved registers into the core, but for the general ones.
    ///
    /// # Safety
    /// The caller returns to EL1 with this context, and no other core has it.
    #[inline(always)]
    pub(crate) unsafe fn load(&self) {
        let s = &self.system;
        // SAFETY: these are EL1's own registers: they decide what EL1 and EL0
        // do, which stage 2 confines, and nothing about EL2. The EL2 controls
        // are ours, from the constants above.
        unsafe {
            write_sysreg!("hcr_el2", self.controls.hcr);
            write_sysreg!("ich_hcr_el2", self.controls.ich_hcr);
            write_sysreg!("cnthctl_el2", self.controls.cnthctl);
            write_sysreg!("vmpidr_el2", self.vmpidr);
            // Equal writes of the last three are skipped: they flush
            // translations in QEMU, and some cores synchronize on them.
            asm!(
                plain_pairs!(load_pair),
                "ldp {a}, {b}, [{s}, #192]",
                "msr mdscr_el1, {a}",
                "mrs {a}, tcr_el1",
                "cmp {a}, {b}",
                "b.eq 1f",
                "msr tcr_el1, {b}",
                "1: ldp {a}, {b}, [{s}, #208]",
                "mrs {c}, ttbr0_el1",
                "cmp {a}, {c}",
                "b.eq 2f",
                "msr ttbr0_el1, {a}",
                "2: mrs {c}, ttbr1_el1",
                "cmp {b}, {c}",
                "b.eq 3f",
                "msr ttbr1_el1, {b}",
                "3:",
                s = in(reg) s, a = out(reg) _, b = out(reg) _, c = out(reg) _, options(nostack)
            );
            float_load(&self.float);
            if self.controls.hcr & hcr::IMO != 0 {
                write_sysreg!("ich_vmcr_el2", self.gic.vmcr);
                write_sysreg!("ich_ap1r0_el2", self.gic.ap1r0);
                gic::load(&self.gic.lists);
            }
        }
    }
}

/// Steps over the instruction that trapped, in the loaded context.
#[inline]
pub fn skip_instruction() {
    let pc = read_sysreg!("elr_el2").wrapping_add(4);
    // SAFETY: where EL1 goes on is EL1's affair.
    unsafe { write_sysreg!("elr_el2", pc) };
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

/// Gives the loaded context a synchronous external abort, as a bus error would
/// (Arm ARM D1.3, AArch64.TakeException).
pub fn inject_abort() {
    let pstate = read_sysreg!("spsr_el2");
    let vbar = read_sysreg!("vbar_el1");
    let class = if was_el0() { 0x24u64 } else { 0x25 };
    // SAFETY: writes EL1's exception state, as the architecture would.
    unsafe {
        write_sysreg!("far_el1", read_sysreg!("far_el2"));
        write_sysreg!("esr_el1", class << 26 | 1 << 25 | 0x10);
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

/// Gives the loaded context an undefined instruction exception.
pub fn inject_undefined() {
    let pstate = read_sysreg!("spsr_el2");
    let vbar = read_sysreg!("vbar_el1");
    // SAFETY: as above.
    unsafe {
        write_sysreg!("esr_el1", 1u64 << 25);
        write_sysreg!("elr_el1", read_sysreg!("elr_el2"));
        write_sysreg!("spsr_el1", pstate);
        write_sysreg!("elr_el2", vbar.wrapping_add(vector(pstate)));
        write_sysreg!("spsr_el2", PSTATE_ENTRY);
    }
}

unsafe extern "C" {
    #[link_name = "taichi_float_save"]
    unsafe fn float_save(to: &mut Float);
    #[link_name = "taichi_float_load"]
    unsafe fn float_load(from: &Float);
}

// The firmware is built without floating point, so that no Rust code can touch
// these registers between save and load.
global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd
    .macro all_pairs op
        \op q0, q1, [x0, #16]
        \op q2, q3, [x0, #48]
        \op q4, q5, [x0, #80]
        \op q6, q7, [x0, #112]
        \op q8, q9, [x0, #144]
        \op q10, q11, [x0, #176]
        \op q12, q13, [x0, #208]
        \op q14, q15, [x0, #240]
        \op q16, q17, [x0, #272]
        \op q18, q19, [x0, #304]
        \op q20, q21, [x0, #336]
        \op q22, q23, [x0, #368]
        \op q24, q25, [x0, #400]
        \op q26, q27, [x0, #432]
        \op q28, q29, [x0, #464]
        \op q30, q31, [x0, #496]
    .endm
    .section .text.taichi_float, "ax"
    .global taichi_float_save
    taichi_float_save:
        all_pairs stp
        mrs x1, fpsr
        mrs x2, fpcr
        stp x1, x2, [x0]
        ret
    .global taichi_float_load
    taichi_float_load:
        all_pairs ldp
        ldp x1, x2, [x0]
        msr fpsr, x1
        msr fpcr, x2
        ret
    "#,
);

const _: () = {
    assert!(core::mem::offset_of!(Context, x) == 0);
    assert!(core::mem::offset_of!(System, sctlr) == 48);
    assert!(core::mem::offset_of!(System, cntv_cval) == 176);
    assert!(core::mem::offset_of!(System, mdscr) == 192);
    assert!(core::mem::offset_of!(System, ttbr0) == 208);
    assert!(core::mem::offset_of!(Float, fpsr) == 0);
    assert!(core::mem::offset_of!(Float, fpcr) == 8);
    assert!(core::mem::offset_of!(Float, v) == 16);
};
