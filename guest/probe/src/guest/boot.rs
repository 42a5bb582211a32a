// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The `Image` header, self-relocation, and where CPUs enter.
//!
//! The boot protocol gives the first CPU the tree's address in x0, MMU off. A
//! secondary gets its [`Cpu`](super::cpu::Cpu) as PSCI's context id in x0.

use core::arch::global_asm;

use super::cpu::Cpu;

global_asm!(
    r#"
    .section .head, "ax"
    .global image_head
image_head:
    b       image_start
    .long   0
    .quad   0                           // text_offset
    .quad   image_end - image_head      // bytes it needs, .bss included
    .quad   0xa                         // little-endian, 4 KiB pages, anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

image_start:
    msr     daifset, #15
    mrs     x1, currentel
    cmp     x1, #4                      // EL1 is where it belongs
    b.ne    .
    // Every pointer in data was linked for base 0: add where we are.
    adrp    x1, rela_start
    add     x1, x1, :lo12:rela_start
    adrp    x2, rela_end
    add     x2, x2, :lo12:rela_end
    adrp    x3, image_head
1:  cmp     x1, x2
    b.hs    2f
    ldp     x4, x5, [x1], #16           // offset, type
    ldr     x6, [x1], #8                // addend
    cmp     w5, #1027                   // R_AARCH64_RELATIVE
    b.ne    .
    add     x6, x6, x3
    str     x6, [x4, x3]
    b       1b
2:  adrp    x1, bss_start
    adrp    x2, bss_end
3:  cmp     x1, x2
    b.hs    4f
    stp     xzr, xzr, [x1], #16
    b       3b
4:  adrp    x1, boot_stack
    add     x1, x1, #{stack}
    mov     sp, x1
    bl      first_cpu
    b       .

    .section .text.secondary, "ax"
    .global secondary_entry
secondary_entry:
    msr     daifset, #15
    ldr     x1, [x0, #{stack_top}]
    mov     sp, x1
    bl      next_cpu
    b       .

    .section .bss.boot_stack, "aw", %nobits
    .balign 4096
boot_stack:
    .space  {stack}
"#,
    stack = const 65536,
    stack_top = const core::mem::offset_of!(Cpu, stack_top),
);

unsafe extern "C" {
    fn secondary_entry();
}

/// Where PSCI CPU_ON sends a CPU, with its [`Cpu`] as the context id.
pub fn entry() -> u64 {
    secondary_entry as *const () as u64
}
