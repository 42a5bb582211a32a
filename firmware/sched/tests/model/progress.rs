// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Progress where random histories seldom look: vCPUs that interrupt one
//! another without end, timers that never rest, CP cores that all leave.

use crate::world::{LATE, World};
use taichi_sched::state::{CoreId, VcpuId};
use taichi_sched::{CoreState, Params, Role, Scheduler, Tick, VcpuState, Why};

const PARAMS: Params = Params {
    slice: 50,
    patience: 400,
    forced_slice: 100,
    look: 20,
    rescue: 200,
};

fn lent_to(world: &World, core: CoreId) -> Option<VcpuId> {
    match world.scheduler.core(core) {
        CoreState::Lent { vcpu, .. } => Some(vcpu),
        _ => None,
    }
}

/// Two vCPUs wake each other in turn on an idle core, each before its slice
/// ends, and an interrupt puts a vCPU in front of the queue: the third one
/// must get its turn all the same.
#[test]
fn vcpus_that_wake_each_other_starve_nobody() {
    let mut world = World::new(PARAMS, &[Role::Cp, Role::Cp], 3, 1);
    for vcpu in 0..3 {
        world.vcpu_on(vcpu, 0);
    }
    world.idle(0, |_| {});
    let mut third_ran = 0;
    for _ in 0..10_000 {
        match lent_to(&world, 0) {
            Some(2) => {
                third_ran += 1;
                world.advance(10);
            }
            Some(vcpu) => {
                world.advance(5);
                if lent_to(&world, 0) == Some(vcpu) {
                    world.vcpu_interrupt(1 - vcpu, 0);
                    world.vcpu_idle(0, None);
                }
            }
            None => world.idle(0, |_| {}),
        }
    }
    assert!(third_ran > 0);
}

/// However often the timers of idle vCPUs fire, busy native code keeps half of
/// its core.
#[test]
fn force_takes_at_most_half_of_a_core() {
    let params = Params {
        patience: 3,
        ..PARAMS
    };
    let mut world = World::new(params, &[Role::Cp, Role::Dp], 16, 1);
    for vcpu in 0..16 {
        world.vcpu_on(vcpu, 0);
    }
    // The DP core gives each vCPU a moment, in which every second one goes to
    // sleep for a short time.
    world.core_on(1);
    let (mut native, mut forced) = (0u64, 0u64);
    for _ in 0..100_000 {
        world.yields(1);
        if lent_to(&world, 1).is_some() {
            world.vcpu_idle(1, Some(7));
        }
        if lent_to(&world, 1).is_some() {
            world.native_interrupt(1);
        }
        match world.scheduler.core(0) {
            CoreState::Lent {
                why: Why::Forced, ..
            } => forced += 1,
            state => {
                assert_eq!(state, CoreState::Native);
                native += 1;
            }
        }
        world.advance(1);
    }
    assert!(forced > 0);
    // Each forced slice may end late, and the native turn is shorter then.
    let (longest, shortest) = (params.forced_slice + LATE, params.forced_slice - LATE);
    assert!(
        forced * shortest <= native * longest,
        "native code had {native} ticks, forced vCPUs {forced}"
    );
}

/// A vCPU that has just become ready is looked at when its patience ends, not
/// later, even if a forced slice is longer than that.
#[test]
fn patience_may_be_shorter_than_a_forced_slice() {
    let params = Params {
        patience: 10,
        ..PARAMS
    };
    let mut scheduler = Scheduler::new(params, &[Role::Cp], 1);
    scheduler.core_on(0).expect("off");
    let _ = scheduler.vcpu_on(0, 0, 1000).expect("off");
    let _ = scheduler.tick(0, 1000, false).expect("a tick");
    assert_eq!(scheduler.deadline(0), 1010);
}

/// When the last CP core has left, the next one to come finds the vCPUs.
#[test]
fn a_cp_core_that_comes_alone_guards_all() {
    let roles = [Role::Cp, Role::Cp];
    let mut scheduler = Scheduler::new(PARAMS, &roles, 1);
    scheduler.core_on(0).expect("off");
    let _ = scheduler.vcpu_on(0, 0, 1000).expect("off");
    let kicks = scheduler.core_off(0, 1001).expect("native");
    assert_eq!(kicks.0, 0, "nobody is left to kick");
    scheduler.core_on(1).expect("off");
    let late = 1000 + PARAMS.patience + 2 * PARAMS.forced_slice;
    assert!(scheduler.deadline(1) <= late);
    let _ = scheduler
        .tick(1, scheduler.deadline(1), false)
        .expect("a tick");
    assert_eq!(scheduler.vcpu(0), VcpuState::Ready);
    assert!(scheduler.deadline(1) <= late);
}

/// A forced lend that the world switch refuses is asked for again after a
/// native turn.
#[test]
fn a_refused_lend_is_asked_for_again() {
    let mut scheduler = Scheduler::new(PARAMS, &[Role::Cp], 1);
    scheduler.core_on(0).expect("off");
    let _ = scheduler.vcpu_on(0, 0, 1000).expect("off");
    for _ in 0..3 {
        let now = scheduler.deadline(0).max(1000 + PARAMS.patience);
        let (tick, _) = scheduler.tick(0, now, false).expect("a tick");
        assert_eq!(tick, Tick::Lend(Why::Forced));
        assert_eq!(scheduler.deadline(0), now + 2 * PARAMS.forced_slice);
    }
}

/// What was taken by force goes back when the vCPU idles, though others are
/// ready.
#[test]
fn a_forced_core_goes_back_early() {
    let mut scheduler = Scheduler::new(PARAMS, &[Role::Cp], 2);
    scheduler.core_on(0).expect("off");
    for vcpu in 0..2 {
        let _ = scheduler.vcpu_on(vcpu, 0, 1000).expect("off");
    }
    let now = 1000 + PARAMS.patience;
    let (tick, _) = scheduler.tick(0, now, false).expect("a tick");
    assert_eq!(tick, Tick::Lend(Why::Forced));
    let vcpu = scheduler.lend(0, Why::Forced, now).expect("native");
    assert!(vcpu.is_some());
    let (next, _) = scheduler.vcpu_idle(0, 5000, now + 1).expect("lent");
    assert_eq!(next, None);
    assert_eq!(scheduler.core(0), CoreState::Native);
    assert_eq!(scheduler.ready(), 1);
}

/// Kept DP cores wait and are not kicked; a CP core that waits takes their vCPUs,
/// and they theirs again when that is over.
#[test]
fn dp_cores_that_are_kept_are_left_alone() {
    let roles = [Role::Cp, Role::Dp, Role::Cp];
    let mut scheduler = Scheduler::new(PARAMS, &roles, 2);
    for core in 0..3 {
        scheduler.core_on(core).expect("off");
    }
    let kicks = scheduler.wait(1).expect("native");
    assert_eq!(kicks.0, 0);
    let kicks = scheduler.vcpu_on(0, 0, 1000).expect("off");
    assert_eq!(kicks.0 & 1 << 1, 1 << 1, "the DP core was to take it");
    // It is kept before it comes.
    let kicks = scheduler.keep_dp_cores(true);
    assert_eq!(kicks.0, 0, "nobody else waits");
    let (tick, kicks) = scheduler.tick(1, 1001, false).expect("a tick");
    assert_eq!((tick, kicks.0), (Tick::Continue, 0));
    let kicks = scheduler.wait(2).expect("native");
    assert_eq!(kicks.0, 1 << 2, "the CP core that waits is to take it");
    let (tick, _) = scheduler.tick(2, 1002, false).expect("a tick");
    assert_eq!(tick, Tick::Lend(Why::Idle));
    scheduler.lend(2, Why::Idle, 1002).expect("waiting");
    let kicks = scheduler.vcpu_on(1, 0, 1003).expect("off");
    assert_eq!(kicks.0 & 1 << 1, 0, "a kept DP core is kicked");
    let kicks = scheduler.keep_dp_cores(false);
    assert_eq!(kicks.0, 1 << 1);
    let (tick, _) = scheduler.tick(1, 1004, false).expect("a tick");
    assert_eq!(tick, Tick::Lend(Why::Idle));
}
