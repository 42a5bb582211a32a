// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Exception vectors.
//!
//! Thirty-two equal copies, so that VBAR_EL1 can differ between contexts. A
//! handler keeps all registers but ELR, SPSR, ESR and FAR. A test that expects
//! an abort arms the CPU's [`Cpu::caught`](super::cpu::Cpu) first; then the
//! faulting instruction is skipped.

use core::arch::global_asm;
use core::sync::atomic::Ordering::Relaxed;

use super::sys::{get, set};
use super::{console, cpu, gic, report};

global_asm!(
    r#"
    .macro save_all
    sub     sp, sp, #272
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x29, [sp, #144]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x30, x0, [sp, #160]
    str     x1, [sp, #176]
    .endm

    .macro restore_all
    ldr     x1, [sp, #176]
    ldp     x30, x0, [sp, #160]
    msr     elr_el1, x0
    msr     spsr_el1, x1
    ldp     x18, x29, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp, #0]
    add     sp, sp, #272
    eret
    .endm

    .section .text.vectors, "ax"
vector_irq:
    save_all
    bl      handle_irq
    restore_all
vector_sync:
    save_all
    mov     x0, sp
    bl      handle_sync
    restore_all
// From EL0: leave it, with the syndrome. SP_EL1 is as `into_el0` left it.
vector_el0:
    bl      handle_el0
    mrs     x1, esr_el1
    b       back_from_el0
vector_bad:
    save_all
    bl      handle_bad
    b       .

    .section .vectors, "ax"
    .balign 2048
    .global vectors
vectors:
    .rept 32
    .rept 4
    .balign 128
    b       vector_bad
    .endr
    .balign 128
    b       vector_sync
    .balign 128
    b       vector_irq
    .rept 2
    .balign 128
    b       vector_bad
    .endr
    .balign 128
    b       vector_el0
    .rept 7
    .balign 128
    b       vector_bad
    .endr
    .balign 2048
    .endr
"#
);

unsafe extern "C" {
    static vectors: u8;
}

/// The n-th copy of the vectors, for VBAR_EL1.
pub fn table(n: u64) -> u64 {
    &raw const vectors as u64 + n % 32 * 2048
}

#[unsafe(no_mangle)]
extern "C" fn handle_irq() {
    let intid = gic::acknowledge();
    let me = cpu::this();
    match intid {
        gic::TIMER => me.on_timer(),
        0..16 => {
            me.sgis[intid as usize].fetch_add(1, Relaxed);
            me.in_handler(intid);
        }
        gic::SPECIAL..1024 => {
            me.spurious.fetch_add(1, Relaxed);
            return;
        }
        _ => {
            me.spis.fetch_add(1, Relaxed);
        }
    }
    gic::end(intid);
}

/// Indices of x30 and ELR_EL1 in what `save_all` stores.
const LR: usize = 20;
const ELR: usize = 21;
/// Exception classes: a fetch that aborted, at the same level; one from no
/// multiple of 4.
const FETCH: u64 = 0x21;
const UNALIGNED_FETCH: u64 = 0x22;

#[unsafe(no_mangle)]
extern "C" fn handle_sync(saved: &mut [u64; 34]) {
    let me = cpu::this();
    if me.caught.load(Relaxed) == cpu::EXPECT_ABORT {
        me.caught_far.store(get!("far_el1"), Relaxed);
        me.caught.store(get!("esr_el1"), Relaxed);
        saved[ELR] = match get!("esr_el1") >> 26 {
            FETCH | UNALIGNED_FETCH => saved[LR],
            _ => saved[ELR] + 4,
        };
        return;
    }
    dump("a synchronous exception");
}

/// Gives where this CPU's [`into_el0`](super::attack) kept its registers.
#[unsafe(no_mangle)]
extern "C" fn handle_el0() -> *const u64 {
    cpu::this().el0.as_ptr().cast()
}

#[unsafe(no_mangle)]
extern "C" fn handle_bad() -> ! {
    dump("an exception that nothing here causes")
}

fn dump(what: &str) -> ! {
    console::last_words(format_args!(
        "FAIL exception: {what}: ESR {:#x} ELR {:#x} FAR {:#x} SPSR {:#x} MPIDR {:#x}",
        get!("esr_el1"),
        get!("elr_el1"),
        get!("far_el1"),
        get!("spsr_el1"),
        get!("mpidr_el1"),
    ));
    set!("daif", 0x3c0);
    report::give_up()
}
