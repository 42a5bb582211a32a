// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Floating point: v0 to v31, FPSR, FPCR; and SVE (`sve.rs`) where a core has it.
//!
//! A vCPU gets these registers when it first uses them in its stay on a core,
//! which traps (CPTR_EL2.TFP). Kernel code doesn't use them, so a core that
//! comes back from a vCPU in the kernel need not save and load them (`taichi
//! bench micro` counts both). Native contexts never trap: what a data plane
//! does costs nothing.
//!
//! The firmware itself is built without floating point, so that no Rust code
//! can touch these registers.

use crate::context::Context;
use crate::sysreg::isb;
use crate::{features, sve, write_sysreg};
use core::arch::asm;

/// CPTR_EL2: floating point doesn't trap; RES1 bits, of which one traps SME where
/// that exists (TSM).
pub(crate) const FREE: u64 = 0x32ff;
/// CPTR_EL2: SVE at EL0, EL1 and EL2 traps; RES1 where there is none.
pub(crate) const TZ: u64 = 1 << 8;
/// CPTR_EL2: floating point at EL0, EL1 and EL2 traps.
pub(crate) const TFP: u64 = 1 << 10;
/// CPTR_EL2: trace registers trap.
pub(crate) const TTA: u64 = 1 << 20;
/// CPTR_EL2: activity monitors trap.
pub(crate) const TAM: u64 = 1 << 30;

/// Whose registers a core holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Holder {
    /// The native context's, whoever runs.
    Native,
    /// The loaded vCPU's; those of the native context are in memory.
    Vcpu,
    /// Nobody's: those of the native context are in memory, and the vCPU that
    /// runs has used none.
    Nobody,
}

/// The loaded vCPU, `current`, uses floating point: from now on the core holds
/// its registers.
///
/// # Safety
/// The contexts are this core's, and `holder` is what the core holds.
pub(crate) unsafe fn give(holder: Holder, native: *mut Context, current: *mut Context) -> Holder {
    let sve = open();
    // SAFETY: the caller's promise.
    unsafe {
        if holder == Holder::Native {
            save(native, sve);
        }
        load(current, sve);
    }
    Holder::Vcpu
}

/// Before a world switch away from the vCPU `old`, where the core does not hold
/// the native context's registers: saves the vCPU's, and loads those of the
/// native context if that comes next.
///
/// # Safety
/// As for [`give`].
pub(crate) unsafe fn take(
    holder: Holder,
    old: *mut Context,
    native_next: Option<*mut Context>,
) -> Holder {
    let sve = open();
    // SAFETY: the caller's promise.
    unsafe {
        if holder == Holder::Vcpu {
            save(old, sve);
        }
        let Some(native) = native_next else {
            return Holder::Nobody;
        };
        load(native, sve);
    }
    Holder::Native
}

/// EL2 traps itself where it traps vCPUs. Gives whether the core has SVE.
fn open() -> bool {
    let free = features::cptr();
    // SAFETY: traps of EL1 and EL0; the next world switch sets them anew.
    unsafe { write_sysreg!("cptr_el2", free) };
    isb();
    free & TZ == 0
}

/// All vector registers, two at a time, with their places in the context.
macro_rules! all_pairs {
    ($op:literal) => {
        all_pairs!($op: 0, 1, 528; 2, 3, 560; 4, 5, 592; 6, 7, 624;
            8, 9, 656; 10, 11, 688; 12, 13, 720; 14, 15, 752;
            16, 17, 784; 18, 19, 816; 20, 21, 848; 22, 23, 880;
            24, 25, 912; 26, 27, 944; 28, 29, 976; 30, 31, 1008;)
    };
    ($op:literal: $($a:literal, $b:literal, $at:literal;)*) => {
        concat!(
            ".arch_extension fp\n.arch_extension simd\n",
            $($op, " q", $a, ", q", $b, ", [{context}, #", $at, "]\n",)*
        )
    };
}

/// # Safety
/// `to` is a context of this core, which has SVE or not, and no trap is set.
#[inline(always)]
unsafe fn save(to: *mut Context, sve: bool) {
    // SAFETY: the caller's promise; the offsets are asserted in `context.rs`.
    unsafe {
        if sve {
            sve::save((*to).vectors);
        } else {
            save_vectors(to);
        }
        asm!(
            ".arch_extension fp",
            "mrs {a}, fpsr",
            "mrs {b}, fpcr",
            "str {a}, [{context}, #512]",
            "str {b}, [{context}, #520]",
            ".arch_extension nofp",
            context = in(reg) to, a = out(reg) _, b = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
}

/// # Safety
/// As for [`save`]; the registers are EL1's and EL0's alone.
#[inline(always)]
unsafe fn load(from: *mut Context, sve: bool) {
    // SAFETY: as in `save`.
    unsafe {
        if sve {
            sve::load((*from).vectors);
        } else {
            load_vectors(from);
        }
        asm!(
            ".arch_extension fp",
            "ldr {a}, [{context}, #512]",
            "ldr {b}, [{context}, #520]",
            "msr fpsr, {a}",
            "msr fpcr, {b}",
            ".arch_extension nofp",
            context = in(reg) from, a = out(reg) _, b = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
}

/// # Safety
/// As for [`save`].
#[inline(always)]
unsafe fn save_vectors(to: *mut Context) {
    // SAFETY: as in `save`.
    unsafe {
        asm!(
            all_pairs!("stp"),
            ".arch_extension nosimd\n.arch_extension nofp",
            context = in(reg) to, options(nostack, preserves_flags)
        );
    }
}

/// # Safety
/// As for [`load`].
#[inline(always)]
unsafe fn load_vectors(from: *mut Context) {
    // SAFETY: as in `load`.
    unsafe {
        asm!(
            all_pairs!("ldp"),
            ".arch_extension nosimd\n.arch_extension nofp",
            context = in(reg) from, options(nostack, preserves_flags)
        );
    }
}
