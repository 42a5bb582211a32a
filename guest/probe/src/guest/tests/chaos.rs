// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random calls, and random accesses to all that is emulated or forbidden, by
//! all CPUs at once. What the firmware answers doesn't matter here: it must
//! live, keep every CPU running, and break nothing for the tests that follow.
//!
//! Each CPU's choices come from a generator with a fixed seed; how many fall to
//! which CPU is a matter of who is faster.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};

use taichi_abi::telemetry::Parked;

use crate::guest::attack::{self, CALLS, MEMORY, SYSTEM};
use crate::guest::console::say;
use crate::guest::cpu::{self, Cpu};
use crate::guest::frame::Pattern;
use crate::guest::report::{check, failing};
use crate::guest::sys::set;
use crate::guest::tests::{exits, park};
use crate::guest::{gic, mmu, sys};

/// How often each test strikes, on all CPUs together.
pub static TIMES: AtomicU64 = AtomicU64::new(1_000_000);

/// Strikes that are left, and CPUs that are through.
static LEFT: AtomicU64 = AtomicU64::new(0);
static THROUGH: AtomicU32 = AtomicU32::new(0);
/// Of each test another.
static SEED: AtomicU64 = AtomicU64::new(0);
/// After so many strikes a CPU checks a whole frame of registers around an exit.
const CHECK: u64 = 512;

type Strike = fn(&'static Cpu, &mut Pattern);

/// SMC and HVC of all kinds.
pub fn calls() {
    everywhere(|me, random| {
        let routine = *pick(CALLS, random);
        let x = [function(random), argument(random), argument(random)];
        // SAFETY: `function` leaves out what ends this CPU or the machine.
        unsafe { attack::at_el1(me, routine, x) };
    });
}

/// Everything that can be executed on the doorbell and the control page.
pub fn doorbell() {
    everywhere(|me, random| {
        let Some(windows) = cpu::machine().windows else {
            return;
        };
        let page = *pick(&[windows.doorbell.base, windows.control.base], random);
        strike(me, page, random);
    });
}

/// Everything on every page that is emulated or forbidden.
pub fn pages() {
    everywhere(|me, random| {
        let page = page(random);
        strike(me, page, random);
    });
}

/// The same, at EL0.
pub fn user() {
    everywhere(|me, random| {
        let address = offset(page(random), random);
        let routine = *pick(MEMORY, random);
        let value = argument(random);
        // SAFETY: none of these pages is memory of ours, and EL0 harms no
        // register that a caller keeps.
        unsafe { attack::at_el0(me, routine, address, value) };
    });
}

/// System registers and instructions that trap, or should.
pub fn registers() {
    everywhere(|me, random| {
        let routine = *pick(SYSTEM, random);
        let address = offset(page(random), random);
        let x = [address, argument(random), argument(random)];
        // SAFETY: no register here is one that this program's memory or flow
        // depends on.
        unsafe { attack::at_el1(me, routine, x) };
    });
}

/// Every private interrupt made pending at every core, native and lent, though
/// no device asked for it; of a higher priority than EL2's own, too.
pub fn strays() {
    for core in cpu::cores() {
        let page = core.frame + gic::SGI_PAGE;
        for priority in [gic::PRIORITY, 0] {
            for intid in 16..32u64 {
                sys::write8(page + 0x400 + intid, priority);
            }
            sys::write32(page + 0x100, 0xffff << 16); // ISENABLER0
            for intid in 16..32 {
                sys::write32(page + 0x200, 1 << intid); // ISPENDR0
                sys::spin(100);
                if core.index != 0 {
                    core.run(|_| {}, 0);
                }
            }
        }
        sys::write32(page + 0x180, 0xffff << 16);
        match core.index {
            0 => mend(core),
            _ => core.run(|_| mend(cpu::this()), 0),
        }
    }
}

/// Lets all CPUs strike until the number is reached, and mends what they broke
/// of this guest's own.
fn everywhere(strike: Strike) {
    LEFT.store(TIMES.load(Relaxed), Relaxed);
    THROUGH.store(0, Relaxed);
    SEED.fetch_add(1, Relaxed);
    let started = sys::now();
    for cpu in cpu::all().iter().skip(1) {
        cpu.post(job, strike as usize as u64);
    }
    job(strike as usize as u64);
    cpu::all().iter().skip(1).for_each(Cpu::join_slowly);
    // Some stores were an operator's.
    park::park(Parked::No);
    let ms = (sys::now() - started) / sys::micros(1_000);
    say!("chaos: {} times in {ms} ms", TIMES.load(Relaxed));
}

fn job(strike: u64) {
    // SAFETY: `everywhere` made it of a `Strike`.
    let strike: Strike = unsafe { core::mem::transmute(strike as usize) };
    let me = cpu::this();
    // EL0 may clean, invalidate and zero.
    set!("sctlr_el1", mmu::SCTLR | 1 << 14 | 1 << 15 | 1 << 26);
    let mut random = Pattern(SEED.load(Relaxed) << 32 | me.index as u64);
    let mut done = 0u64;
    while LEFT
        .try_update(Relaxed, Relaxed, |n| n.checked_sub(1))
        .is_ok()
    {
        strike(me, &mut random);
        done += 1;
        if done.is_multiple_of(CHECK) && !failing() {
            // SGIs may be switched off just now, so none is waited for.
            exits::one(me, 0, done);
        }
    }
    check!(done > 0, "CPU {} never had its turn", me.index);
    THROUGH.fetch_add(1, Relaxed);
    let all = cpu::all().len() as u32;
    while THROUGH.load(Relaxed) < all {
        core::hint::spin_loop();
    }
    mend(me);
}

/// This CPU's part of the interrupt controller, as a CPU that comes up sets it.
fn mend(me: &'static Cpu) {
    let page = me.frame + gic::SGI_PAGE;
    for (register, value) in [
        (0x180, u32::MAX), // ICENABLER0
        (0x280, u32::MAX), // ICPENDR0
        (0x380, u32::MAX), // ICACTIVER0
        (0xc04, 0),        // ICFGR1
        (0xd00, 0),        // IGRPMODR0
    ] {
        sys::write32(page + register, value);
    }
    me.init_self();
    for counter in [&me.timers, &me.early, &me.spurious] {
        counter.store(0, Relaxed);
    }
}

fn strike(me: &'static Cpu, page: u64, random: &mut Pattern) {
    let address = offset(page, random);
    let routine = *pick(MEMORY, random);
    let x = [address, argument(random), argument(random)];
    // SAFETY: none of these pages is memory of ours.
    unsafe { attack::at_el1(me, routine, x) };
}

fn pick<'a, T>(from: &'a [T], random: &mut Pattern) -> &'a T {
    &from[random.next() as usize % from.len()]
}

/// A byte of a page: any, or more often one that is aligned and means something.
fn offset(page: u64, random: &mut Pattern) -> u64 {
    let r = random.next();
    page + match r & 7 {
        0 => r >> 8 & 0xfff,
        1 => r >> 8 & 0xff8,
        2 => r >> 8 & 0x18,
        3 => 0x400 + (r >> 8 & 0x3f),
        _ => r >> 8 & 0xffc,
    }
}

/// A page that is emulated, filtered or forbidden.
fn page(random: &mut Pattern) -> u64 {
    let machine = cpu::machine();
    let (Some(windows), Some(firmware)) = (machine.windows, machine.firmware) else {
        return 0;
    };
    let r = random.next();
    let any = |base: u64, size: u64| base + (r >> 8) % (size >> 12) * 0x1000;
    match r & 7 {
        0 => windows.doorbell.base,
        1 => windows.control.base,
        2 => any(windows.telemetry.base, windows.telemetry.size),
        3 => any(firmware.base, firmware.size),
        4 => machine.gicd + gic::GICD_IROUTER + (r >> 8 & 0x3000),
        5 => any(machine.gicr[1].base, machine.gicr[1].size),
        _ => pick(cpu::all(), random).frame + gic::SGI_PAGE,
    }
}

/// A function of SMCCC: what ends this CPU or the machine is left out, and so
/// is a CPU_ON that would start one at a random place (all are on).
fn function(random: &mut Pattern) -> u64 {
    const PSCI: u64 = 0x8400_0000;
    const SMC64: u64 = 1 << 30;
    // CPU_OFF, SYSTEM_OFF, SYSTEM_RESET, CPU_FREEZE, CPU_DEFAULT_SUSPEND,
    // SYSTEM_SUSPEND, SYSTEM_RESET2, SYSTEM_OFF2; and CPU_SUSPEND, which waits
    // for an interrupt that nobody sends here (`power-suspend` calls it).
    const ENDS: [u64; 9] = [1, 2, 8, 9, 0xb, 0xc, 0xe, 0x12, 0x15];
    const DIE: u64 = taichi_abi::smccc::DIE as u64;
    loop {
        let r = random.next();
        let id = match r & 7 {
            0..4 => PSCI | r >> 8 & (SMC64 | 0x3f),
            4 => r >> 32 & 0xbf00_ffff | SMC64 & r,
            5 => 0xc600_0000 | r >> 8 & 0xffff,
            6 => r >> 32,
            _ => r,
        };
        let low = id & 0xffff_ffff;
        let ends = low & !SMC64 & !0x1f == PSCI && ENDS.contains(&(low & 0x1f));
        if !ends && low != DIE {
            return id;
        }
    }
}

/// An argument: anything, or something that means something.
fn argument(random: &mut Pattern) -> u64 {
    let r = random.next();
    let machine = cpu::machine();
    match r & 15 {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << (r >> 8 & 63),
        3 => r >> 8 & 0x1f,
        4 | 5 => pick(cpu::all(), random).mpidr,
        6 => machine.firmware.map_or(0, |f| f.base + (r >> 8) % f.size),
        7 => 0xa0a0_a0a0,
        _ => r,
    }
}
