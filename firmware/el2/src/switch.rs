// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The world switch: one context out of the core, another into it.
//!
//! One pass: each pair of registers is read from the core and from the context
//! to come, then written to the context that leaves and to the core. Floating
//! point is left to `float.rs`, MDSCR_EL1 and its like to `debug.rs`.

use crate::context::{Context, Controls};
use crate::sve::Place;
use crate::sysreg::isb;
use crate::{features, gic, read_sysreg, write_sysreg};
use core::arch::asm;

/// Two system registers, with the byte offset of the first in `System`.
macro_rules! pair {
    ($a:literal, $b:literal, $at:literal) => {
        concat!(
            "mrs {a}, ",
            $a,
            "\n",
            "mrs {b}, ",
            $b,
            "\n",
            "ldp {c}, {d}, [{new}, #",
            $at,
            "]\n",
            "stp {a}, {b}, [{old}, #",
            $at,
            "]\n",
            "msr ",
            $a,
            ", {c}\n",
            "msr ",
            $b,
            ", {d}\n",
        )
    };
}

/// Saves what the core holds, but for the general registers and floating point,
/// to `old` and loads `new`; what `old` did before is then complete, and others
/// may load it.
///
/// # Safety
/// The caller returns to EL1 with `new`, and no other core has either.
#[inline(always)]
pub(crate) unsafe fn switch(old: *mut Context, new: *mut Context, more: More) {
    // SAFETY: these are EL1's own registers: they decide what EL1 and EL0 do,
    // which stage 2 confines, and nothing about EL2. The EL2 controls are
    // ours, from `Controls`. The memory is that of the contexts, by the
    // offsets that `context.rs` asserts.
    unsafe {
        asm!(
            pair!("sp_el0", "sp_el1", 24),
            pair!("elr_el1", "spsr_el1", 40),
            pair!("cpacr_el1", "par_el1", 56),
            pair!("mair_el1", "csselr_el1", 72),
            pair!("vbar_el1", "contextidr_el1", 88),
            pair!("esr_el1", "far_el1", 104),
            pair!("tpidr_el0", "tpidrro_el0", 120),
            pair!("tpidr_el1", "cntkctl_el1", 136),
            pair!("cntv_cval_el0", "cntv_ctl_el0", 152),
            // The EL2 controls, which are constant but for what is set in a
            // context that isn't loaded.
            "ldp {c}, {d}, [{new}, #208]",
            "msr hcr_el2, {c}",
            "msr ich_hcr_el2, {d}",
            "ldp {c}, {d}, [{new}, #224]",
            "msr cnthctl_el2, {c}",
            "msr cptr_el2, {d}",
            pair!("ich_vmcr_el2", "ich_ap1r0_el2", 240),
            // Equal writes of the translation registers are skipped: they
            // flush translations in QEMU, and some cores synchronize on them.
            "mrs {b}, tcr_el1",
            "ldp {c}, {d}, [{new}, #168]",
            "str {b}, [{old}, #176]",
            "msr vmpidr_el2, {c}",
            "cmp {b}, {d}",
            "b.eq 1f",
            "msr tcr_el1, {d}",
            "1: mrs {a}, ttbr0_el1",
            "mrs {b}, ttbr1_el1",
            "ldp {c}, {d}, [{new}, #184]",
            "stp {a}, {b}, [{old}, #184]",
            "cmp {a}, {c}",
            "b.eq 2f",
            "msr ttbr0_el1, {c}",
            "2: cmp {b}, {d}",
            "b.eq 3f",
            "msr ttbr1_el1, {d}",
            // {b} is still the old TTBR1_EL1.
            "3: mrs {e}, spsr_el2",
            "mrs {a}, sctlr_el1",
            "ldp {c}, {d}, [{new}, #8]",
            "stp {e}, {a}, [{old}, #8]",
            "msr spsr_el2, {c}",
            "msr sctlr_el1, {d}",
            "mrs {f}, elr_el2",
            "ldr {c}, [{new}]",
            "str {f}, [{old}]",
            "msr elr_el2, {c}",
            // A context on its boot page tables (MMU off, ASID 0, or EL1 code
            // at a low address: the identity map) must leave no translations
            // behind: another context uses the same VMID and ASID with other
            // tables. Rule R4 of docs/tlb-and-vmid.md.
            "tbz {a}, #0, 4f",
            "lsr {b}, {b}, #48",
            "cbz {b}, 4f",
            "tst {e}, #0xc",
            "b.eq 5f",
            "tbnz {f}, #63, 5f",
            "4: tlbi vmalle1",
            "dsb nsh",
            // A vCPU may be stopped between a TLB invalidation and the DSB that
            // completes it, and go on elsewhere, where its DSB waits for
            // nothing of this core's: rule R6.
            "5: dsb ish",
            old = in(reg) old, new = in(reg) new,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            e = out(reg) _, f = out(reg) _,
            options(nostack)
        );
        if more != More::NOTHING {
            switch_more(old, new, more);
        }
        gic::unload((*old).lists());
        gic::load((*new).lists());
    }
}

/// Registers that only some cores have. A switch asks once for all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct More(u8);

impl More {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self(0);
    /// AMAIR_EL1, AFSR0_EL1 or AFSR1_EL1 hold something.
    const IMPLEMENTATION: Self = Self(1);
    /// The keys of pointer authentication.
    const KEYS: Self = Self(2);

    /// What this core has. Call before Linux runs here.
    pub(crate) fn of_this_core() -> Self {
        let mut all = Self::NOTHING;
        if has_implementation_registers() {
            all.0 |= Self::IMPLEMENTATION.0;
        }
        if features::has_keys() {
            all.0 |= Self::KEYS.0;
        }
        all
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// # Safety
/// As for [`switch`]; the core has what `more` says.
#[inline(always)]
unsafe fn switch_more(old: *mut Context, new: *mut Context, more: More) {
    // SAFETY: the caller's promise, and as in `switch`.
    unsafe {
        if more.has(More::KEYS) {
            // APIAKey, APIBKey, APDAKey, APDBKey, APGAKey, as they are numbered.
            asm!(
                pair!("s3_0_c2_c1_0", "s3_0_c2_c1_1", 0),
                pair!("s3_0_c2_c1_2", "s3_0_c2_c1_3", 16),
                pair!("s3_0_c2_c2_0", "s3_0_c2_c2_1", 32),
                pair!("s3_0_c2_c2_2", "s3_0_c2_c2_3", 48),
                pair!("s3_0_c2_c3_0", "s3_0_c2_c3_1", 64),
                old = in(reg) &raw mut (*old).keys, new = in(reg) &raw const (*new).keys,
                a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
                options(nostack, preserves_flags)
            );
        }
        if more.has(More::IMPLEMENTATION) {
            let now = [
                read_sysreg!("amair_el1"),
                read_sysreg!("afsr0_el1"),
                read_sysreg!("afsr1_el1"),
            ];
            let [amair, afsr0, afsr1] = (*new).implementation;
            (*old).implementation = now;
            write_sysreg!("amair_el1", amair);
            write_sysreg!("afsr0_el1", afsr0);
            write_sysreg!("afsr1_el1", afsr1);
        }
    }
}

/// Whether AMAIR_EL1, AFSR0_EL1 or AFSR1_EL1 hold anything on this core. Many
/// cores implement them as zero; then there is nothing to switch. Call before
/// Linux runs here.
fn has_implementation_registers() -> bool {
    // SAFETY: EL1's registers, which mean nothing while its MMU is off; Linux
    // sets AMAIR_EL1 and reads none of them.
    unsafe {
        write_sysreg!("amair_el1", u64::MAX);
        write_sysreg!("afsr0_el1", u64::MAX);
        write_sysreg!("afsr1_el1", u64::MAX);
        isb();
        let held =
            read_sysreg!("amair_el1") | read_sysreg!("afsr0_el1") | read_sysreg!("afsr1_el1");
        write_sysreg!("amair_el1", 0u64);
        write_sysreg!("afsr0_el1", 0u64);
        write_sysreg!("afsr1_el1", 0u64);
        isb();
        held != 0
    }
}

/// Loads the first context of a core.
///
/// # Safety
/// As for [`switch`].
pub(crate) unsafe fn load(new: *mut Context, more: More) {
    // What the core holds is nobody's, but it must go somewhere.
    let mut nobody = Context::new(Controls::DP, Place::native(0));
    // SAFETY: the caller's promise; `nobody` is this function's own.
    unsafe { switch(&mut nobody, new, more) }
}
