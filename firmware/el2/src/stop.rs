// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The end of Linux on all cores: its whole memory is taken away, so that each
//! core comes to EL2 with its next instruction, whatever it does. No core need
//! be interrupted, none can refuse, and what takes cores from Linux every day
//! pays nothing for it.

use crate::memory;
use core::arch::asm;
use core::ptr;
use taichi_machine::stage2;

/// Takes all memory from Linux. When this returns, no core fetches, loads or
/// stores for it any more: the barrier completes when all cores are done with
/// the old translations (Arm ARM, "Ordering and completion of TLB maintenance
/// instructions").
///
/// `vtcr` and `vttbr` are those of all cores.
pub(crate) fn linux(vtcr: u64, vttbr: u64) {
    let root = vttbr & 0xffff_ffff_f000;
    let pool = memory::tables();
    let entries = stage2::root_entries(vtcr);
    if !pool.contains(&root) || root + entries * 8 > pool.end {
        // Before they are installed: no Linux runs.
        return;
    }
    for n in 0..entries {
        // SAFETY: in the pool of tables, which nobody refers to once they are
        // installed; an entry of 0 maps nothing.
        unsafe { ptr::write_volatile((root as *mut u64).add(n as usize), 0) };
    }
    // SAFETY: takes translations away from EL1, none of EL2's.
    unsafe {
        asm!(
            "dsb ishst",
            "tlbi vmalls12e1is",
            "dsb ish",
            "isb",
            options(nostack)
        )
    };
}
