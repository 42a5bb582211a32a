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
    /// x0 to x30.
    pub x: [u64; 31],
    pc: u64,
    pstate: u64,
    system: System,
    float: Float,
    /// The virtual CPU interface.
    gic: GicState,
    /// HCR_EL2, ICH_HCR_EL2 and CNTHCTL_EL2 while this context is loaded.
    controls: Controls,
    /// VMPIDR_EL2.
    vmpidr: u64,
}

/// EL1 and EL0 system registers, and the virtual timer.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct System {
    sp_el0: u64,
    sp_el1: u64,
    elr_el1: u64,
    spsr_el1: u64,
    sctlr: u64,
    cpacr: u64,
    ttbr0: u64,
    ttbr1: u64,
    tcr: u64,
    mair: u64,
    amair: u64,
    vbar: u64,
    esr: u64,
    far: u64,
    afsr0: u64,
    afsr1: u64,
    par: u64,
    contextidr: u64,
    tpidr_el0: u64,
    tpidrro_el0: u64,
    tpidr_el1: u64,
    cntkctl: u64,
    csselr: u64,
    mdscr: u64,
    cntv_cval: u64,
    cntv_ctl: u64,
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
            x: [0; 31],
            pc: 0,
            pstate: PSTATE_ENTRY,
            system: System {
                sp_el0: 0,
                sp_el1: 0,
                elr_el1: 0,
                spsr_el1: 0,
                sctlr: SCTLR_RESET,
                cpacr: 0,
                ttbr0: 0,
                ttbr1: 0,
                tcr: 0,
                mair: 0,
                amair: 0,
                vbar: 0,
                esr: 0,
                far: 0,
                afsr0: 0,
                afsr1: 0,
                par: 0,
                contextidr: 0,
                tpidr_el0: 0,
                tpidrro_el0: 0,
                tpidr_el1: 0,
                cntkctl: 0,
                csselr: 0,
                mdscr: 0,
                cntv_cval: 0,
                cntv_ctl: 0,
            },
            float: Float { fpsr: 0, fpcr: 0, v: [[0; 2]; 32] },
            gic: GicState { vmcr: VMCR_RESET, ap1r0: 0, lists: ListRegisters::new() },
            controls,
            vmpidr: 0,
        }
    }

    /// Makes it a CPU just out of reset that will execute at `entry` with x0 =
    /// `x0`, MMU off, as PSCI CPU_ON demands (Arm DEN 0022, 6.4).
    pub fn reset(&mut self, controls: Controls, mpidr: u64, entry: u64, x0: u64) {
        *self = Self::new(controls);
        self.x[0] = x0;
        self.pc = entry;
        // Bit 31 of MPIDR is RES1.
        self.vmpidr = mpidr | 1 << 31;
    }

    /// Writes a general register; register 31 is XZR. For a loaded context:
    /// [`crate::percore::Core::give`].
    #[inline]
    pub fn set_x(&mut self, register: u8, value: u64) {
        if let Some(x) = self.x.get_mut(usize::from(register)) {
            *x = value;
        }
    }

    /// Reads a general register; register 31 is XZR.
    #[inline]
    pub fn get_x(&self, register: u8) -> u64 {
        self.x.get(usize::from(register)).copied().unwrap_or(0)
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
        self.pstate & (1 << 7) == 0
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
        self.pc = read_sysreg!("elr_el2");
        self.pstate = read_sysreg!("spsr_el2");
        let s = &mut self.system;
        s.sp_el0 = read_sysreg!("sp_el0");
        s.sp_el1 = read_sysreg!("sp_el1");
        s.elr_el1 = read_sysreg!("elr_el1");
        s.spsr_el1 = read_sysreg!("spsr_el1");
        s.sctlr = read_sysreg!("sctlr_el1");
        s.cpacr = read_sysreg!("cpacr_el1");
        s.ttbr0 = read_sysreg!("ttbr0_el1");
        s.ttbr1 = read_sysreg!("ttbr1_el1");
        s.tcr = read_sysreg!("tcr_el1");
        s.mair = read_sysreg!("mair_el1");
        s.amair = read_sysreg!("amair_el1");
        s.vbar = read_sysreg!("vbar_el1");
        s.esr = read_sysreg!("esr_el1");
        s.far = read_sysreg!("far_el1");
        s.afsr0 = read_sysreg!("afsr0_el1");
        s.afsr1 = read_sysreg!("afsr1_el1");
        s.par = read_sysreg!("par_el1");
        s.contextidr = read_sysreg!("contextidr_el1");
        s.tpidr_el0 = read_sysreg!("tpidr_el0");
        s.tpidrro_el0 = read_sysreg!("tpidrro_el0");
        s.tpidr_el1 = read_sysreg!("tpidr_el1");
        s.cntkctl = read_sysreg!("cntkctl_el1");
        s.csselr = read_sysreg!("csselr_el1");
        s.mdscr = read_sysreg!("mdscr_el1");
        s.cntv_cval = read_sysreg!("cntv_cval_el0");
        s.cntv_ctl = read_sysreg!("cntv_ctl_el0");
        // SAFETY: Float has the layout that the assembly expects.
        unsafe { float_save(&mut self.float) };
        if self.controls.hcr & hcr::IMO != 0 {
            self.gic.vmcr = read_sysreg!("ich_vmcr_el2");
            self.gic.ap1r0 = read_sysreg!("ich_ap1r0_el2");
            gic::unload(&mut self.gic.lists);
        }
        // A context on its boot page tables (MMU off, or ASID 0) must leave no
        // translations behind: another context uses the same VMID and ASID 0
        // with other tables. See docs/tlb-and-vmid.md.
        if s.sctlr & 1 == 0 || s.ttbr1 >> 48 == 0 {
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
            write_sysreg!("elr_el2", self.pc);
            write_sysreg!("spsr_el2", self.pstate);
            write_sysreg!("sp_el0", s.sp_el0);
            write_sysreg!("sp_el1", s.sp_el1);
            write_sysreg!("elr_el1", s.elr_el1);
            write_sysreg!("spsr_el1", s.spsr_el1);
            write_sysreg!("sctlr_el1", s.sctlr);
            write_sysreg!("cpacr_el1", s.cpacr);
            // Equal writes are skipped: they flush translations in QEMU, and
            // some cores synchronize on them.
            if read_sysreg!("tcr_el1") != s.tcr {
                write_sysreg!("tcr_el1", s.tcr);
            }
            if read_sysreg!("ttbr0_el1") != s.ttbr0 {
                write_sysreg!("ttbr0_el1", s.ttbr0);
            }
            if read_sysreg!("ttbr1_el1") != s.ttbr1 {
                write_sysreg!("ttbr1_el1", s.ttbr1);
            }
            write_sysreg!("mair_el1", s.mair);
            write_sysreg!("amair_el1", s.amair);
            write_sysreg!("vbar_el1", s.vbar);
            write_sysreg!("esr_el1", s.esr);
            write_sysreg!("far_el1", s.far);
            write_sysreg!("afsr0_el1", s.afsr0);
            write_sysreg!("afsr1_el1", s.afsr1);
            write_sysreg!("par_el1", s.par);
            write_sysreg!("contextidr_el1", s.contextidr);
            write_sysreg!("tpidr_el0", s.tpidr_el0);
            write_sysreg!("tpidrro_el0", s.tpidrro_el0);
            write_sysreg!("tpidr_el1", s.tpidr_el1);
            write_sysreg!("cntkctl_el1", s.cntkctl);
            write_sysreg!("csselr_el1", s.csselr);
            write_sysreg!("mdscr_el1", s.mdscr);
            write_sysreg!("cntv_cval_el0", s.cntv_cval);
            write_sysreg!("cntv_ctl_el0", s.cntv_ctl);
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
    // From EL0, from EL1 with SP_EL0, from EL1 with SP_EL1.
    let (offset, class) = match pstate & 0b1111 {
        0b0000 => (0x400, 0x24u64),
        0b0100 => (0x000, 0x25),
        _ => (0x200, 0x25),
    };
    // SAFETY: writes EL1's exception state, as the architecture would.
    unsafe {
        write_sysreg!("far_el1", read_sysreg!("far_el2"));
        write_sysreg!("esr_el1", class << 26 | 1 << 25 | 0x10);
        write_sysreg!("elr_el1", read_sysreg!("elr_el2"));
        write_sysreg!("spsr_el1", pstate);
        write_sysreg!("elr_el2", vbar.wrapping_add(offset));
        write_sysreg!("spsr_el2", PSTATE_ENTRY);
    }
}

/// Gives the loaded context an undefined instruction exception.
pub fn inject_undefined() {
    let pstate = read_sysreg!("spsr_el2");
    let vbar = read_sysreg!("vbar_el1");
    let offset = match pstate & 0b1111 {
        0b0000 => 0x400,
        0b0100 => 0x000,
        _ => 0x200,
    };
    // SAFETY: as above.
    unsafe {
        write_sysreg!("esr_el1", 1u64 << 25);
        write_sysreg!("elr_el1", read_sysreg!("elr_el2"));
        write_sysreg!("spsr_el1", pstate);
        write_sysreg!("elr_el2", vbar.wrapping_add(offset));
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
    assert!(core::mem::offset_of!(Float, fpsr) == 0);
    assert!(core::mem::offset_of!(Float, fpcr) == 8);
    assert!(core::mem::offset_of!(Float, v) == 16);
};
