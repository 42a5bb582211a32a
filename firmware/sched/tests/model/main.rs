// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random histories of a whole machine; [`world`] says what must hold.

mod progress;
mod rescue;
mod world;

use proptest::prelude::*;
use taichi_sched::{Params, Role};
use world::{STEPS, World};

#[derive(Clone, Debug)]
enum Event {
    CoreOn(usize),
    CoreOff(usize),
    Idle(usize, Option<(usize, usize)>),
    Yield(usize),
    NativeInterrupt(usize),
    VcpuOn(usize, usize),
    VcpuOff(usize),
    VcpuIdle(usize, Option<u64>),
    VcpuInterrupt(usize, usize),
    Keep(usize, bool),
    Advance(u64),
}

#[derive(Clone, Debug)]
struct Machine {
    params: Params,
    roles: Vec<Role>,
    vcpus: usize,
    inside: u64,
    seed: u64,
}

fn machine() -> impl Strategy<Value = Machine> {
    let params = (1u64..40, 1u64..200, 1u64..60, 1u64..20, 1u64..80);
    let params = params.prop_map(|(slice, patience, forced_slice, look, rescue)| Params {
        slice,
        patience,
        forced_slice,
        look,
        rescue,
    });
    let roles = proptest::collection::vec(prop_oneof![Just(Role::Cp), Just(Role::Dp)], 2..=16);
    let machine = (params, roles, 0usize..=16, 0u64..=8, any::<u64>());
    machine.prop_map(|(params, mut roles, vcpus, inside, seed)| {
        roles[0] = Role::Cp;
        Machine {
            params,
            roles,
            vcpus,
            inside,
            seed,
        }
    })
}

fn event() -> impl Strategy<Value = Event> {
    let core = || 0usize..16;
    let vcpu = || 0usize..16;
    prop_oneof![
        2 => core().prop_map(Event::CoreOn),
        1 => core().prop_map(Event::CoreOff),
        4 => (core(), proptest::option::of((vcpu(), core()))).prop_map(|(c, m)| Event::Idle(c, m)),
        4 => core().prop_map(Event::Yield),
        4 => core().prop_map(Event::NativeInterrupt),
        4 => (vcpu(), core()).prop_map(|(v, c)| Event::VcpuOn(v, c)),
        1 => core().prop_map(Event::VcpuOff),
        4 => (core(), proptest::option::of(0u64..300)).prop_map(|(c, t)| Event::VcpuIdle(c, t)),
        4 => (vcpu(), core()).prop_map(|(v, c)| Event::VcpuInterrupt(v, c)),
        1 => (core(), any::<bool>()).prop_map(|(c, k)| Event::Keep(c, k)),
        8 => (0u64..60).prop_map(Event::Advance),
    ]
}

fn run(machine: &Machine, events: &[Event]) -> World {
    let mut world = World::new(machine.params, &machine.roles, machine.vcpus, machine.seed);
    world.inside = machine.inside;
    let cores = machine.roles.len();
    let start = world.now;
    for event in events {
        match *event {
            Event::CoreOn(c) => world.core_on(c % cores),
            // The boot core never leaves.
            Event::CoreOff(c) if c % cores != 0 => world.core_off(c % cores),
            Event::CoreOff(_) => {}
            Event::Idle(c, None) => world.idle(c % cores, |_| {}),
            Event::Idle(c, Some((v, from))) => world.idle(c % cores, |w| {
                if from % cores != c % cores {
                    w.vcpu_interrupt(v, from % cores);
                }
            }),
            Event::Yield(c) => world.yields(c % cores),
            Event::NativeInterrupt(c) => world.native_interrupt(c % cores),
            // Also some that the machine doesn't have.
            Event::VcpuOn(v, c) => world.vcpu_on(v, c % cores),
            Event::VcpuOff(c) => world.vcpu_off(c % cores),
            Event::VcpuIdle(c, timer) => world.vcpu_idle(c % cores, timer),
            Event::VcpuInterrupt(v, c) => world.vcpu_interrupt(v, c % cores),
            Event::Keep(c, keep) => world.keep(c % cores, keep),
            Event::Advance(ticks) => world.advance(ticks),
        }
    }
    // Everybody keeps running: those who are ready must still get a core.
    world.advance(2 * world.bound());
    let most = world.timer_tick_bound(world.now - start);
    assert!(
        world.timer_ticks <= most,
        "{} timer ticks, {most} at most",
        world.timer_ticks
    );
    world
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_is_lost_late_or_doubled(
        machine in machine(),
        events in proptest::collection::vec(event(), 0..400),
    ) {
        run(&machine, &events);
    }
}

/// The same histories reach every step that `state.rs` names, and steps that
/// are refused.
#[test]
fn every_step_is_reached() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let histories = (machine(), proptest::collection::vec(event(), 400));
    let mut steps = [0; STEPS.len()];
    let mut refused = 0;
    for _ in 0..50 {
        let tree = histories.new_tree(&mut runner).expect("a history");
        let (machine, events) = tree.current();
        let world = run(&machine, &events);
        for (sum, n) in steps.iter_mut().zip(world.steps) {
            *sum += n;
        }
        refused += world.refused;
    }
    for (name, n) in STEPS.iter().zip(steps) {
        assert!(n > 0, "no {name}");
    }
    assert!(refused > 0);
}
