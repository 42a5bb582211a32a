// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A core's breakpoints, watchpoints and MDSCR_EL1. What a CPU of Linux has is
//! in [`taichi_machine::debug`], since all its accesses trap; the core gets it
//! while a CPU is loaded for which it matters.

use crate::write_sysreg;
use core::arch::asm;
use taichi_machine::debug::{Counts, Debug, PLAIN, Point};

/// Declares how the core's registers with a number are written.
macro_rules! numbered {
    ($name:ident $value:literal $control:literal: $($n:tt)*) => {
        /// Sets one on this core, which must have it.
        fn $name(n: usize, point: Point) {
            // SAFETY: debug exceptions are EL1's (MDCR_EL2.TDE = 0), and none is
            // taken at EL2.
            unsafe {
                match n {
                    $($n => asm!(
                        concat!("msr ", $value, $n, "_el1, {value}"),
                        concat!("msr ", $control, $n, "_el1, {control}"),
                        value = in(reg) point.value, control = in(reg) point.control,
                        options(nostack, preserves_flags)
                    ),)*
                    _ => {}
                }
            }
        }
    };
}

numbered! { set_breakpoint "dbgbvr" "dbgbcr": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 }
numbered! { set_watchpoint "dbgwvr" "dbgwcr": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 }

/// Gives the core what the CPU has that is loaded here next, or is now; for one
/// that isn't armed, nothing that could hit. Takes effect at the next return to
/// EL1.
pub(crate) fn load(debug: &Debug, counts: Counts) {
    if debug.is_armed() {
        let points = debug.breakpoints.iter().take(counts.breakpoints);
        points
            .enumerate()
            .for_each(|(n, point)| set_breakpoint(n, *point));
        let points = debug.watchpoints.iter().take(counts.watchpoints);
        points
            .enumerate()
            .for_each(|(n, point)| set_watchpoint(n, *point));
    }
    // SAFETY: as above.
    unsafe { write_sysreg!("mdscr_el1", debug.in_force()) };
}

/// Leaves nothing on the core that could hit.
pub(crate) fn unload() {
    // SAFETY: as above.
    unsafe { write_sysreg!("mdscr_el1", PLAIN) };
}
