// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Work that is a known number of instructions.
#![allow(unsafe_code)]

/// Executes about so many instructions and nothing else: on arm64 two per turn
/// of a loop, exactly; elsewhere about as many.
#[inline]
pub fn spin(instructions: u64) {
    let turns = (instructions / 2).max(1);
    // SAFETY: counts a register down; no memory, no stack. `turns` is at least
    // 1, so that the loop ends.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!(
            "2: subs {n}, {n}, #1",
            "b.ne 2b",
            n = inout(reg) turns => _,
            options(nomem, nostack),
        );
    }
    #[cfg(not(target_arch = "aarch64"))]
    for turn in 0..turns {
        std::hint::black_box(turn);
    }
}
