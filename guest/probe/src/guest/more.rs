// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The part of a frame that only some cores have: keys of pointer authentication,
//! and SVE. Vectors are filled with copies of v0 to v31, so that what is beyond
//! those 128 bits needs no room in the frame.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::frame::Pattern;
use super::report::check;
use super::sys::{get, set};

/// In [`More::there`].
const KEYS: u64 = 1;
const SVE: u64 = 2;
/// Bytes of the longest predicate.
const LONGEST: usize = 32;

/// One set of values.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct More {
    /// What this core has: [`KEYS`], [`SVE`].
    there: u64,
    /// ZCR_EL1.
    zcr: u64,
    /// IA, IB, DA, DB, GA.
    keys: [u64; 10],
    /// p0 to p15 and FFR, without gaps.
    predicates: [u8; 17 * LONGEST],
    /// z31, while the others are looked at; only collected.
    z31: [u8; 256],
    /// How many 64-bit parts of vectors are not what the low 128 bits say; only
    /// collected.
    wrong: u64,
    /// Bytes of a predicate.
    length: u64,
}

/// What the calling core has; all are alike.
fn there() -> u64 {
    const UNKNOWN: u64 = u64::MAX;
    static THERE: AtomicU64 = AtomicU64::new(UNKNOWN);
    if THERE.load(Relaxed) == UNKNOWN {
        let isar1 = get!("id_aa64isar1_el1") & 0xff00_0ff0;
        let isar2 = get!("s3_0_c0_c6_2") & 0xff00;
        let sve = get!("id_aa64pfr0_el1") >> 32 & 0xf;
        let keys = if isar1 | isar2 != 0 { KEYS } else { 0 };
        THERE.store(keys | if sve != 0 { SVE } else { 0 }, Relaxed);
    }
    THERE.load(Relaxed)
}

impl More {
    /// Legal values.
    pub fn new(pattern: &mut Pattern) -> Self {
        let mut more = Self {
            there: there(),
            zcr: pattern.next() % 16,
            keys: [0; 10],
            predicates: [0; 17 * LONGEST],
            z31: [0; 256],
            wrong: 0,
            length: 0,
        };
        more.keys.fill_with(|| pattern.next());
        if more.there & SVE != 0 {
            set!("s3_0_c1_c2_0", more.zcr);
            more.length = vector_length() / 8;
            let length = more.length as usize;
            let all = &mut more.predicates[..16 * length];
            all.fill_with(|| pattern.next() as u8);
            // FFR may only hold ones from the first on.
            let first = pattern.next() as usize % (length + 1);
            more.predicates[16 * length..][..first].fill(0xff);
        }
        more
    }

    /// Fails the running test if anything changed.
    pub fn verify(&self, got: &Self, what: &str, mpidr: u64) {
        if self.there & KEYS != 0 {
            for (n, (w, g)) in self.keys.iter().zip(&got.keys).enumerate() {
                check!(
                    w == g,
                    "{what}: CPU {mpidr:#x}: word {n} of the keys is {g:#x}, not {w:#x}"
                );
            }
        }
        if self.there & SVE != 0 {
            let (w, g) = (self.zcr, got.zcr & 0xf);
            check!(w == g, "{what}: CPU {mpidr:#x}: ZCR is {g:#x}, not {w:#x}");
            let used = 17 * self.length as usize;
            let (w, g) = (&self.predicates[..used], &got.predicates[..used]);
            if let Some(at) = (0..used).find(|&n| w[n] != g[n]) {
                let (n, w, g) = (at / self.length as usize, w[at], g[at]);
                check!(false, "{what}: CPU {mpidr:#x}: p{n} has {g:#x}, not {w:#x}");
            }
            let wrong = got.wrong;
            check!(
                wrong == 0,
                "{what}: CPU {mpidr:#x}: {wrong} words of long vectors have changed"
            );
        }
    }
}

/// Bytes of a vector, as ZCR_EL1 is now.
fn vector_length() -> u64 {
    let length;
    // SAFETY: reads the length; who calls this has SVE.
    unsafe {
        asm!(
            ".arch_extension sve", "rdvl {}, #1", ".arch_extension nosve", out(reg) length,
            options(nomem, nostack, preserves_flags)
        );
    }
    length
}

const THERE: usize = core::mem::offset_of!(More, there);
const ZCR: usize = core::mem::offset_of!(More, zcr);
const KEY: usize = core::mem::offset_of!(More, keys);
const PREDICATES: usize = core::mem::offset_of!(More, predicates);
const Z31: usize = core::mem::offset_of!(More, z31);
const WRONG: usize = core::mem::offset_of!(More, wrong);

global_asm!(
    r#"
    .arch_extension sve
    .arch_extension fp
    .arch_extension simd
    .section .text.frame, "ax"

    // x0: a More, x1: v0 to v31 of the same set. Changes x2.
    .global fill_more
fill_more:
    ldr     x2, [x0, #{there}]
    tbz     x2, #0, 1f
    .macro  write_keys n, more:vararg
    ldr     x2, [x0, #{keys} + 8 * (\n)]
    msr     s3_0_c2_c\more, x2
    .endm
    write_keys 0, 1_0
    write_keys 1, 1_1
    write_keys 2, 1_2
    write_keys 3, 1_3
    write_keys 4, 2_0
    write_keys 5, 2_1
    write_keys 6, 2_2
    write_keys 7, 2_3
    write_keys 8, 3_0
    write_keys 9, 3_1
    isb
1:  ldr     x2, [x0, #{there}]
    tbz     x2, #1, 2f
    ldr     x2, [x0, #{zcr}]
    msr     s3_0_c1_c2_0, x2
    isb
    ptrue   p0.b
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ld1rqb  {{z\n\().b}}, p0/z, [x1]
    add     x1, x1, #16
    .endr
    add     x2, x0, #{predicates}
    ldr     p0, [x2, #16, mul vl]
    wrffr   p0.b
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    ldr     p\n, [x2, #\n, mul vl]
    .endr
2:  ret

    // x0: a More. Changes x1 to x3 and all vectors. (What is there has been
    // copied from the other set.)
    .global collect_more
collect_more:
    ldr     x2, [x0, #{there}]
    tbz     x2, #0, 1f
    .macro  read_keys n, more:vararg
    mrs     x2, s3_0_c2_c\more
    str     x2, [x0, #{keys} + 8 * (\n)]
    .endm
    read_keys 0, 1_0
    read_keys 1, 1_1
    read_keys 2, 1_2
    read_keys 3, 1_3
    read_keys 4, 2_0
    read_keys 5, 2_1
    read_keys 6, 2_2
    read_keys 7, 2_3
    read_keys 8, 3_0
    read_keys 9, 3_1
1:  ldr     x2, [x0, #{there}]
    tbz     x2, #1, 2f
    add     x2, x0, #{predicates}
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    str     p\n, [x2, #\n, mul vl]
    .endr
    rdffr   p0.b
    str     p0, [x2, #16, mul vl]
    add     x2, x0, #{z31}
    str     z31, [x2]
    mov     x1, #0
    ptrue   p0.d
    .macro  look n, scratch
    mov     z\scratch\().q, z\n\().q[0]
    cmpne   p1.d, p0/z, z\n\().d, z\scratch\().d
    cntp    x3, p0, p1.d
    add     x1, x1, x3
    .endm
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    look    \n, 31
    .endr
    ldr     z0, [x2]
    look    0, 1
    str     x1, [x0, #{wrong}]
    mrs     x2, s3_0_c1_c2_0
    str     x2, [x0, #{zcr}]
2:  ret
    .arch_extension nosve
"#,
    there = const THERE, zcr = const ZCR, keys = const KEY, predicates = const PREDICATES,
    z31 = const Z31, wrong = const WRONG,
);
