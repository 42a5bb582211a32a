// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Exception entry and exit, and the world switch.
//!
//! Why it looks like this: almost every exception returns to the context that
//! it came from. Entry saves the general registers straight into the current
//! context: x0-x18 and x30 because Rust may change them, x19-x29 because the
//! handler may have to read any register that a trapped instruction names. The
//! way back reloads x0-x18 and x30 alone, Rust having kept the others, unless
//! the handler wrote one. Only when it says "switch" is the rest of the world
//! saved, which is why the switch can't be a function that a handler calls.
//!
//! SP_EL2 is at the top of the core's stack at every entry; the slot there
//! holds the address of the [`Core`], whose first field is the current context.

use crate::context::Context;
use crate::percore::Core;
use core::arch::global_asm;
use core::mem::offset_of;

global_asm!(
    r#"
    .macro enter_and_call handler
        stp x0, x1, [sp, #-16]!
        ldr x0, [sp, #16]
        ldr x1, [x0]
        stp x2, x3, [x1, #{x} + 16]
        stp x4, x5, [x1, #{x} + 32]
        stp x6, x7, [x1, #{x} + 48]
        stp x8, x9, [x1, #{x} + 64]
        stp x10, x11, [x1, #{x} + 80]
        stp x12, x13, [x1, #{x} + 96]
        stp x14, x15, [x1, #{x} + 112]
        stp x16, x17, [x1, #{x} + 128]
        stp x18, x19, [x1, #{x} + 144]
        stp x20, x21, [x1, #{x} + 160]
        stp x22, x23, [x1, #{x} + 176]
        stp x24, x25, [x1, #{x} + 192]
        stp x26, x27, [x1, #{x} + 208]
        stp x28, x29, [x1, #{x} + 224]
        str x30, [x1, #{x} + 240]
        ldp x2, x3, [sp], #16
        stp x2, x3, [x1, #{x}]
        bl \handler
        b taichi_leave
    .endm
    // x1: the current context.
    .macro restore_and_leave
        ldp x2, x3, [x1, #{x} + 16]
        ldp x4, x5, [x1, #{x} + 32]
        ldp x6, x7, [x1, #{x} + 48]
        ldp x8, x9, [x1, #{x} + 64]
        ldp x10, x11, [x1, #{x} + 80]
        ldp x12, x13, [x1, #{x} + 96]
        ldp x14, x15, [x1, #{x} + 112]
        ldp x16, x17, [x1, #{x} + 128]
        ldr x18, [x1, #{x} + 144]
        ldr x30, [x1, #{x} + 240]
        ldp x0, x1, [x1, #{x}]
        eret
    .endm
    // One exception from below.
    .macro below handler
        .balign 128
        enter_and_call \handler
    .endm
    // One that must not happen: fault at EL2, or AArch32.
    .macro fatal number
        .balign 128
        msr tpidr_el0, x0
        mov x0, #\number
        b taichi_fatal_entry
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .global taichi_vectors
    taichi_vectors:
        fatal 0
        fatal 1
        fatal 2
        fatal 3
        fatal 4
        fatal 5
        fatal 6
        fatal 7
        below taichi_sync
        below taichi_irq
        fatal 10
        below taichi_serror
        fatal 12
        fatal 13
        fatal 14
        fatal 15

    // w0: 0 resume, 1 switch, 2 reload.
    taichi_leave:
        cbnz w0, 1f
        ldr x1, [sp]
        ldr x1, [x1]
        restore_and_leave
    1:  tbnz w0, #1, 2f
        ldr x0, [sp]
        bl taichi_world_switch
        mov x1, x0
    // x1: the current context.
    taichi_resume:
        ldp x19, x20, [x1, #{x} + 152]
        ldp x21, x22, [x1, #{x} + 168]
        ldp x23, x24, [x1, #{x} + 184]
        ldp x25, x26, [x1, #{x} + 200]
        ldp x27, x28, [x1, #{x} + 216]
        ldr x29, [x1, #{x} + 232]
        restore_and_leave
    2:  ldr x1, [sp]
        ldr x1, [x1]
        b taichi_resume

    // x0: the core. Enters its current context, which is loaded.
    .global taichi_enter
    taichi_enter:
        ldr x1, [x0, #{stack_top}]
        mov sp, x1
        ldr x1, [x0]
        b taichi_resume

    // x0: vector number. A stack of its own, because the fault may be the
    // stack's, with all registers at its top. The machine ends here, so nobody
    // will miss the thread pointers of EL0 and EL1, which hold x0-x2 meanwhile.
    taichi_fatal_entry:
        msr tpidrro_el0, x1
        msr tpidr_el1, x2
        mrs x1, tpidr_el2
        and x1, x1, #0xf
        add x1, x1, #1
        adrp x2, __fault_stacks_start
        add x2, x2, :lo12:__fault_stacks_start
        add x1, x2, x1, lsl #13
        mrs x2, tpidr_el1
        stp x2, x3, [x1, #-240]
        stp x4, x5, [x1, #-224]
        stp x6, x7, [x1, #-208]
        stp x8, x9, [x1, #-192]
        stp x10, x11, [x1, #-176]
        stp x12, x13, [x1, #-160]
        stp x14, x15, [x1, #-144]
        stp x16, x17, [x1, #-128]
        stp x18, x19, [x1, #-112]
        stp x20, x21, [x1, #-96]
        stp x22, x23, [x1, #-80]
        stp x24, x25, [x1, #-64]
        stp x26, x27, [x1, #-48]
        stp x28, x29, [x1, #-32]
        mov x2, sp
        stp x30, x2, [x1, #-16]
        mrs x2, tpidr_el0
        mrs x3, tpidrro_el0
        stp x2, x3, [x1, #-256]!
        mov sp, x1
        bl taichi_fatal
    1:  wfi
        b 1b
    "#,
    stack_top = const offset_of!(Core, stack_top),
    x = const offset_of!(Context, x),
);

#[allow(improper_ctypes, reason = "an opaque pointer to the assembly")]
unsafe extern "C" {
    /// The vector table, for VBAR_EL2.
    pub(crate) safe static taichi_vectors: u8;
    /// Leaves EL2 into the current context of `core`.
    pub(crate) fn taichi_enter(core: *mut Core) -> !;
}

/// What a handler decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[repr(u32)]
pub enum Outcome {
    /// Return to the context that was interrupted.
    Resume = 0,
    /// Return to the vCPU that was chosen with [`Core::try_choose`] or
    /// [`Core::choose`], or else to the native context.
    Switch = 1,
    /// As `Resume`, and one of its general registers has changed: see
    /// [`Core::give`].
    Reload = 2,
}

/// Names the functions of the firmware that this crate calls: `boot:
/// fn(boot::Loaded) -> !` on the boot core, `core_up: fn(&'static mut Core) ->
/// !` on every other, and `fn(&mut Core) -> Outcome` for exceptions from below.
#[macro_export]
macro_rules! handlers {
    (boot: $boot:path, core_up: $core_up:path, sync: $sync:path, irq: $irq:path, serror: $serror:path $(,)?) => {
        $crate::handlers!(@one taichi_sync, $sync);
        $crate::handlers!(@one taichi_irq, $irq);
        $crate::handlers!(@one taichi_serror, $serror);

        #[allow(unsafe_code)]
        const _: () = {
            // SAFETY: the name is this macro's alone.
            #[unsafe(no_mangle)]
            extern "C" fn taichi_boot(loaded: $crate::boot::Loaded) -> ! {
                $boot(loaded)
            }
            // SAFETY: as above.
            #[unsafe(no_mangle)]
            extern "C" fn taichi_core_up(core: &'static mut $crate::percore::Core) -> ! {
                $core_up(core)
            }
        };
    };
    (@one $name:ident, $handler:path) => {
        #[allow(unsafe_code)]
        const _: () = {
            // SAFETY: the name is this macro's alone; the vectors call it with
            // this core's `Core`, which nothing else refers to meanwhile.
            #[unsafe(no_mangle)]
            extern "C" fn $name(core: &mut $crate::percore::Core) -> $crate::vectors::Outcome {
                $handler(core)
            }
        };
    };
}
