// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Everything a context owns, as one frame: filled with a pattern of its own
//! before an exit, collected after it, and compared.
//!
//! The frame is at SP_EL1 while the pattern is loaded, so SP_EL1 is the
//! context's own too. IRQs are masked at EL1 all the while (ELR and SPSR are
//! part of the pattern); EL2 takes its interrupts none the less.

use core::arch::global_asm;

use super::cpu::Cpu;
use super::more::More;
use super::report::check;
use super::sys::{get, set};
use super::{mmu, vectors};

/// Declares the system registers of a context, in the order of their slots.
macro_rules! registers {
    ($($id:ident $name:literal $mask:literal,)*) => {
        /// A system register's slot in [`Registers::system`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the names are the manual's")]
        pub enum Register { $($id,)* }

        /// Name and compared bits of each slot.
        pub const REGISTERS: &[(Register, &str, u64)] =
            &[$((Register::$id, $name, $mask),)*];

        global_asm!(
            ".section .text.frame, \"ax\"",
            "fill_system:",
            "add x1, sp, #{want}",
            $(concat!("ldr x0, [x1], #8\n msr ", $name, ", x0"),)*
            "isb",
            "ret",
            "collect_system:",
            "add x1, sp, #{got}",
            $(concat!("mrs x0, ", $name, "\n str x0, [x1], #8"),)*
            "ret",
            want = const WANT + SYSTEM,
            got = const GOT + SYSTEM,
        );
    };
}

registers! {
    Sctlr "sctlr_el1" 0xffff_ffff,
    Ttbr0 "ttbr0_el1" 0xffff_ffff_ffff_ffff,
    Ttbr1 "ttbr1_el1" 0xffff_ffff_ffff_ffff,
    Tcr "tcr_el1" 0xffff_ffff_ffff_ffff,
    Mair "mair_el1" 0xffff_ffff_ffff_ffff,
    Amair "amair_el1" 0xffff_ffff_ffff_ffff,
    Vbar "vbar_el1" 0xffff_ffff_ffff_ffff,
    Contextidr "contextidr_el1" 0xffff_ffff,
    Cpacr "cpacr_el1" 0x0030_0000,
    SpEl0 "sp_el0" 0xffff_ffff_ffff_ffff,
    TpidrEl0 "tpidr_el0" 0xffff_ffff_ffff_ffff,
    TpidrroEl0 "tpidrro_el0" 0xffff_ffff_ffff_ffff,
    TpidrEl1 "tpidr_el1" 0xffff_ffff_ffff_ffff,
    Elr "elr_el1" 0xffff_ffff_ffff_ffff,
    Spsr "spsr_el1" 0xffff_ffff,
    Esr "esr_el1" 0xffff_ffff,
    Far "far_el1" 0xffff_ffff_ffff_ffff,
    Afsr0 "afsr0_el1" 0xffff_ffff,
    Afsr1 "afsr1_el1" 0xffff_ffff,
    Par "par_el1" 0x000f_ffff_ffff_f000,
    Csselr "csselr_el1" 0xf,
    Cntkctl "cntkctl_el1" 0x3ff,
    CntvCval "cntv_cval_el0" 0xffff_ffff_ffff_ffff,
    CntvCtl "cntv_ctl_el0" 7,
    Mdscr "mdscr_el1" 0xffff_ffff,
    Pmr "icc_pmr_el1" 0xff,
    Igrpen1 "icc_igrpen1_el1" 1,
    Bpr1 "icc_bpr1_el1" 7,
    Ctlr "icc_ctlr_el1" 3,
    Fpcr "s3_3_c4_c4_0" 0xffff_ffff,
    Fpsr "s3_3_c4_c4_1" 0xffff_ffff,
    Daif "daif" 0x3c0,
    Pan "s3_0_c4_c2_3" 0x0040_0000,
}

/// How many system registers there are.
pub const COUNT: usize = REGISTERS.len();

/// One set of values.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct Registers {
    /// v0-v31.
    pub v: [u128; 32],
    /// x0-x30.
    pub x: [u64; 31],
    /// NZCV.
    pub nzcv: u64,
    /// By [`Register`].
    pub system: [u64; COUNT],
    /// What only some cores have.
    pub more: More,
    /// MPIDR_EL1, only collected.
    pub mpidr: u64,
    /// ICC_RPR_EL1, only collected.
    pub rpr: u64,
}

/// What must be, and what was found.
#[repr(C, align(16))]
pub struct Frame {
    /// What is loaded, and then what is expected.
    pub want: Registers,
    /// What was collected.
    pub got: Registers,
    caller: [u64; 14],
}

const WANT: usize = core::mem::offset_of!(Frame, want);
const GOT: usize = core::mem::offset_of!(Frame, got);
const CALLER: usize = core::mem::offset_of!(Frame, caller);
const V: usize = core::mem::offset_of!(Registers, v);
const X: usize = core::mem::offset_of!(Registers, x);
const NZCV: usize = core::mem::offset_of!(Registers, nzcv);
const SYSTEM: usize = core::mem::offset_of!(Registers, system);
const MORE: usize = core::mem::offset_of!(Registers, more);
const MPIDR: usize = core::mem::offset_of!(Registers, mpidr);
const RPR: usize = core::mem::offset_of!(Registers, rpr);

const _: () = assert!(size_of::<Frame>().is_multiple_of(16));

global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd
    .section .text.frame, "ax"

    // x0: action, x1: frame. Callee-saved registers and the stack pointer go
    // to the frame; SP becomes the frame.
    .global run_in_frame
run_in_frame:
    add     x2, x1, #{caller}
    mov     x3, sp
    stp     x19, x20, [x2, #0]
    stp     x21, x22, [x2, #16]
    stp     x23, x24, [x2, #32]
    stp     x25, x26, [x2, #48]
    stp     x27, x28, [x2, #64]
    stp     x29, x30, [x2, #80]
    str     x3, [x2, #96]
    mov     sp, x1
    br      x0

    // Loads all but x30, whose value the action loads itself.
    .global fill
fill:
    mov     x17, x30
    bl      fill_system
    mov     x30, x17
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ldr     q\n, [sp, #{want_v} + 16 * \n]
    .endr
    add     x0, sp, #{want_more}
    add     x1, sp, #{want_v}
    bl      fill_more
    mov     x30, x17
    ldr     x0, [sp, #{want_nzcv}]
    msr     nzcv, x0
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29
    ldr     x\n, [sp, #{want_x} + 8 * \n]
    .endr
    ret

    // Stores all but x30, which the action stored itself, and returns from
    // `run_in_frame`.
    .global collect
collect:
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29
    str     x\n, [sp, #{got_x} + 8 * \n]
    .endr
    mrs     x0, nzcv
    str     x0, [sp, #{got_nzcv}]
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    str     q\n, [sp, #{got_v} + 16 * \n]
    .endr
    add     x0, sp, #{got_more}
    bl      collect_more
    bl      collect_system
    mrs     x0, mpidr_el1
    str     x0, [sp, #{got_mpidr}]
    mrs     x0, icc_rpr_el1
    str     x0, [sp, #{got_rpr}]
    add     x2, sp, #{caller}
    ldp     x19, x20, [x2, #0]
    ldp     x21, x22, [x2, #16]
    ldp     x23, x24, [x2, #32]
    ldp     x25, x26, [x2, #48]
    ldp     x27, x28, [x2, #64]
    ldp     x29, x30, [x2, #80]
    ldr     x3, [x2, #96]
    mov     sp, x3
    ret
"#,
    caller = const CALLER,
    want_more = const WANT + MORE, got_more = const GOT + MORE,
    want_v = const WANT + V, want_x = const WANT + X, want_nzcv = const WANT + NZCV,
    got_v = const GOT + V, got_x = const GOT + X, got_nzcv = const GOT + NZCV,
    got_mpidr = const GOT + MPIDR, got_rpr = const GOT + RPR,
);

/// Declares what may be executed between fill and collect: single exits, with
/// their operands in x0 and x1, and loops.
macro_rules! actions {
    ($($name:ident = $code:literal,)*) => {
        unsafe extern "C" { $(fn $name();)* }

        global_asm!(
            ".section .text.frame, \"ax\"",
            $(concat!(
                stringify!($name), ":\n bl fill\n ldr x30, [sp, #{want_x30}]\n",
                $code,
                "\n str x30, [sp, #{got_x30}]\n b collect"
            ),)*
            want_x30 = const WANT + X + 8 * 30,
            got_x30 = const GOT + X + 8 * 30,
        );

        /// What is executed between fill and collect.
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs, non_camel_case_types, reason = "one instruction each, named after it")]
        pub enum Action { $($name,)* }

        impl Action {
            fn code(self) -> u64 {
                match self { $(Self::$name => $name as *const () as u64,)* }
            }
        }
    };
}

actions! {
    act_nop = "nop",
    act_hvc = "hvc #0",
    act_smc = "smc #0",
    act_wfi = "wfi",
    act_send_sgi = "msr icc_sgi1r_el1, x0",
    act_read_ctlr = "mrs x0, icc_ctlr_el1",
    act_write_ctlr = "msr icc_ctlr_el1, x0",
    act_read_pmr = "mrs x0, icc_pmr_el1",
    act_write_pmr = "msr icc_pmr_el1, x0",
    act_read_rpr = "mrs x0, icc_rpr_el1",
    act_load64 = "ldr x1, [x0]",
    act_load32 = "ldr w1, [x0]",
    act_load8 = "ldrb w1, [x0]",
    act_load_zero = "ldr xzr, [x0]",
    act_load_signed = "ldrsw x1, [x0]",
    act_store64 = "str x1, [x0]",
    act_store32 = "str w1, [x0]",
    act_store8 = "strb w1, [x0]",
    act_until = "1: ldr x1, [x0]\n cbz x1, 1b",
    act_until_high = "1: ldr x28, [x27]\n cbz x28, 1b",
    act_count = "1: sub x1, x1, #1\n cbnz x1, 1b",
}

unsafe extern "C" {
    fn run_in_frame(action: u64, frame: *mut Frame);
}

/// A small generator of patterns (splitmix64).
pub struct Pattern(pub u64);

impl Pattern {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

impl Frame {
    /// A frame with a pattern that no other CPU or round has.
    pub fn new(cpu: &Cpu, round: u64) -> Self {
        let mut pattern = Pattern(round << 8 | cpu.index as u64);
        let mut want = Registers {
            v: [0; 32],
            x: [0; 31],
            nzcv: pattern.next() & 0xf000_0000,
            system: [0; COUNT],
            more: More::new(&mut pattern),
            mpidr: cpu.mpidr,
            rpr: 0xff,
        };
        for x in &mut want.x {
            *x = pattern.next();
        }
        for v in &mut want.v {
            *v = u128::from(pattern.next()) << 64 | u128::from(pattern.next());
        }
        for (slot, &(register, ..)) in want.system.iter_mut().zip(REGISTERS) {
            *slot = legal(register, pattern.next(), cpu);
        }
        Self {
            want,
            got: want,
            caller: [0; 14],
        }
    }

    /// Sets an operand.
    pub fn x(mut self, n: usize, value: u64) -> Self {
        self.want.x[n] = value;
        self
    }

    /// Sets a system register.
    pub fn with(mut self, register: Register, value: u64) -> Self {
        self.want.system[register as usize] = value;
        self
    }

    /// The frame is used inside a handler whose interrupt has this priority.
    pub fn active(mut self, priority: u8) -> Self {
        self.want.rpr = priority.into();
        self
    }

    /// Loads the pattern, executes the action, collects, and settles on the
    /// registers that the rest of this program runs with.
    pub fn run(mut self, action: Action) -> Self {
        self.got.v = [0; 32];
        self.got.x = [0; 31];
        self.got.system = [0; COUNT];
        let daif = get!("daif");
        super::sys::mask();
        // SAFETY: the frame is exclusively ours; the pattern's translation
        // registers map this program as before; IRQs are masked, so nothing
        // else runs on SP meanwhile but the abort handler, below the frame.
        unsafe { run_in_frame(action.code(), &raw mut self) };
        settle();
        set!("daif", daif);
        self
    }

    /// The action changes this register to a known value.
    pub fn gives(mut self, n: usize, value: u64) -> Self {
        self.want.x[n] = value;
        self
    }

    /// The action changes this system register to a known value.
    pub fn becomes(mut self, register: Register, value: u64) -> Self {
        self.want.system[register as usize] = value;
        self
    }

    /// The action may change this register to anything.
    pub fn any(mut self, n: usize) -> Self {
        self.want.x[n] = self.got.x[n];
        self
    }

    /// The action may change this system register to anything.
    pub fn any_system(mut self, register: Register) -> Self {
        self.want.system[register as usize] = self.got.system[register as usize];
        self
    }

    /// Fails the running test if anything changed that the action doesn't
    /// change.
    pub fn verify(&self, what: &str) {
        let mpidr = self.want.mpidr;
        let (want, got) = (&self.want, &self.got);
        let found = got.mpidr & 0xff_00ff_ffff;
        check!(
            found == mpidr,
            "{what}: CPU {mpidr:#x}: MPIDR became {found:#x}"
        );
        check!(
            got.rpr == want.rpr,
            "{what}: CPU {mpidr:#x}: RPR {:#x}, not {:#x}",
            got.rpr,
            want.rpr
        );
        check!(
            got.nzcv == want.nzcv,
            "{what}: CPU {mpidr:#x}: NZCV changed"
        );
        for (n, (w, g)) in want.x.iter().zip(&got.x).enumerate() {
            check!(w == g, "{what}: CPU {mpidr:#x}: x{n} is {g:#x}, not {w:#x}");
        }
        for (n, (w, g)) in want.v.iter().zip(&got.v).enumerate() {
            check!(w == g, "{what}: CPU {mpidr:#x}: v{n} is {g:#x}, not {w:#x}");
        }
        want.more.verify(&got.more, what, mpidr);
        for (n, &(_, name, mask)) in REGISTERS.iter().enumerate() {
            let (w, g) = (want.system[n] & mask, got.system[n] & mask);
            check!(
                w == g,
                "{what}: CPU {mpidr:#x}: {name} is {g:#x}, not {w:#x}"
            );
        }
    }
}

/// Makes a random value one that the register may hold while this program
/// runs. What no EL1 could tell apart on any core stays as it is.
fn legal(register: Register, r: u64, cpu: &Cpu) -> u64 {
    use Register::*;
    let pick = |choices: &[u64]| choices[r as usize % choices.len()];
    match register {
        // Traps and cache maintenance at EL0, where nothing runs.
        Sctlr => mmu::SCTLR ^ r & (1 << 9 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 18 | 1 << 26),
        Ttbr0 => cpu.ttbr0(),
        // Nothing is translated through TTBR1 (EPD1), so its half of TCR is free.
        Tcr => mmu::tcr() ^ r & (0xf << 24 | 7 << 16 | 1 << 38),
        Mair => mmu::MAIR | pick(&[0x44, 0xff, 0x04, 0xbb]) << 16 | pick(&[0x04, 0x44, 0xff]) << 56,
        Vbar => vectors::table(r),
        Contextidr | Esr => r & 0xffff_ffff,
        Cpacr => pick(&[1 << 20, 3 << 20]) | 3 << 16,
        Elr => r & 0xffff_ffff_fffc,
        Spsr => r & 0xf000_0000 | 0x3c5,
        Amair | Afsr0 | Afsr1 => 0,
        Par => r & 0xffff_ffff_f000,
        Csselr => r % 4,
        Cntkctl => r & 0x3f3,
        // So far away that it never fires, and a test of 64-bit comparisons.
        CntvCval => r >> 1 | 1 << 62,
        CntvCtl => pick(&[0, 1, 2, 3]),
        // Armed or not; nothing is set that could hit.
        Mdscr => pick(&[0, 1 << 12, 1 << 12 | 1 << 15, 1 << 13 | 1 << 15]),
        // Below the priority of every interrupt that is enabled.
        Pmr => pick(&[0xf0, 0xe0, 0xc0, 0xb8]),
        Igrpen1 => 1,
        Bpr1 => pick(&[3, 4, 5, 6]),
        Ctlr => 0,
        Fpcr => r & 0x07c0_0000,
        Fpsr => r & 0x0800_009f,
        Daif => r & 0x340 | 0x80,
        Pan => r & 0x0040_0000,
        Ttbr1 | SpEl0 | TpidrEl0 | TpidrroEl0 | TpidrEl1 | Far => r,
    }
}

/// Back to what the rest of this program expects.
fn settle() {
    set!("cntv_ctl_el0", 0);
    set!("icc_pmr_el1", 0xf0);
    set!("icc_bpr1_el1", 3);
    set!("s3_0_c4_c2_3", 0);
    set!("s3_3_c4_c4_0", 0);
}
