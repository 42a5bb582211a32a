// SPDX-License-Identifier: Apache-2.0 OR MIT
//! This core's timers. EL2 has the hypervisor physical timer (CNTHP, PPI 26);
//! CNTVOFF is 0, so that all counters agree.

use crate::sysreg::isb;
use crate::{read_sysreg, write_sysreg};
use core::arch::asm;

/// The system counter, in ticks.
#[inline]
pub fn now() -> u64 {
    read_sysreg!("cntpct_el0")
}

/// Ticks in a second.
pub fn frequency() -> u64 {
    read_sysreg!("cntfrq_el0")
}

/// Turns this core's hypervisor timer on, with no deadline.
pub fn init() {
    set_deadline(u64::MAX);
    // SAFETY: EL2's own timer.
    unsafe { write_sysreg!("cnthp_ctl_el2", 1u64) };
    isb();
}

/// Interrupts this core at `ticks`, or at once if that is over; `u64::MAX`:
/// never. The timer's interrupt is a level: it is pending while the deadline
/// is over, and a later deadline ends it (CNTHP_CVAL_EL2).
#[inline]
pub fn set_deadline(ticks: u64) {
    // The exception return is the barrier that makes it effective.
    // SAFETY: EL2's own timer.
    unsafe { write_sysreg!("cnthp_cval_el2", ticks) };
}

/// The same, effective before EL2 is left: where the next to look at interrupts
/// is EL2 itself, or an EL1 that takes them without it.
#[inline]
pub fn set_deadline_now(ticks: u64) {
    // SAFETY: EL2's own timer; no memory is concerned.
    unsafe {
        asm!("msr cnthp_cval_el2, {}", "isb", in(reg) ticks,
            options(nomem, nostack, preserves_flags))
    };
}

/// When the loaded context's virtual timer fires; `None` while it is off or
/// masked.
#[inline]
pub fn loaded_deadline() -> Option<u64> {
    let on = read_sysreg!("cntv_ctl_el0") & 0b11 == 0b01;
    on.then(|| read_sysreg!("cntv_cval_el0"))
}

/// Masks the loaded context's virtual timer, so that it stops asking.
#[inline]
pub fn mask_loaded() {
    let control = read_sysreg!("cntv_ctl_el0") | 0b10;
    // SAFETY: EL1's timer; Linux programs it anew after the interrupt.
    unsafe { write_sysreg!("cntv_ctl_el0", control) };
    isb();
}
