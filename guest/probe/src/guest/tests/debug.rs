// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Watchpoints and breakpoints of all CPUs at once, each with places of its own:
//! a CPU stops at these and at no others, wherever it runs.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::guest::cpu::{self, Cpu};
use crate::guest::report::check;
use crate::guest::sys::{self, get, set};
use crate::guest::tree::MAX_CPUS;

const ROUNDS: u64 = 60;
/// Exception classes of EL1's own: breakpoint, watchpoint.
const BREAKPOINT: u64 = 0x31;
const WATCHPOINT: u64 = 0x35;
/// Enabled, at EL1, all four bytes.
const BREAK_CONTROL: u64 = 1 | 1 << 1 | 0xf << 5;
/// Enabled, at EL1, stores, all eight bytes.
const WATCH_CONTROL: u64 = 1 | 1 << 1 | 2 << 3 | 0xff << 5;
/// MDSCR_EL1: MDE, KDE.
const ARMED: u64 = 1 << 15 | 1 << 13;

static WORDS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

global_asm!(
    r#"
    .section .text.places, "ax"
    .balign 8
places:
    .rept   64
    nop
    ret
    .endr
"#
);

unsafe extern "C" {
    fn places();
}

/// A function that does nothing, one for each CPU.
fn place(n: usize) -> u64 {
    places as *const () as u64 + 8 * n as u64
}

/// All CPUs at once.
pub fn everywhere() {
    cpu::all().iter().skip(1).for_each(|c| c.post(armed, 0));
    armed(0);
    cpu::all().iter().skip(1).for_each(Cpu::join);
}

fn armed(_: u64) {
    let me = cpu::this();
    let word = WORDS[me.index].as_ptr() as u64;
    set!("dbgwvr0_el1", word);
    set!("dbgwcr0_el1", WATCH_CONTROL);
    set!("dbgbvr0_el1", place(me.index));
    set!("dbgbcr0_el1", BREAK_CONTROL);
    set!("mdscr_el1", ARMED);
    for round in 0..ROUNDS {
        for (n, word) in WORDS.iter().enumerate().take(cpu::all().len()) {
            let class = stops(me, || sys::write64(word.as_ptr() as u64, round));
            expect(me, n, class, WATCHPOINT, "store");
            let class = stops(me, || call(place(n)));
            expect(me, n, class, BREAKPOINT, "call");
        }
        check!(
            get!("mdscr_el1") == ARMED && get!("dbgwvr0_el1") == word,
            "CPU {}: debug registers have changed",
            me.index
        );
        // The core is lent, or given up.
        sys::mask();
        let deadline = sys::now() + sys::micros(20);
        set!("cntv_cval_el0", deadline);
        set!("cntv_ctl_el0", 1);
        sys::wfi();
        sys::unmask();
    }
    set!("mdscr_el1", 0);
    set!("dbgwcr0_el1", 0);
    set!("dbgbcr0_el1", 0);
}

/// The class of the exception that `f` causes, or 0.
fn stops(me: &Cpu, f: impl FnOnce()) -> u64 {
    me.caught.store(cpu::EXPECT_ABORT, Relaxed);
    // Debug exceptions are masked but here (PSTATE.D): an interrupt that comes
    // meanwhile masks them itself.
    set!("daif", get!("daif") & !(1 << 9));
    f();
    set!("daif", get!("daif") | 1 << 9);
    match me.caught.swap(0, Relaxed) {
        cpu::EXPECT_ABORT => 0,
        syndrome => syndrome >> 26,
    }
}

fn call(address: u64) {
    // SAFETY: one of `places`, which are functions without arguments.
    let place: extern "C" fn() = unsafe { core::mem::transmute(address as usize) };
    place();
}

fn expect(me: &Cpu, n: usize, class: u64, own: u64, what: &str) {
    let wanted = if n == me.index { own } else { 0 };
    check!(
        class == wanted,
        "CPU {}: a {what} at CPU {n}'s place: exception {class:#x}, not {wanted:#x}",
        me.index
    );
}
