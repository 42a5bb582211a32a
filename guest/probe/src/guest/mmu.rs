// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The identity map: 48 bits, 1 GiB blocks, QEMU `virt`'s memory map.
//!
//! RAM lies between 1 and 256 GiB there, devices below and above. Every CPU
//! has its own copy of the two upper tables and an ASID, so that TTBR0_EL1
//! differs between contexts.

use core::arch::asm;

use super::sys::{get, set};

const GIB: u64 = 1 << 30;

/// A translation table.
#[repr(C, align(4096))]
pub struct Table([u64; 512]);

/// Where EL0 sees the first 512 GiB, and those that the windows are in.
pub const USER: u64 = 64 << 39;
const USER_HIGH: u64 = 65 << 39;

/// A CPU's tables: level 0, the level 1 of the first 512 GiB, and that of the
/// firmware's windows if they lie above; and the same for EL0, elsewhere, for
/// what EL0 may write EL1 doesn't execute.
#[repr(C)]
pub struct Tables {
    root: Table,
    low: Table,
    high: Table,
    user_low: Table,
    user_high: Table,
}

/// Where EL0 sees an address.
pub fn user(address: u64) -> u64 {
    let half = (1 << 39) - 1;
    match address > half {
        true => USER_HIGH | address & half,
        false => USER | address,
    }
}

impl Tables {
    /// No mapping at all.
    pub const fn new() -> Self {
        Self {
            root: Table([0; 512]),
            low: Table([0; 512]),
            high: Table([0; 512]),
            user_low: Table([0; 512]),
            user_high: Table([0; 512]),
        }
    }

    /// Fills the tables; `window` is any address in the 512 GiB that the
    /// firmware's windows are in.
    fn fill(&mut self, window: u64) {
        for (n, entry) in self.low.0.iter_mut().enumerate() {
            *entry = block(n as u64, (1..256).contains(&n));
        }
        self.root.0[0] = &raw const self.low as u64 | 3;
        let slot = (window >> 39 & 511) as usize;
        if slot != 0 {
            for (n, entry) in self.high.0.iter_mut().enumerate() {
                *entry = block((slot as u64) << 9 | n as u64, false);
            }
            self.root.0[slot] = &raw const self.high as u64 | 3;
        }
        let user = |block: &u64| match *block {
            0 => 0,
            // At EL0 too, writable; not global; and executed there alone.
            block => block & !(1 << 54) | 1 << 6 | 1 << 11 | 1 << 53,
        };
        for (from, to) in [
            (&self.low, &mut self.user_low),
            (&self.high, &mut self.user_high),
        ] {
            to.0.iter_mut()
                .zip(&from.0)
                .for_each(|(to, from)| *to = user(from));
        }
        self.root.0[(USER >> 39) as usize] = &raw const self.user_low as u64 | 3;
        self.root.0[(USER_HIGH >> 39) as usize] = &raw const self.user_high as u64 | 3;
    }
}

/// A 1 GiB block descriptor: EL1 only, accessed; memory is inner shareable.
fn block(gib: u64, memory: bool) -> u64 {
    let attributes = if memory {
        3 << 8 | 1 << 2
    } else {
        1 << 54 | 1 << 53
    };
    (gib * GIB) | attributes | 1 << 10 | 1
}

/// MAIR: 0 is device memory (nGnRnE), 1 is cacheable memory.
pub const MAIR: u64 = 0xff00;

/// TCR: 48 bits through TTBR0, cacheable walks, nothing through TTBR1, 16-bit
/// ASIDs of TTBR0.
pub fn tcr() -> u64 {
    let physical = get!("id_aa64mmfr0_el1") & 7;
    16 | 1 << 8 | 1 << 10 | 3 << 12 | 16 << 16 | 1 << 23 | 2 << 30 | physical << 32 | 1 << 36
}

/// SCTLR: the bits that are RES1 or that Linux sets alike, MMU and caches on.
pub const SCTLR: u64 = 0x30d0_0980 | 1 << 12 | 1 << 2 | 1;

/// Switches the MMU of the calling CPU on, with its own tables and ASID.
pub fn enable(tables: &'static mut Tables, asid: u64, window: u64) {
    tables.fill(window);
    let root = &raw const tables.root as u64;
    set!("mair_el1", MAIR);
    set!("tcr_el1", tcr());
    set!("ttbr0_el1", root | asid << 48);
    set!("ttbr1_el1", 0);
    // SAFETY: the tables map everything where it is.
    unsafe {
        asm!("dsb sy", "tlbi vmalle1", "dsb nsh", "isb", "msr sctlr_el1, {}", "isb", in(reg) SCTLR)
    };
}
