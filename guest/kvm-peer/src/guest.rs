// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest: its instructions and its memory.

use std::arch::global_asm;
use std::cell::UnsafeCell;
use std::ops::Range;

/// Where the guest's memory is, for the guest.
pub const BASE: u64 = 0x4000_0000;
/// Bytes of code at its start; the rest is samples.
const CODE: usize = 4096;
/// Samples that fit.
pub const SAMPLES: usize = 1 << 17;
/// An address without memory: a load from here exits to user space, a store
/// ends the guest.
pub const DEVICE: u64 = 0x1000_0000;

// x20: where samples go, x21: the end of them, x22: DEVICE.
global_asm!(
    r#"
    .section .rodata.guest, "a"
    .balign 8
    .macro  timed name, insn:vararg
    .global guest_\name
guest_\name:
1:  movz    w0, #0x8400, lsl #16        // PSCI_VERSION
    isb
    mrs     x10, cntvct_el0
    \insn
    mrs     x11, cntvct_el0
    sub     x11, x11, x10
    str     x11, [x20], #8
    cmp     x20, x21
    b.lo    1b
    str     w0, [x22]
    b       .
    .endm
    .global guest_code
guest_code:
    timed   nothing
    timed   hundred, .fill 100, 4, 0xd503201f
    timed   hvc, hvc #0
    timed   mmio, ldr w1, [x22]

    .global guest_sample
guest_sample:
1:  mrs     x10, cntvct_el0
    str     x10, [x20], #8
    cmp     x20, x21
    b.lo    1b
    str     w0, [x22]
    b       .
    .global guest_end
guest_end:
"#
);

unsafe extern "C" {
    static guest_code: u8;
    static guest_end: u8;
    static guest_nothing: u8;
    static guest_hundred: u8;
    static guest_hvc: u8;
    static guest_mmio: u8;
    static guest_sample: u8;
}

/// Instructions from one sample of [`Program::Sample`] to the next.
pub const LOOP: u64 = 4;

/// What the guest can do.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    /// Reads the counter twice with nothing between.
    Nothing,
    /// The same with a hundred NOPs.
    Hundred,
    /// A hypercall that the kernel answers.
    Hvc,
    /// A load that user space answers.
    Mmio,
    /// Reads the counter all the time.
    Sample,
}

impl Program {
    /// Its first instruction, for the guest.
    pub fn entry(self) -> u64 {
        let label = match self {
            Self::Nothing => &raw const guest_nothing,
            Self::Hundred => &raw const guest_hundred,
            Self::Hvc => &raw const guest_hvc,
            Self::Mmio => &raw const guest_mmio,
            Self::Sample => &raw const guest_sample,
        };
        BASE + (label as u64 - &raw const guest_code as u64)
    }
}

/// The guest's memory.
#[repr(C, align(65536))]
pub struct Memory {
    code: UnsafeCell<[u8; CODE]>,
    samples: UnsafeCell<[u64; SAMPLES]>,
}

// SAFETY: written by `load` before the guest runs, by the guest while it runs,
// and read when it doesn't.
unsafe impl Sync for Memory {}

/// The one guest's memory.
pub static MEMORY: Memory = Memory {
    code: UnsafeCell::new([0; CODE]),
    samples: UnsafeCell::new([0; SAMPLES]),
};

impl Memory {
    /// Copies the programs in and touches every page, so that no later access
    /// has to find one.
    pub fn load(&self) {
        let (start, end) = (&raw const guest_code, &raw const guest_end);
        let size = end as usize - start as usize;
        assert!(size <= CODE, "the guest's code takes {size} bytes");
        // SAFETY: no guest runs yet; the labels enclose the code, which fits.
        unsafe {
            std::ptr::copy_nonoverlapping(start, self.code.get().cast::<u8>(), size);
            (*self.samples.get()).fill(1);
        }
    }

    /// Where it is in this process, and its size.
    pub fn host(&self) -> (u64, u64) {
        (&raw const *self as u64, size_of::<Self>() as u64)
    }

    /// The samples' addresses for the guest, the first `count` of them.
    pub fn range(count: usize) -> Range<u64> {
        let start = BASE + CODE as u64;
        start..start + 8 * count as u64
    }

    /// What the guest wrote. The guest must not run.
    pub fn samples(&self, count: usize) -> Vec<u64> {
        // SAFETY: the guest doesn't run, so nobody writes.
        unsafe { (&*self.samples.get())[..count].to_vec() }
    }
}
