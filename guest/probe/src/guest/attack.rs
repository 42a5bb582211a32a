// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Instructions that no sane program executes on these addresses: at EL1, and
//! at EL0 with the whole machine mapped.
//!
//! Each is a routine of one instruction, or few, and a return, with the address in x0
//! and operands in x1 and x2. What it loads is lost, and an abort is caught: the
//! handler steps over the instruction, or, after a fetch, returns from it.

use core::arch::{asm, global_asm};
use core::sync::atomic::Ordering::Relaxed;

use super::cpu::{Cpu, EXPECT_ABORT};
use super::mmu;
use super::sys::{get, set};

/// Declares routines, most of one instruction.
macro_rules! routines {
    ($list:ident: $($name:ident = $code:literal,)*) => {
        unsafe extern "C" { $(fn $name();)* }
        global_asm!(
            ".arch_extension lse",
            ".arch_extension fp",
            ".arch_extension simd",
            ".section .text.attack, \"ax\"",
            $(concat!(stringify!($name), ":\n ", $code, "\n ret"),)*
        );
        /// Routines, see the module.
        pub const $list: &[unsafe extern "C" fn()] = &[$($name,)*];
    };
}

routines! {
    MEMORY:
    atk_ldrb = "ldrb w3, [x0]",
    atk_ldrh = "ldrh w3, [x0]",
    atk_ldrw = "ldr w3, [x0]",
    atk_ldrx = "ldr x3, [x0]",
    atk_ldrsb = "ldrsb x3, [x0]",
    atk_ldrsh = "ldrsh w3, [x0]",
    atk_ldrsw = "ldrsw x3, [x0]",
    atk_ldr_zero = "ldr xzr, [x0]",
    atk_strb = "strb w1, [x0]",
    atk_strh = "strh w1, [x0]",
    atk_strw = "str w1, [x0]",
    atk_strx = "str x1, [x0]",
    atk_str_zero = "str xzr, [x0]",
    atk_ldp = "ldp x3, x4, [x0]",
    atk_ldpw = "ldp w3, w4, [x0]",
    atk_stp = "stp x1, x2, [x0]",
    atk_stnp = "stnp x1, x2, [x0]",
    atk_ldr_post = "ldr x3, [x0], #8",
    atk_str_pre = "str x1, [x0, #8]!",
    atk_ldur = "ldur x3, [x0, #-1]",
    atk_ldrq = "ldr q0, [x0]",
    atk_strq = "str q0, [x0]",
    atk_ld1 = "ld1 {{v0.4s, v1.4s}}, [x0]",
    atk_ldxr = "ldxr x3, [x0]",
    atk_ldxrb = "ldxrb w3, [x0]",
    atk_ldxp = "ldxp x3, x4, [x0]",
    atk_stxr = "stxr w3, x1, [x0]",
    atk_ldar = "ldar x3, [x0]",
    atk_stlr = "stlr x1, [x0]",
    atk_ldadd = "ldadd x1, x3, [x0]",
    atk_swpb = "swpb w1, w3, [x0]",
    atk_cas = "cas x2, x1, [x0]",
    atk_ldtr = "ldtr x3, [x0]",
    atk_sttr = "sttr x1, [x0]",
    atk_prfm = "prfm pldl1keep, [x0]",
    atk_zva = "dc zva, x0",
    atk_civac = "dc civac, x0",
    atk_cvau = "dc cvau, x0",
    atk_ivau = "ic ivau, x0",
    atk_fetch = "br x0",
}

routines! {
    SYSTEM:
    atk_ivac = "dc ivac, x0",
    atk_at = "at s1e1r, x0",
    atk_at_user = "at s1e0w, x0",
    atk_read_iar0 = "mrs x3, icc_iar0_el1",
    atk_read_hppir0 = "mrs x3, icc_hppir0_el1",
    atk_igrpen0 = "msr icc_igrpen0_el1, x1",
    atk_bpr0 = "msr icc_bpr0_el1, x1",
    // EOImode for a moment, in which this CPU ends no interrupt.
    atk_ctlr = "mrs x4, daif\n msr daifset, #2\n and x3, x1, #2\n msr icc_ctlr_el1, x3\n isb\n \
        mov x5, #64\n 1: sub x5, x5, #1\n cbnz x5, 1b\n msr icc_ctlr_el1, xzr\n msr daif, x4",
    atk_dir = "msr icc_dir_el1, x1",
    atk_rpr = "mrs x3, icc_rpr_el1",
    atk_sgi0 = "msr icc_sgi0r_el1, x1",
    atk_asgi1 = "msr icc_asgi1r_el1, x1",
    atk_sre = "msr icc_sre_el1, x1",
    atk_cntp_ctl = "msr cntp_ctl_el0, xzr",
    atk_actlr = "msr actlr_el1, x1",
    atk_cnthp = "mrs x3, cnthp_cval_el2",
    atk_hcr = "msr hcr_el2, x1",
}

routines! {
    CALLS:
    atk_smc = "smc #0",
    atk_smc_odd = "smc #0x1234",
    atk_hvc = "hvc #0",
    atk_hvc_odd = "hvc #0xffff",
}

/// Executes a routine at EL1; gives ESR_EL1 if that aborted.
///
/// # Safety
/// The routine harms nobody who isn't to be harmed: an address is none of this
/// program's memory, a call doesn't end this CPU.
pub unsafe fn at_el1(me: &Cpu, routine: unsafe extern "C" fn(), x: [u64; 3]) -> Option<u64> {
    me.caught.store(EXPECT_ABORT, Relaxed);
    // SAFETY: a routine changes what SMCCC and AAPCS64 let it; the rest is the
    // caller's promise.
    unsafe {
        asm!("blr {}", in(reg) routine as *const () as u64, inout("x0") x[0] => _,
            inout("x1") x[1] => _, inout("x2") x[2] => _, clobber_abi("C"));
    }
    let caught = me.caught.swap(0, Relaxed);
    (caught != EXPECT_ABORT).then_some(caught)
}

global_asm!(
    r#"
    .section .text.attack, "ax"
    // x0: routine, x1: its x0, x2: its x1, x3: where to keep x19-x30, x4: from an
    // address here to the same at EL0. `back_from_el0` returns to the caller.
    .global into_el0
into_el0:
    stp     x19, x20, [x3, #0]
    stp     x21, x22, [x3, #16]
    stp     x23, x24, [x3, #32]
    stp     x25, x26, [x3, #48]
    stp     x27, x28, [x3, #64]
    stp     x29, x30, [x3, #80]
    msr     elr_el1, x0
    mov     x5, #0x3c0                  // EL0, everything masked
    msr     spsr_el1, x5
    adr     x30, after_routine
    add     x30, x30, x4
    mov     x0, x1
    mov     x1, x2
    eret
after_routine:
    svc     #0
    // x0: what `into_el0` kept, x1: what it returns.
    .global back_from_el0
back_from_el0:
    ldp     x19, x20, [x0, #0]
    ldp     x21, x22, [x0, #16]
    ldp     x23, x24, [x0, #32]
    ldp     x25, x26, [x0, #48]
    ldp     x27, x28, [x0, #64]
    ldp     x29, x30, [x0, #80]
    mov     x0, x1
    ret
"#
);

unsafe extern "C" {
    fn into_el0(routine: u64, x0: u64, x1: u64, keep: *mut u64, alias: u64) -> u64;
}

/// Executes a routine at EL0, where all of the machine is mapped; gives the
/// ESR_EL1 with which it came back, of SVC if nothing went wrong.
///
/// # Safety
/// As for [`at_el1`].
pub unsafe fn at_el0(me: &Cpu, routine: unsafe extern "C" fn(), address: u64, value: u64) -> u64 {
    let code = routine as *const () as u64 | mmu::USER;
    let daif = get!("daif");
    super::sys::mask();
    let keep = (&raw const me.el0).cast_mut().cast();
    // SAFETY: comes back through the vectors, with all callee-saved registers;
    // IRQs are masked there too. The rest is the caller's promise.
    let esr = unsafe { into_el0(code, mmu::user(address), value, keep, mmu::USER) };
    set!("daif", daif);
    esr
}
