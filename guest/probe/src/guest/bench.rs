// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Instruction counts of the firmware's paths.
//!
//! The machine must count instructions (QEMU `-icount shift=0`) and its
//! counter must tick once for each (`cntfrq=1000000000`); both are checked. A
//! count is what two reads of CNTVCT_EL0 around an instruction differ by, less
//! what they differ by with nothing between: the trapping instruction, the
//! firmware, and its ERET.
//!
//! Where another core can execute meanwhile, a round that it disturbed is
//! longer; so the smallest of all rounds is the count, and how many rounds
//! agree with it is printed beside it.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use taichi_abi::{doorbell, smccc};

use super::attack;
use super::console::say;
use super::cpu::{self, Cpu};
use super::gic;
use super::mmu;
use super::psci;
use super::report::check;
use super::sys::{self, get, set};

/// Rounds of every measurement.
const ROUNDS: usize = 64;

/// Reads the counter around an instruction with x0 and x1 as its operands.
macro_rules! around {
    ($code:literal, $x0:expr) => {{
        let (before, after): (u64, u64);
        // SAFETY: the instruction traps to the firmware, which keeps memory
        // and all registers but x0-x3.
        unsafe {
            asm!(
                "isb",
                "mrs x10, cntvct_el0",
                $code,
                "mrs x11, cntvct_el0",
                out("x10") before,
                out("x11") after,
                inout("x0") $x0 => _,
                out("x1") _, out("x2") _, out("x3") _,
            )
        };
        (before, after)
    }};
}

fn nothing() -> u64 {
    let (before, after) = around!("", 0u64);
    after - before
}

fn hundred() -> u64 {
    let (before, after) = around!(".rept 100\nnop\n.endr", 0u64);
    after - before
}

fn null_trap() -> u64 {
    let (before, after) = around!("hvc #0", u64::from(smccc::VERSION));
    after - before
}

fn yield_core() -> (u64, u64) {
    around!("ldr x1, [x0]", yield_register())
}

fn wfi() -> (u64, u64) {
    around!("wfi", 0u64)
}

fn send(sgi1r: u64) -> u64 {
    let (before, after) = around!("msr icc_sgi1r_el1, x0", sgi1r);
    after - before
}

fn yield_register() -> u64 {
    cpu::machine().windows.map_or(0, |w| w.doorbell.base) + doorbell::YIELD as u64
}

/// A column of equal rounds.
struct Rounds {
    values: [u64; ROUNDS],
    used: usize,
}

impl Rounds {
    fn new() -> Self {
        Self {
            values: [0; ROUNDS],
            used: 0,
        }
    }

    fn push(&mut self, value: u64) {
        if let Some(slot) = self.values.get_mut(self.used) {
            *slot = value;
            self.used += 1;
        }
    }

    fn of(mut f: impl FnMut() -> u64) -> Self {
        let mut rounds = Self::new();
        (0..ROUNDS).for_each(|_| rounds.push(f()));
        rounds
    }

    /// Prints the greatest, less what `overhead` instructions took: where a
    /// round either has what is counted in it or has not.
    fn print_most(&self, name: &str, overhead: u64) {
        let values = &self.values[..self.used];
        let Some(most) = values.iter().max() else {
            return say!("bench {name} none: no round counted");
        };
        let equal = values.iter().filter(|&v| v == most).count();
        let most = most.saturating_sub(overhead);
        say!(
            "bench {name} {most} most {most} equal {equal} of {}",
            values.len()
        );
    }

    /// Prints the smallest, less what `overhead` instructions took.
    fn print(&self, name: &str, overhead: u64) {
        let values = &self.values[..self.used];
        let (Some(least), Some(most)) = (values.iter().min(), values.iter().max()) else {
            say!("bench {name} none: no round counted");
            return;
        };
        let equal = values.iter().filter(|&v| v == least).count();
        let (least, most) = (
            least.saturating_sub(overhead),
            most.saturating_sub(overhead),
        );
        say!(
            "bench {name} {least} most {most} equal {equal} of {}",
            values.len()
        );
    }
}

/// Checks that the counter counts instructions; returns what two reads of it
/// differ by.
fn calibrate() -> Option<u64> {
    let empty = nothing();
    let counted = (0..ROUNDS)
        .map(|_| hundred())
        .min()
        .unwrap_or(0)
        .wrapping_sub(empty);
    if counted == 100 {
        return Some(empty);
    }
    check!(
        false,
        "100 instructions are {counted} ticks: needs -icount shift=0 and cntfrq=1000000000"
    );
    None
}

/// All measurements that the machine allows.
pub fn run() {
    let Some(empty) = calibrate() else { return };
    check!(cpu::header().is_some(), "there is no firmware");
    let (Some(vcpu), Some(dp)) = (cpu::vcpus().next(), cpu::cores().find(|c| c.dp)) else {
        check!(
            false,
            "needs a vCPU and a DP core: taichi=\"vcpus=1 dp=1 ...\""
        );
        return;
    };
    // First with the DP core off: nothing else can execute.
    Rounds::of(null_trap).print("null-trap-cp", empty);
    start(vcpu);
    vcpu.post(on_vcpu, empty);
    idle_until(20, || !vcpu.busy());
    switches("-wfi", wfi, vcpu, empty);
    let to_vcpu = || {
        idle_until(20, || vcpu.vcpu_idle());
        send(gic::sgi_to(5, vcpu.mpidr))
    };
    Rounds::of(to_vcpu).print("sgi-to-vcpu", empty);
    timer_injection(vcpu);
    start(dp);
    dp.post(busy, 0);
    sys::spin(50);
    Rounds::of(|| send(gic::sgi_to(5, dp.mpidr))).print("sgi-forward-cp", empty);
    STOP.store(BUSY, Release);
    while dp.busy() {
        core::hint::spin_loop();
    }
    // The first core spins while the DP core measures, so that SGIs find it
    // native; then it stands still.
    dp.post(on_dp, empty);
    while STOP.load(Acquire) != SPINNER {
        core::hint::spin_loop();
    }
    stand_still();
    while dp.busy() {
        core::hint::spin_loop();
    }
}

fn start(cpu: &'static Cpu) {
    let code = psci::cpu_on(cpu.mpidr, &raw const *cpu as u64);
    check!(code == 0, "CPU_ON of CPU {} gave {code}", cpu.index);
    idle_until(20, || code != 0 || cpu.online());
}

/// Waits with the core lent; looks every `us` microseconds.
fn idle_until(us: u64, done: impl Fn() -> bool) {
    while !done() {
        sys::mask();
        set!("cntv_cval_el0", sys::now() + sys::micros(us));
        set!("cntv_ctl_el0", 1);
        sys::wfi();
        set!("cntv_ctl_el0", 0);
        sys::unmask();
    }
}

/// Which of those that wait for it may go on.
static STOP: AtomicU64 = AtomicU64::new(0);
const BUSY: u64 = 1;
const SPINNER: u64 = 2;
const SLEEPER: u64 = 4;

fn busy(_: u64) {
    while STOP.load(Acquire) != BUSY {
        core::hint::spin_loop();
    }
}

fn on_vcpu(empty: u64) {
    Rounds::of(null_trap).print("null-trap-vcpu", empty);
}

/// What is measured on a DP core.
fn on_dp(empty: u64) {
    let (first, vcpu) = (&cpu::all()[0], cpu::vcpus().next());
    Rounds::of(null_trap).print("null-trap", empty);
    Rounds::of(|| send(gic::sgi_to(5, first.mpidr))).print("sgi-forward", empty);
    sys::spin(100);
    let nothing_to_run = || {
        let (before, after) = yield_core();
        after - before
    };
    Rounds::of(nothing_to_run).print("yield-nothing", empty);
    STOP.store(SPINNER, Release);
    let still = sys::wait_for(cpu::PATIENCE, || STILL.load(Acquire) != 0);
    check!(still, "the first core doesn't stand still");
    if let Some(vcpu) = vcpu {
        switches("", yield_core, vcpu, empty);
        switches_with_float(yield_core, vcpu, empty);
        switches_inside(yield_core, vcpu, empty);
    }
    STOP.store(SLEEPER, Release);
}

static STILL: AtomicU64 = AtomicU64::new(0);

/// Stands as still as a core can that must not be lent: QEMU takes WFE for
/// "another core's turn", so this core executes three instructions whenever
/// it has one, which is at every timer's deadline.
fn stand_still() {
    STILL.store(1, Release);
    // SAFETY: reads a static's address until it holds SLEEPER.
    unsafe {
        asm!("1: wfe", "ldr {x}, [{stop}]", "tbz {x}, #2, 1b", x = out(reg) _,
            stop = in(reg) STOP.as_ptr(), options(nostack, readonly))
    };
}

// World switches

/// Samples of the counter, written by a vCPU that does nothing else.
const SAMPLES: usize = 1 << 17;
/// Ticks that a core is lent in each round.
const LENT: u64 = 4_000;

struct Buffer(UnsafeCell<[u64; SAMPLES]>);
// SAFETY: one vCPU writes, and others read what was written before they were
// told so.
unsafe impl Sync for Buffer {}
static BUFFER: Buffer = Buffer(UnsafeCell::new([0; SAMPLES]));

global_asm!(
    r#"
    .section .text.sampler, "ax"
    // x0: buffer, x1: its end. Four instructions a sample.
    .global sampler
sampler:
1:  mrs     x2, cntvct_el0
    str     x2, [x0], #8
    cmp     x0, x1
    b.lo    1b
    ret

    // The same, with floating point. Five instructions a sample.
    .arch_extension fp
    .global sampler_float
sampler_float:
1:  mrs     x2, cntvct_el0
    str     x2, [x0], #8
    fmov    d0, x2
    cmp     x0, x1
    b.lo    1b
    ret
    .arch_extension nofp

    // Vectors for `sampler`: the handler uses x0 as the sampler does, so that
    // its own eight instructions lie between two samples.
    .section .vectors, "ax"
    .balign 2048
    .global sampler_vectors
sampler_vectors:
    .rept 5
    .balign 128
    b       .
    .endr
    .balign 128
    msr     cntv_ctl_el0, xzr
    mrs     x3, icc_iar1_el1
    msr     icc_eoir1_el1, x3
    add     x4, x4, #1
    eret
    .balign 2048
"#
);

/// Instructions of the handler in `sampler_vectors`.
const HANDLER: u64 = 5;
/// Instructions from one sample to the next.
const LOOP: u64 = 4;

unsafe extern "C" {
    fn sampler();
    fn sampler_float();
    static sampler_vectors: u8;
}

/// Fills the first `count` samples; returns how many timer interrupts came.
fn sample(count: usize) -> u64 {
    let start = BUFFER.0.get() as u64;
    let interrupts: u64;
    // SAFETY: `sampler` writes `count` words of the buffer; its vectors use
    // x3 and x4.
    unsafe {
        asm!("bl sampler", inout("x0") start => _, in("x1") start + 8 * count as u64,
            out("x2") _, out("x3") _, inout("x4") 0u64 => interrupts, out("x30") _)
    };
    interrupts
}

fn samples() -> &'static [u64; SAMPLES] {
    // SAFETY: see `Buffer`.
    unsafe { &*BUFFER.0.get() }
}

static SAMPLED: AtomicU64 = AtomicU64::new(0);

/// At EL1, where the vCPU may be inside a section.
fn sample_all_inside(_: u64) {
    sample(SAMPLES);
    SAMPLED.store(1, Release);
}

/// At EL0, where it may be stopped.
fn sample_all(_: u64) {
    sample_at_el0(sampler);
}

fn sample_all_with_float(_: u64) {
    sample_at_el0(sampler_float);
}

fn sample_at_el0(sampler: unsafe extern "C" fn()) {
    /// CNTKCTL_EL1.EL0VCTEN: EL0 may read the virtual counter.
    const EL0VCTEN: u64 = 1 << 1;
    /// ESR_EL1.EC of the SVC with which it comes back.
    const SVC: u64 = 0x15;
    set!("cntkctl_el1", EL0VCTEN);
    let start = BUFFER.0.get() as u64;
    let end = mmu::user(start + 8 * SAMPLES as u64);
    // SAFETY: it writes the buffer and x0 to x2; v0 is nobody's here.
    let esr = unsafe { attack::at_el0(cpu::this(), sampler, start, end) };
    check!(esr >> 26 == SVC, "sampling at EL0 ended with ESR {esr:#x}");
    SAMPLED.store(1, Release);
}

/// Lends the calling core to the vCPU again and again, until its own timer
/// takes it back, and compares its own times with the vCPU's samples.
fn switches(suffix: &str, lend: fn() -> (u64, u64), vcpu: &Cpu, empty: u64) {
    let times = lend_often(sample_all, lend, vcpu);
    evaluate(suffix, &times, empty);
}

/// The way back from a vCPU inside a section, which is rescued.
fn switches_inside(lend: fn() -> (u64, u64), vcpu: &Cpu, empty: u64) {
    let mut back = Rounds::new();
    for (before, after) in lend_often(sample_all_inside, lend, vcpu) {
        let mut stay = samples().iter().filter(|&&s| (before..after).contains(&s));
        if let Some(last) = stay.next_back() {
            back.push(after - last);
        }
    }
    back.print("vcpu-to-native-inside", empty);
}

/// The same with a vCPU that uses floating point: what its first use costs, and
/// the way back after it.
fn switches_with_float(lend: fn() -> (u64, u64), vcpu: &Cpu, empty: u64) {
    let times = lend_often(sample_all_with_float, lend, vcpu);
    let [mut first_use, mut back] = [const { None }; 2].map(|_: Option<()>| Rounds::new());
    for (before, after) in times {
        let stay = samples().iter().filter(|&&s| (before..after).contains(&s));
        let mut last = None;
        for (n, &sample) in stay.enumerate() {
            // It traps between the first two samples, or before them.
            if let (1, Some(first)) = (n, last) {
                first_use.push(sample - first);
            }
            last = Some(sample);
        }
        last.into_iter().for_each(|last| back.push(after - last));
    }
    first_use.print_most("float-first-use", LOOP + 1);
    back.print("vcpu-to-native-float", empty);
}

/// Lends the core in [`ROUNDS`] rounds to a vCPU that samples; gives the times
/// of leaving and coming back.
fn lend_often(samples: fn(u64), lend: fn() -> (u64, u64), vcpu: &Cpu) -> [(u64, u64); ROUNDS] {
    SAMPLED.store(0, Relaxed);
    sys::mask();
    vcpu.post(samples, 0);
    let mut times = [(0, 0); ROUNDS];
    for (n, slot) in times.iter_mut().enumerate() {
        // Other phases of the vCPU's loop in each round.
        *slot = until_timer(LENT + 7 * n as u64, lend);
    }
    // Let it fill the rest and go idle.
    while SAMPLED.load(Acquire) == 0 {
        until_timer(100_000, lend);
    }
    sys::unmask();
    times
}

/// Lends the calling core until its timer fires in `ticks`, with IRQs masked;
/// takes the interrupt afterwards.
fn until_timer(ticks: u64, lend: fn() -> (u64, u64)) -> (u64, u64) {
    set!("cntv_cval_el0", sys::now() + ticks);
    set!("cntv_ctl_el0", 1);
    let times = lend();
    set!("cntv_ctl_el0", 0);
    sys::unmask();
    sys::mask();
    times
}

fn evaluate(suffix: &str, times: &[(u64, u64)], empty: u64) {
    let [mut there, mut back, mut both] = [const { None }; 3].map(|_: Option<()>| Rounds::new());
    let mut last_before = None;
    let mut rest = samples().iter().copied().peekable();
    for &(before, after) in times {
        while rest.next_if(|&s| s < before).is_some() {}
        let Some(&first) = rest.peek().filter(|&&s| s < after) else {
            continue;
        };
        there.push(first - before);
        let mut last = first;
        while let Some(s) = rest.next_if(|&s| s < after) {
            last = s;
        }
        back.push(after - last);
        if let Some((left, returned)) = last_before {
            // What the vCPU missed, less what the native context had.
            let gap: u64 = first - left;
            both.push(gap - (before - returned));
        }
        last_before = Some((last, after));
    }
    print_with("native-to-vcpu", suffix, &there, empty);
    print_with("vcpu-to-native", suffix, &back, empty);
    // Exact whatever the phase: the loop's instructions between two samples
    // are in it once, and two pairs of reads.
    print_with("round-trip", suffix, &both, LOOP - 1 + 2 * empty);
}

fn print_with(name: &str, suffix: &str, rounds: &Rounds, overhead: u64) {
    let mut text = [0; 40];
    let bytes = name.bytes().chain(suffix.bytes());
    let mut used = 0;
    for (slot, byte) in text.iter_mut().zip(bytes) {
        *slot = byte;
        used += 1;
    }
    rounds.print(str::from_utf8(&text[..used]).unwrap_or(name), overhead);
}

// The virtual timer

static GAPS: [AtomicU64; ROUNDS] = [const { AtomicU64::new(0) }; ROUNDS];

/// Runs on the vCPU: its timer fires while it samples, and the longest gap
/// between two samples is the interrupt.
fn time_injections(_: u64) {
    sys::mask();
    let vbar = get!("vbar_el1");
    set!("vbar_el1", &raw const sampler_vectors as u64);
    for (n, slot) in GAPS.iter().enumerate() {
        const COUNT: usize = 2_000;
        set!("cntv_cval_el0", sys::now() + 2_000 + 7 * n as u64);
        set!("cntv_ctl_el0", 1);
        sys::unmask();
        let interrupts = sample(COUNT);
        sys::mask();
        let taken = &samples()[..COUNT];
        let gap = taken.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        slot.store(if interrupts == 1 { gap } else { 0 }, Relaxed);
    }
    set!("vbar_el1", vbar);
    sys::unmask();
}

fn timer_injection(vcpu: &Cpu) {
    vcpu.post(time_injections, 0);
    idle_until(10_000, || !vcpu.busy());
    let mut rounds = Rounds::new();
    GAPS.iter()
        .map(|g| g.load(Relaxed))
        .filter(|&g| g != 0)
        .for_each(|g| rounds.push(g));
    rounds.print("vtimer-injection", LOOP + HANDLER);
}
