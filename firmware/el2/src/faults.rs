// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ways to die, for tests of what follows: built with the feature `faults`
//! alone. Each breaks a rule on purpose that the hardware is to enforce.

use crate::fault::{self, step};
use crate::memory;
use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use taichi_abi::smccc::Death;

/// Bit n: a fault before step n of dying.
static BEFORE: AtomicU32 = AtomicU32::new(0);
/// A fault while the epitaph is half written.
static IN_THE_MIDST: AtomicU32 = AtomicU32::new(0);

/// Dies in the way with this number. Where the rule isn't enforced, says so.
pub fn die(number: u64) -> ! {
    let Some(death) = Death::from_number(number) else {
        fault::die("a guest asked for a death that nobody knows")
    };
    match death {
        Death::Panic => panic!("a guest asked for it"),
        Death::GiveUp => fault::die("a guest asked to give up"),
        Death::Load => load(),
        Death::StoreText => store(memory::text().end - 8),
        Death::RunData => run(memory::heap().end - 8),
        Death::Stack => {
            black_box(recurse(1));
        }
        Death::Second => {
            while !fault::is_dying() {}
            fault::die("a guest asked to give up second");
        }
        Death::Again => {
            IN_THE_MIDST.store(1, Relaxed);
            load();
        }
        Death::Always => {
            IN_THE_MIDST.store(1, Relaxed);
            BEFORE.store(
                1 << step::NOTE | 1 << step::PRINT | 1 << step::KEEP,
                Relaxed,
            );
            load();
        }
    }
    fault::die("not caught")
}

/// Called before a step of dying.
pub(crate) fn before(step: u32) {
    if BEFORE.load(Relaxed) & 1 << step != 0 {
        load();
    }
}

/// Called while the epitaph is half written.
pub(crate) fn in_the_midst() {
    if IN_THE_MIDST.load(Relaxed) != 0 {
        load();
    }
}

/// Loads from an address that EL2 doesn't map: an emulated frame's.
fn load() {
    // SAFETY: not mapped; mapped it would be RAM that nobody uses.
    unsafe { asm!("ldr {0}, [{0}]", inout(reg) memory::frames().start => _, options(nostack)) };
}

/// Stores where nothing may be stored: what is there already.
fn store(at: u64) {
    // SAFETY: should it succeed, nothing has changed.
    unsafe { asm!("ldr {1}, [{0}]", "str {1}, [{0}]", in(reg) at, out(reg) _, options(nostack)) };
}

/// Executes a return instruction in data.
fn run(at: u64) {
    // SAFETY: the end of the heap, which is far from full; what is executed, if
    // it is, comes right back.
    unsafe {
        (at as *mut u32).write_volatile(0xd65f_03c0);
        asm!("dsb sy", "ic iallu", "dsb sy", "isb", "blr {}", in(reg) at, clobber_abi("C"));
    }
}

/// Uses up the stack, a quarter of a page at a time.
#[inline(never)]
#[allow(unconditional_recursion, reason = "what it is for")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 128]);
    recurse(depth + 1) + frame[depth as usize % 128]
}
