// SPDX-License-Identifier: Apache-2.0 OR MIT
//! World switches, each forced on purpose, with full frames on both sides.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use taichi_abi::doorbell::Reason;
use taichi_abi::trace::Event;

use crate::guest::cpu::{self, Cpu};
use crate::guest::frame::{Action, Frame, Register};
use crate::guest::gic;
use crate::guest::report::{check, failing};
use crate::guest::sys;
use crate::guest::tests::{await_or_fail, dp_core, exits, go_address, hold, release};
use crate::guest::trace;

/// How often each way back from a lent core must be seen, and in how many
/// tries at most.
const HITS: u32 = 20;
const TRIES: u64 = 2_000;

static REASON: AtomicU64 = AtomicU64::new(0);
/// Lends in the last yield: none where the trigger came before it.
static LENT: AtomicU64 = AtomicU64::new(0);
/// 1 from a moment before a yield to its end.
static YIELDING: AtomicU64 = AtomicU64::new(0);

fn doorbell() -> u64 {
    cpu::machine().windows.map_or(0, |w| w.doorbell.base)
}

/// Spins with a frame until [`release`].
fn spin_frame(round: u64) {
    let me = cpu::this();
    let frame = match round & 1 {
        0 => Frame::new(me, round)
            .x(0, go_address())
            .run(Action::act_until)
            .gives(1, 1),
        _ => Frame::new(me, round)
            .x(27, go_address())
            .run(Action::act_until_high)
            .gives(28, 1),
    };
    frame.verify("spin");
}

/// Yields once with a frame; stores the reason, and whether the core was lent.
fn yield_frame(round: u64) {
    yield_with(Frame::new(cpu::this(), round)).verify("yield");
}

fn yield_with(frame: Frame) -> Frame {
    let lends = || cpu::core_block(cpu::this().number).lends();
    let before = lends();
    YIELDING.store(1, Release);
    let frame = frame.x(0, doorbell()).run(Action::act_load64);
    YIELDING.store(0, Release);
    LENT.store(lends() - before, Relaxed);
    REASON.store(frame.got.x[1], Release);
    frame.any(1)
}

/// The same with a timer that fires meanwhile.
fn yield_with_timer(round: u64) {
    let deadline = sys::now() + sys::micros(30);
    let frame = Frame::new(cpu::this(), round)
        .with(Register::CntvCval, deadline)
        .with(Register::CntvCtl, 1);
    exits::fired(yield_with(frame)).verify("yield");
}

/// Runs `f` while all cores but the first and `free` spin natively, so that a
/// vCPU finds no core but that one.
pub fn with_one_free(free: &Cpu, f: impl FnOnce()) {
    KEEP.store(1, Release);
    BUSY.store(0, Relaxed);
    let others = || cpu::cores().skip(1).filter(|c| c.index != free.index);
    others().for_each(|c| c.post(keep_busy, 0));
    let wanted = others().count() as u64;
    await_or_fail("busy cores", || BUSY.load(Acquire) == wanted);
    f();
    KEEP.store(0, Release);
    others().for_each(Cpu::join);
}

static KEEP: AtomicU64 = AtomicU64::new(0);
static BUSY: AtomicU64 = AtomicU64::new(0);

fn keep_busy(_: u64) {
    BUSY.fetch_add(1, Release);
    while KEEP.load(Acquire) != 0 {
        core::hint::spin_loop();
    }
}

/// What takes a lent core back: does it, and counts what arrives, if anything.
#[derive(Clone, Copy)]
struct Trigger {
    pull: fn(&Cpu),
    arrived: Option<fn(&Cpu) -> u32>,
    /// More may arrive than was sent.
    more: bool,
}

/// Has the DP core yield until it came back for `reason` often enough. The
/// trigger is pulled at most once in each yield, when the core is lent; what it
/// sends must arrive before the next.
fn yield_until(reason: Reason, job: fn(u64), trigger: Option<Trigger>) {
    let Some(dp) = dp_core() else { return };
    with_one_free(dp, || yield_rounds(dp, reason, job, trigger));
}

fn yield_rounds(dp: &Cpu, reason: Reason, job: fn(u64), trigger: Option<Trigger>) {
    let Some(vcpu) = cpu::vcpus().next() else {
        return;
    };
    let block = cpu::core_block(dp.number);
    let lends = block.lends();
    let mut hits = 0;
    for round in 0..TRIES {
        hold();
        if !vcpu.busy() {
            vcpu.post(spin_frame, round);
        }
        yield_round(dp, round, job, trigger);
        if REASON.load(Acquire) == reason as u64 && LENT.load(Relaxed) == 1 {
            hits += 1;
        }
        if round % 4 == 3 {
            release();
            vcpu.join();
        }
        if hits == HITS || failing() {
            break;
        }
    }
    release();
    vcpu.join();
    let lends = block.lends() - lends;
    check!(
        hits == HITS,
        "{reason:?} came {hits} times in {TRIES} yields, {lends} lends"
    );
    check!(
        lends >= u64::from(hits),
        "{hits} times {reason:?} with {lends} lends"
    );
}

fn yield_round(dp: &Cpu, round: u64, job: fn(u64), trigger: Option<Trigger>) {
    let arrived = trigger.and_then(|t| t.arrived);
    let before = arrived.map_or(0, |count| count(dp));
    dp.post(job, round);
    let mut pulled = false;
    await_or_fail("a yield's end", || {
        if let Some(trigger) = trigger
            && !pulled
            && YIELDING.load(Acquire) == 1
            && dp.is_lent()
        {
            (trigger.pull)(dp);
            pulled = true;
        }
        !dp.busy()
    });
    if let (Some(count), true) = (arrived, pulled) {
        let came = sys::wait_for(200_000, || count(dp) != before);
        check!(
            came,
            "round {round}: what was sent to a lent core didn't arrive; {}",
            cpu::Whereabouts
        );
        let times = count(dp) - before;
        let right = times == 1 || trigger.is_some_and(|t| t.more);
        check!(
            right,
            "round {round}: what was sent once came {times} times"
        );
    }
}

/// With every vCPU idle a yield lends nothing.
pub fn yield_nothing() {
    let Some(dp) = dp_core() else { return };
    await_or_fail("idle vCPUs", || cpu::vcpus().all(Cpu::vcpu_idle));
    let lends = cpu::core_block(dp.number).lends();
    for round in 0..100 {
        // In its own job loop the core idles: only yields count here.
        dp.run(yield_frame, round);
        let found = REASON.load(Acquire);
        check!(
            found == Reason::Nothing as u64,
            "round {round}: reason {found}"
        );
    }
    let lends = cpu::core_block(dp.number).lends() - lends;
    check!(lends == 0, "{lends} lends with nothing to run");
}

/// Nobody wants the core back: the slice ends.
pub fn yield_slice() {
    yield_until(Reason::Slice, yield_frame, None);
}

/// The native context's own timer takes the core back.
pub fn yield_timer() {
    yield_until(Reason::Interrupt, yield_with_timer, None);
}

/// A probe does.
pub fn yield_probe() {
    let trigger = Trigger {
        pull: probe,
        arrived: None,
        more: false,
    };
    yield_until(Reason::Probe, yield_frame, Some(trigger));
}

fn probe(dp: &Cpu) {
    let control = cpu::machine().windows.map_or(0, |w| w.control.base);
    sys::write32(
        control + taichi_abi::control::PROBE as u64,
        dp.number as u32,
    );
}

/// An SGI does, and is delivered; of SGI 0, which is the firmware's kick as
/// well, there may be more.
pub fn yield_sgi() {
    let five = Trigger {
        pull: |dp| gic::send(gic::sgi_to(5, dp.mpidr)),
        arrived: Some(|dp| dp.sgi(5)),
        more: false,
    };
    yield_until(Reason::Interrupt, yield_frame, Some(five));
    let zero = Trigger {
        pull: |dp| gic::send(gic::sgi_to(0, dp.mpidr)),
        arrived: Some(|dp| dp.sgi(0)),
        more: true,
    };
    yield_until(Reason::Interrupt, yield_frame, Some(zero));
}

/// The SPI that stands for a device of the DP.
const SPI: u32 = 60;

/// A device interrupt does, and is delivered natively.
pub fn yield_spi() {
    let Some(dp) = dp_core() else { return };
    gic::init_spi(cpu::machine().gicd, SPI, dp.mpidr);
    let device = Trigger {
        pull: |_| gic::raise_spi(cpu::machine().gicd, SPI),
        arrived: Some(|dp| dp.spis.load(Relaxed)),
        more: false,
    };
    yield_until(Reason::Interrupt, yield_frame, Some(device));
}

/// A core in WFI is lent until its timer; first core included.
pub fn wfi_timer() {
    let Some(vcpu) = cpu::vcpus().next() else {
        return;
    };
    for core in cpu::cores() {
        let block = cpu::core_block(core.number);
        let before = block.lends();
        with_one_free(core, || {
            hold();
            vcpu.post(spin_frame, 2);
            if core.index == 0 {
                wfi_frames(0);
            } else {
                core.run(wfi_frames, 0);
            }
            release();
            vcpu.join();
        });
        let lends = block.lends() - before;
        let refusals = block.refusals.load(Relaxed);
        check!(
            lends != 0,
            "core {} was never lent in WFI ({refusals} refusals ever)",
            core.number
        );
    }
}

fn wfi_frames(_: u64) {
    for round in 0..50 {
        wfi_frame(round, 300);
    }
}

fn wfi_frame(round: u64, us: u64) {
    let deadline = sys::now() + sys::micros(us);
    let frame = Frame::new(cpu::this(), round)
        .with(Register::CntvCval, deadline)
        .with(Register::CntvCtl, 1)
        .run(Action::act_wfi);
    exits::fired(frame).verify("WFI");
}

/// A vCPU gives its core up by WFI and comes back when its timer fires.
pub fn vcpu_wfi() {
    cpu::vcpus().for_each(|v| v.post(wfi_frames, 0));
    cpu::vcpus().for_each(Cpu::join);
}

/// All cores spin in a frame with IRQs masked: the vCPU must run all the same.
pub fn forced() {
    let Some(vcpu) = cpu::vcpus().next() else {
        return;
    };
    let forced = || {
        cpu::cores()
            .map(|c| cpu::core_block(c.number).forced.load(Relaxed))
            .sum()
    };
    let before: u64 = forced();
    hold();
    cpu::cores()
        .skip(1)
        .for_each(|c| c.post(spin_frame, c.index as u64));
    vcpu.post(
        |_| {
            count_frames(40);
            release();
        },
        0,
    );
    spin_frame(0);
    cpu::all().iter().skip(1).for_each(Cpu::join);
    let forced = forced() - before;
    check!(forced != 0, "no core was taken by force");
}

/// Computes with full frames.
fn count_frames(rounds: u64) {
    let me = cpu::this();
    for round in 0..rounds {
        let frame = Frame::new(me, round).x(1, 300_000);
        frame.run(Action::act_count).gives(1, 0).verify("count");
    }
}

/// All vCPUs compute at once on too few cores.
pub fn rotate() {
    let mut heads = [0; taichi_abi::MAX_CORES];
    cpu::cores().for_each(|c| heads[c.number] = trace::head(c.number));
    with_one_free(&cpu::all()[cpu::cores().count() - 1], || {
        cpu::vcpus().for_each(|v| v.post(count_frames, 60));
        cpu::vcpus().for_each(Cpu::join);
    });
    for vcpu in cpu::vcpus() {
        let records = cpu::cores().flat_map(|c| trace::records(c.number, heads[c.number]));
        let stays = records.filter(|&(_, event, of, _)| {
            let over = matches!(event, Event::Reclaim | Event::Idle | Event::Rotate);
            over && of == vcpu.number as u64
        });
        let more = stays.count();
        check!(
            more > 1,
            "vCPU {} was given a core {more} times",
            vcpu.number
        );
    }
    let rotations = cpu::cores().map(|c| cpu::core_block(c.number).rotations.load(Relaxed));
    check!(
        rotations.sum::<u64>() > 0,
        "no slice ended in another vCPU's"
    );
}

/// A vCPU computes while one core after the other is busy: it must move.
pub fn migrate() {
    let Some(vcpu) = cpu::vcpus().next() else {
        return;
    };
    let block = cpu::vcpu_block(vcpu.number);
    let before = block.migrations.load(Relaxed);
    vcpu.post(count_frames, 400);
    let mut round = 0;
    while vcpu.busy() && round < 400 {
        for core in cpu::cores().skip(1) {
            hold();
            core.post(spin_frame, round);
            sys::spin(2_000);
            release();
            core.join();
        }
        round += 1;
    }
    vcpu.join();
    let moves = block.migrations.load(Relaxed) - before;
    check!(moves > 2, "{moves} migrations");
}

/// A probe for a native core is counted, and the next yield doesn't see it.
pub fn probe_native() {
    let Some(dp) = dp_core() else { return };
    let block = cpu::core_block(dp.number);
    let control = cpu::machine().windows.map_or(0, |w| w.control.base);
    hold();
    dp.post(spin_frame, 1);
    sys::spin(1_000);
    let before = block.probes_late.load(Relaxed);
    for _ in 0..100 {
        sys::write32(
            control + taichi_abi::control::PROBE as u64,
            dp.number as u32,
        );
    }
    let late = block.probes_late.load(Relaxed) - before;
    check!(late == 100, "{late} of 100 probes counted as late");
    release();
    dp.join();
    dp.run(yield_frame, 3);
    let found = REASON.load(Acquire);
    check!(
        found != Reason::Probe as u64,
        "a late probe ended a later yield"
    );
}
