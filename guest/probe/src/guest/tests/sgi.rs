// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Software-generated interrupts: every number from every CPU to every CPU,
//! none lost, none invented.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::guest::cpu::{self, Cpu};
use crate::guest::frame::{Action, Frame};
use crate::guest::gic;
use crate::guest::report::{check, failing};
use crate::guest::sys::{self, set};
use crate::guest::tests::{GO, await_or_fail, go_address, hold, release};

/// Each SGI from each CPU to each CPU, itself included, while all the others
/// wait in WFI: the target's handler must count exactly one more.
pub fn every_number() {
    for sender in cpu::all() {
        for target in cpu::all() {
            let argument = target.index as u64;
            if sender.index == 0 {
                send_each(argument);
            } else {
                sender.run(send_each, argument);
            }
            if failing() {
                return;
            }
        }
    }
}

fn send_each(target: u64) {
    let (me, target) = (cpu::this(), &cpu::all()[target as usize]);
    // Number 1 is what jobs are posted with: a late one would be counted.
    for number in (0..16).filter(|&n| n != cpu::WAKE) {
        let before = target.sgi(number);
        gic::send(gic::sgi_to(number, target.mpidr));
        let came = sys::wait_for(cpu::PATIENCE, || target.sgi(number) != before);
        let count = target.sgi(number).wrapping_sub(before);
        let kicks = number == 0 && !target.virt;
        check!(
            came && (count == 1 || kicks),
            "SGI {number} from CPU {} to CPU {} came {count} times; {}",
            me.index,
            target.index,
            cpu::Whereabouts
        );
        if !came {
            return;
        }
    }
}

/// To all but the sender (IRM=1), from each CPU.
pub fn others() {
    send_to_others(0);
    for sender in cpu::all().iter().skip(1) {
        sender.run(send_to_others, 0);
    }
}

fn send_to_others(_: u64) {
    const NUMBER: u64 = 4;
    let me = cpu::this();
    for _ in 0..10 {
        let sum = || cpu::all().iter().map(|c| c.sgi(NUMBER)).sum::<u32>();
        let (own, before) = (me.sgi(NUMBER), sum());
        gic::send(gic::sgi_to_others(NUMBER));
        let expected = before + cpu::all().len() as u32 - 1;
        await_or_fail("an SGI to all others", || sum() >= expected);
        check!(
            sum() == expected,
            "SGI to others from CPU {}: {} came",
            me.index,
            sum() - before
        );
        check!(
            own == me.sgi(NUMBER),
            "SGI to others came back to CPU {}",
            me.index
        );
        if failing() {
            return;
        }
    }
}

/// Sixteen SGIs while the target has IRQs masked: more than there are list
/// registers. None may get lost when it unmasks.
pub fn sixteen_at_once() {
    for target in cpu::all().iter().skip(1) {
        for job in [masked_spin, masked_wfi] {
            hold();
            let before: [u32; 16] = core::array::from_fn(|n| target.sgi(n as u64));
            READY.store(0, Relaxed);
            target.post(job, 0);
            await_or_fail("a CPU with IRQs masked", || READY.load(Acquire) == 1);
            for number in 0..16 {
                gic::send(gic::sgi_to(number, target.mpidr));
            }
            release();
            target.join();
            let all = || (0..16).all(|n| target.sgi(n) != before[n as usize]);
            await_or_fail("16 SGIs at once", all);
            for number in (0..16).filter(|&n| n != cpu::WAKE) {
                let count = target.sgi(number) - before[number as usize];
                // SGI 0 is the firmware's kick as well: a core may get more.
                let kicks = number == 0 && !target.virt;
                check!(
                    count == 1 || kicks && count > 1,
                    "CPU {}: SGI {number} came {count} times",
                    target.index
                );
            }
        }
    }
}

static READY: AtomicU64 = AtomicU64::new(0);

fn masked_spin(_: u64) {
    let me = cpu::this();
    sys::mask();
    READY.store(1, Release);
    Frame::new(me, 77)
        .x(0, go_address())
        .run(Action::act_until)
        .gives(1, 1)
        .verify("until");
    sys::unmask();
}

fn masked_wfi(_: u64) {
    sys::mask();
    READY.store(1, Release);
    while GO.load(Acquire) == 0 {
        sys::wfi();
    }
    sys::unmask();
}

/// An SGI below the priority mask waits until the mask is raised.
pub fn priority_mask() {
    for cpu in cpu::all() {
        if cpu.index == 0 {
            behind_mask(0)
        } else {
            cpu.run(behind_mask, 0)
        }
    }
}

fn behind_mask(_: u64) {
    const NUMBER: u64 = 3;
    let me = cpu::this();
    let before = me.sgi(NUMBER);
    set!("icc_pmr_el1", 0x80);
    gic::send(gic::sgi_to(NUMBER, me.mpidr));
    sys::spin(500);
    let early = me.sgi(NUMBER) - before;
    set!("icc_pmr_el1", 0xf0);
    check!(
        early == 0,
        "CPU {}: an SGI passed the priority mask",
        me.index
    );
    await_or_fail("an SGI behind the priority mask", || {
        me.sgi(NUMBER) == before + 1
    });
}

/// A CPU inside a handler keeps its active priority through every switch: RPR
/// tells it, and nothing of equal priority is delivered.
pub fn active_priority() {
    for target in cpu::vcpus().chain(cpu::cores().filter(|c| !c.dp).skip(1)) {
        hold();
        READY.store(0, Relaxed);
        target.hook.store(in_handler as *const () as u64, Release);
        let before = target.sgi(3);
        gic::send(gic::sgi_to(cpu::HOOK.into(), target.mpidr));
        await_or_fail("the handler", || READY.load(Acquire) == 1);
        gic::send(gic::sgi_to(3, target.mpidr));
        sys::spin(20_000);
        let early = target.sgi(3) - before;
        check!(
            early == 0,
            "CPU {}: an SGI preempted its equal",
            target.index
        );
        release();
        await_or_fail("the SGI behind an active one", || {
            target.sgi(3) == before + 1
        });
        target.hook.store(0, Release);
    }
}

fn in_handler(index: u64) {
    let me = &cpu::all()[index as usize];
    READY.store(1, Release);
    for round in 0..20 {
        let frame = Frame::new(me, round).x(1, 20_000).active(gic::PRIORITY);
        frame
            .run(Action::act_count)
            .gives(1, 0)
            .verify("in a handler");
    }
    sys::unmask();
    while GO.load(Acquire) == 0 {
        core::hint::spin_loop();
    }
    sys::mask();
    let frame = Frame::new(me, 99).x(1, 10).active(gic::PRIORITY);
    frame
        .run(Action::act_count)
        .gives(1, 0)
        .verify("at a handler's end");
}

/// Rounds of a ping-pong in which the first CPU plays, and of one in which it
/// only waits, spinning: then an emulator on few host CPUs is slow.
const ROUNDS: u64 = 10_000;
const FEWER: u64 = 1_000;

static BALL: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Two CPUs wake each other in turn and wait in WFI meanwhile, with a third
/// one that wants their cores: a lost interrupt is a sleep for ever.
pub fn ping_pong() {
    let all = cpu::all();
    let busy = cpu::vcpus().last();
    let vcpu = cpu::vcpus().next();
    play(&all[0], &all[1], busy.filter(|b| b.index > 1), 0);
    if let Some(other) = cpu::cores().nth(2) {
        play(&all[1], other, busy, 0);
    }
    if let Some(vcpu) = vcpu {
        let busy = busy.filter(|b| b.index != vcpu.index);
        play(&all[0], vcpu, busy, 0);
        if let Some(second) = cpu::vcpus().nth(1) {
            play(vcpu, second, None, 3);
        }
    }
}

fn play(a: &'static Cpu, b: &'static Cpu, busy: Option<&'static Cpu>, number: u64) {
    if failing() || a.index == b.index {
        return;
    }
    hold();
    if let Some(busy) = busy {
        busy.post(spin_frame, 0);
    }
    BALL.iter().for_each(|ball| ball.store(0, Relaxed));
    let rounds = if a.index == 0 { ROUNDS } else { FEWER };
    let argument =
        |side: u64, peer: &Cpu| side << 63 | rounds << 32 | number << 16 | peer.index as u64;
    b.post(player, argument(1, a));
    if a.index == 0 {
        player(argument(0, b));
    } else {
        a.post(player, argument(0, b));
        a.join();
    }
    b.join();
    release();
    if let Some(busy) = busy {
        busy.join();
    }
}

fn spin_frame(round: u64) {
    let frame = Frame::new(cpu::this(), round).x(0, go_address());
    frame
        .run(Action::act_until)
        .gives(1, 1)
        .verify("spin beside a ping-pong");
}

fn player(argument: u64) {
    let side = (argument >> 63) as usize;
    let rounds = argument >> 32 & 0x7fff_ffff;
    let (number, peer) = (argument >> 16 & 15, &cpu::all()[(argument & 0xff) as usize]);
    for round in 1..=rounds {
        if side == 0 {
            BALL[0].store(round, Release);
            gic::send(gic::sgi_to(number, peer.mpidr));
        }
        asleep_until(|| BALL[1 - side].load(Acquire) >= round);
        if side == 1 {
            BALL[1].store(round, Release);
            gic::send(gic::sgi_to(number, peer.mpidr));
        }
    }
}

/// Waits in WFI, as a kernel does: look with IRQs masked, then sleep.
fn asleep_until(done: impl Fn() -> bool) {
    loop {
        sys::mask();
        let now = done();
        if !now {
            sys::wfi();
        }
        sys::unmask();
        if now {
            return;
        }
    }
}
