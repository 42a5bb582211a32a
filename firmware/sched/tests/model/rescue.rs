// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rescue, step by step: who is asked for a core, in which order, and when a
//! vCPU inside a section may be stopped at all.

use taichi_sched::state::{CoreId, VcpuId};
use taichi_sched::{CoreState, Kicks, Params, Role, Scheduler, Tick, VcpuState, Why};

const PARAMS: Params = Params {
    slice: 50,
    patience: 4000,
    forced_slice: 1000,
    look: 20,
    rescue: 200,
};
const NOW: u64 = 10_000;
const INSIDE: bool = true;
const OUTSIDE: bool = false;

/// All cores native, `vcpus` ready, nobody new to anybody.
fn machine(roles: &[Role], vcpus: usize) -> Scheduler {
    let mut scheduler = Scheduler::new(PARAMS, roles, vcpus);
    for core in 0..roles.len() {
        scheduler.core_on(core).expect("off");
        let _ = scheduler.tick(core, NOW - 1000, OUTSIDE).expect("online");
    }
    for vcpu in 0..vcpus {
        let _ = scheduler.vcpu_on(vcpu, 0, NOW - 1000).expect("off");
    }
    scheduler
}

fn lend(scheduler: &mut Scheduler, core: CoreId, why: Why, now: u64) -> VcpuId {
    let vcpu = scheduler.lend(core, why, now).expect("native");
    vcpu.expect("one is ready")
}

fn tick(scheduler: &mut Scheduler, core: CoreId, now: u64, inside: bool) -> (Tick, Kicks) {
    scheduler.tick(core, now, inside).expect("online")
}

/// A probe takes a DP core from a vCPU inside a section: the guardian is asked
/// at once, and gives its core, if its own code is outside.
#[test]
fn a_vcpu_stopped_inside_gets_a_cp_core_at_once() {
    let mut s = machine(&[Role::Cp, Role::Dp], 1);
    lend(&mut s, 1, Why::Yield, NOW);
    let (vcpu, kicks) = s.reclaim(1, NOW + 10, INSIDE).expect("lent");
    assert_eq!((vcpu, kicks), (0, Kicks(1)));
    assert_eq!(
        tick(&mut s, 0, NOW + 11, OUTSIDE).0,
        Tick::Lend(Why::Forced)
    );
    assert_eq!(lend(&mut s, 0, Why::Forced, NOW + 11), 0);
    // It keeps the core as long as it is inside, within bounds, and no longer.
    let (tick_1, _) = tick(&mut s, 0, NOW + 31, INSIDE);
    assert_eq!(tick_1, Tick::Continue);
    assert_eq!(tick(&mut s, 0, NOW + 51, OUTSIDE).0, Tick::Return);
}

/// Stopped outside, it waits for its turn like anybody else.
#[test]
fn a_vcpu_stopped_outside_waits() {
    let mut s = machine(&[Role::Cp, Role::Dp], 1);
    lend(&mut s, 1, Why::Yield, NOW);
    let (_, kicks) = s.reclaim(1, NOW + 10, OUTSIDE).expect("lent");
    assert_eq!(kicks, Kicks::NONE);
    assert_eq!(tick(&mut s, 0, NOW + 11, OUTSIDE).0, Tick::Continue);
}

/// A core whose code is inside asks the next: cores that are lent, then CP
/// cores, and none twice in a round.
#[test]
fn cores_are_asked_one_after_the_other() {
    let roles = [Role::Cp, Role::Cp, Role::Dp, Role::Dp];
    let mut s = machine(&roles, 2);
    lend(&mut s, 2, Why::Yield, NOW);
    lend(&mut s, 3, Why::Yield, NOW);
    let (_, kicks) = s.reclaim(2, NOW + 10, INSIDE).expect("lent");
    assert_eq!(kicks, Kicks(1), "the guardian first");
    let (answer, kicks) = tick(&mut s, 0, NOW + 11, INSIDE);
    assert_eq!((answer, kicks), (Tick::Continue, Kicks(1 << 3)));
    let (answer, kicks) = tick(&mut s, 3, NOW + 12, INSIDE);
    assert_eq!((answer, kicks), (Tick::Continue, Kicks(1 << 1)));
    let (answer, kicks) = tick(&mut s, 1, NOW + 13, INSIDE);
    assert_eq!((answer, kicks), (Tick::Continue, Kicks::NONE));
    // The next round starts where the first did.
    assert!(s.deadline(0) <= NOW + 13 + PARAMS.look);
    let again = s.deadline(0);
    let (answer, _) = tick(&mut s, 0, again, OUTSIDE);
    assert_eq!(answer, Tick::Lend(Why::Forced));
}

/// A vCPU outside gives way to an urgent one, on what is left of its slice.
#[test]
fn a_vcpu_outside_gives_way() {
    let mut s = machine(&[Role::Cp, Role::Dp, Role::Dp], 2);
    let first = lend(&mut s, 1, Why::Yield, NOW);
    let second = lend(&mut s, 2, Why::Yield, NOW);
    let _ = s.reclaim(1, NOW + 10, INSIDE).expect("lent");
    let (answer, _) = tick(&mut s, 2, NOW + 12, OUTSIDE);
    let rotate = Tick::Rotate {
        from: second,
        to: first,
    };
    assert_eq!(answer, rotate);
    assert_eq!(s.deadline(2), NOW + PARAMS.slice);
}

/// All CP cores are inside for long: one is taken all the same, for a moment.
#[test]
fn after_a_while_any_cp_core_will_do() {
    let mut s = machine(&[Role::Cp, Role::Dp], 1);
    lend(&mut s, 1, Why::Yield, NOW);
    let _ = s.reclaim(1, NOW, INSIDE).expect("lent");
    let mut now = NOW;
    let waited = loop {
        match tick(&mut s, 0, now, INSIDE).0 {
            Tick::Continue => now = s.deadline(0),
            Tick::Lend(Why::Forced) => break now - NOW,
            other => panic!("{other:?}"),
        }
    };
    assert!((PARAMS.rescue..PARAMS.rescue + 2 * PARAMS.look).contains(&waited));
    // The native context may hold what this one waits for.
    lend(&mut s, 0, Why::Forced, now);
    let taken = now;
    while tick(&mut s, 0, now, INSIDE).0 == Tick::Continue {
        now = s.deadline(0);
    }
    assert!(now - taken <= 5 * PARAMS.look, "{}", now - taken);
}

/// A section that never ends doesn't keep a core: what was taken by force goes
/// back, and stays back for as long.
#[test]
fn a_section_without_end_takes_half_of_a_core() {
    let mut s = machine(&[Role::Cp], 1);
    let mut now = NOW;
    let (mut taken, mut native) = (0, 0);
    // Somebody waits for it, and it was stopped inside.
    let _ = s.vcpu_interrupt(0, 0, now);
    for _ in 0..1000 {
        let before = now;
        now = s.deadline(0).max(now + 1);
        match s.core(0) {
            CoreState::Native => native += now - before,
            _ => taken += now - before,
        }
        let inside = s.vcpu(0) != VcpuState::Ready;
        match tick(&mut s, 0, now, inside).0 {
            Tick::Continue => {}
            Tick::Lend(why) => drop(lend(&mut s, 0, why, now)),
            Tick::Return => drop(s.reclaim(0, now, INSIDE).expect("lent")),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        taken > 0 && taken <= native + 2 * PARAMS.forced_slice,
        "{taken}, {native}"
    );
}

/// A poller's slice ends when it ends: it bounds how long packets wait.
#[test]
fn a_pollers_slice_is_not_prolonged() {
    let mut s = machine(&[Role::Cp, Role::Dp], 1);
    lend(&mut s, 1, Why::Yield, NOW);
    let end = NOW + PARAMS.slice;
    assert_eq!(tick(&mut s, 1, end, INSIDE).0, Tick::Return);
    // It will yield again at once, so nobody else is asked yet.
    let _ = s.reclaim(1, end, INSIDE).expect("lent");
    assert!(s.deadline(0) > end);
    assert_eq!(lend(&mut s, 1, Why::Yield, end + 2), 0);
}

/// Who was sent an interrupt gets the core of code that is outside, at once.
#[test]
fn an_interrupt_makes_urgent() {
    let mut s = machine(&[Role::Cp, Role::Cp], 1);
    let _ = tick(&mut s, 0, NOW, OUTSIDE);
    assert_eq!(s.vcpu_interrupt(0, 1, NOW), Kicks(1));
    assert_eq!(tick(&mut s, 0, NOW + 1, OUTSIDE).0, Tick::Lend(Why::Forced));
}

/// The waiting core that was kicked for an urgent vCPU turns to its own Linux, which
/// takes the kick: the vCPU's guardian asks.
#[test]
fn a_waiting_core_may_turn_away() {
    let mut s = machine(&[Role::Cp, Role::Dp], 1);
    lend(&mut s, 0, Why::Idle, NOW);
    let (next, _) = s.vcpu_idle(0, u64::MAX, NOW).expect("lent");
    assert_eq!(next, None);
    let _ = s.wait(1).expect("native");
    let _ = tick(&mut s, 0, NOW + 1, OUTSIDE);
    assert_eq!(s.vcpu_interrupt(0, 0, NOW + 2), Kicks(1 << 1));
    assert_eq!(s.wake(1).expect("waits"), Kicks::NONE);
    let asks = s.deadline(0);
    assert!(asks <= NOW + 2 + PARAMS.look, "{asks}");
    assert_eq!(tick(&mut s, 0, asks, OUTSIDE).0, Tick::Lend(Why::Forced));
}
