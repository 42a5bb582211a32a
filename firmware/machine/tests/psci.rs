// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The PSCI server: its answers, and its states against a model.

use proptest::prelude::*;
use taichi_machine::affinity::{Mpidr, vcpu_mpidr};
use taichi_machine::psci::{
    ALREADY_ON, Action, CpuId, CpuState, DENIED, INVALID_ADDRESS, INVALID_PARAMETERS,
    NOT_SUPPORTED, ON_PENDING, Psci, SUCCESS,
};

const CPU_ON_64: u32 = 0xc400_0003;
const CPU_OFF: u32 = 0x8400_0002;
const AFFINITY_INFO_64: u32 = 0xc400_0004;

fn machine(cores: usize, vcpus: usize) -> (Psci, Vec<Mpidr>, Vec<Mpidr>) {
    let cores: Vec<_> = (0..cores as u64).map(Mpidr::new).collect();
    let vcpus: Vec<_> = (0..vcpus).map(|i| vcpu_mpidr(i, &cores)).collect();
    let mut psci = Psci::new(&cores, &vcpus, 0);
    psci.firmware = 0x4000_0000..0x4020_0000;
    (psci, cores, vcpus)
}

fn returned(action: Action) -> i64 {
    match action {
        Action::Return(value) => value,
        other => panic!("{other:?} is no answer"),
    }
}

#[test]
fn a_core_comes_and_goes() {
    let (mut psci, cores, _) = machine(2, 1);
    let boot = CpuId::Core(0);
    let on = [cores[1].value(), 0x8000_0000, 7];
    let info = [cores[1].value(), 0, 0];
    assert_eq!(psci.call(boot, AFFINITY_INFO_64, info), Action::Return(1));
    let start = Action::StartCore {
        index: 1,
        entry: 0x8000_0000,
        context: 7,
    };
    assert_eq!(psci.call(boot, CPU_ON_64, on), start);
    assert_eq!(psci.call(boot, AFFINITY_INFO_64, info), Action::Return(2));
    assert_eq!(psci.call(boot, CPU_ON_64, on), Action::Return(ON_PENDING));
    psci.core_started(1);
    assert_eq!(psci.call(boot, AFFINITY_INFO_64, info), Action::Return(0));
    assert_eq!(psci.call(boot, CPU_ON_64, on), Action::Return(ALREADY_ON));
    assert_eq!(psci.call(CpuId::Core(1), CPU_OFF, [0; 3]), Action::StopCore);
    assert_eq!(psci.call(boot, CPU_ON_64, on), Action::Return(ALREADY_ON));
    psci.core_stopped(1);
    assert_eq!(psci.call(boot, AFFINITY_INFO_64, info), Action::Return(1));
    assert_eq!(psci.call(boot, CPU_ON_64, on), start);
    psci.failed(CpuId::Core(1));
    assert_eq!(psci.state(CpuId::Core(1)), CpuState::Off);
}

#[test]
fn the_boot_core_stays_while_there_are_vcpus() {
    let (mut psci, cores, _) = machine(2, 1);
    let boot = CpuId::Core(0);
    assert_eq!(psci.call(boot, CPU_OFF, [0; 3]), Action::Park);
    assert_eq!(psci.state(boot), CpuState::On);
    assert_eq!(psci.call(boot, 0x8400_0006, [0; 3]), Action::Return(1));
    assert_eq!(
        psci.call(boot, 0xc400_0007, [0; 3]),
        Action::Return(cores[0].value() as i64)
    );
    assert_eq!(psci.call(boot, 0xc400_0005, [0; 3]), Action::Return(DENIED));
    let (mut psci, ..) = machine(2, 0);
    assert_eq!(psci.call(boot, CPU_OFF, [0; 3]), Action::StopCore);
    assert_eq!(psci.call(boot, 0x8400_0006, [0; 3]), Action::Forward);
}

#[test]
fn wrong_arguments() {
    let (mut psci, cores, vcpus) = machine(2, 1);
    let mut call = |fid, args| psci.call(CpuId::Core(0), fid, args);
    let target = cores[1].value();
    assert_eq!(returned(call(CPU_ON_64, [99, 0, 0])), INVALID_PARAMETERS);
    assert_eq!(
        returned(call(CPU_ON_64, [target | 1 << 31, 0, 0])),
        INVALID_PARAMETERS
    );
    assert_eq!(
        returned(call(CPU_ON_64, [target, 0x401f_fffc, 0])),
        INVALID_ADDRESS
    );
    assert_eq!(
        returned(call(CPU_ON_64, [vcpus[0].value(), 2, 0])),
        INVALID_ADDRESS
    );
    assert_eq!(
        returned(call(AFFINITY_INFO_64, [target, 1, 0])),
        INVALID_PARAMETERS
    );
    assert_eq!(
        returned(call(AFFINITY_INFO_64, [99, 0, 0])),
        INVALID_PARAMETERS
    );
    // SMC32 takes the low halves.
    let on = call(
        0x8400_0003,
        [1 << 32 | vcpus[0].value(), 1 << 32 | 4, 1 << 32 | 5],
    );
    assert_eq!(
        on,
        Action::StartVcpu {
            index: 0,
            entry: 4,
            context: 5
        }
    );
}

#[test]
fn suspends() {
    let (mut psci, ..) = machine(2, 1);
    let vcpu = CpuId::Vcpu(0);
    let suspend = |psci: &mut Psci, args| psci.call(vcpu, 0xc400_0001, args);
    assert_eq!(suspend(&mut psci, [0, 8, 9]), Action::Suspend);
    assert_eq!(suspend(&mut psci, [1 << 16, 8, 9]), Action::Suspend);
    let ours = 0x4000_0000;
    assert_eq!(suspend(&mut psci, [0, ours, 9]), Action::Suspend);
    let refused = Action::Return(INVALID_ADDRESS);
    assert_eq!(suspend(&mut psci, [1 << 16, ours, 9]), refused);
    psci.extended_state = true;
    assert_eq!(suspend(&mut psci, [1 << 16, ours, 9]), Action::Suspend);
    assert_eq!(suspend(&mut psci, [1 << 30, 8, 9]), Action::Suspend);
    assert_eq!(suspend(&mut psci, [1 << 30, ours, 9]), refused);
    let features = psci.call(vcpu, 0x8400_000a, [0xc400_0001, 0, 0]);
    assert_eq!(features, Action::Return(0b10));
}

#[test]
fn the_version_is_one_whose_mandatory_functions_are_here() {
    let (mut psci, ..) = machine(2, 1);
    for (below, ours) in [
        (0x0_0002, 0x1_0001),
        (0x1_0000, 0x1_0001),
        (0x1_0002, 0x1_0002),
        (0x2_0000, 0x1_0003),
        (NOT_SUPPORTED, 0x1_0001),
    ] {
        psci.below = below;
        let version = psci.call(CpuId::Core(0), 0x8400_0000, [0; 3]);
        assert_eq!(version, Action::Return(ours), "{below:#x}");
    }
}

/// What is optional (DEN 0022, table 5) and not offered, in both forms.
#[test]
fn what_is_not_offered_is_not_claimed() {
    let (mut psci, ..) = machine(2, 1);
    // CPU_FREEZE, CPU_DEFAULT_SUSPEND, NODE_HW_STATE, SYSTEM_SUSPEND,
    // PSCI_SET_SUSPEND_MODE, PSCI_STAT_RESIDENCY, PSCI_STAT_COUNT.
    for number in 0x0b..=0x11 {
        for fid in [0x8400_0000 | number, 0xc400_0000 | number] {
            for (fid, arg) in [(fid, 0), (0x8400_000a, u64::from(fid))] {
                let answer = psci.call(CpuId::Vcpu(0), fid, [arg, 0, 0]);
                assert_eq!(answer, Action::Return(NOT_SUPPORTED), "{number:#x}");
            }
        }
    }
}

#[test]
fn other_functions() {
    let (mut psci, ..) = machine(2, 1);
    psci.below = 0x1_0003;
    let mut call = |fid, arg| psci.call(CpuId::Core(1), fid, [arg, 0, 0]);
    assert_eq!(call(0x8400_0000, 0), Action::Return(0x1_0003));
    assert_eq!(call(0x8400_0008, 0), Action::SystemOff);
    assert_eq!(call(0x8400_0009, 0), Action::SystemReset);
    assert_eq!(call(0x8400_0012, 0), Action::Forward);
    // Without an SMC64 form, unknown, and SYSTEM_SUSPEND.
    for fid in [
        0xc400_0000,
        0xc400_0002,
        0x8400_001f,
        0x8400_000e,
        0xc400_000e,
    ] {
        assert_eq!(call(fid, 0), Action::Return(NOT_SUPPORTED), "{fid:#x}");
        assert_eq!(
            call(0x8400_000a, fid.into()),
            Action::Return(NOT_SUPPORTED),
            "{fid:#x}"
        );
    }
    // SMCCC_VERSION, PV_TIME_FEATURES and an OEM's call are not PSCI.
    for fid in [
        0x8000_0000,
        0xc500_0020,
        0x8300_0001,
        0x8400_0040,
        0x0400_0000,
    ] {
        assert_eq!(call(fid, 0), Action::Forward, "{fid:#x}");
    }
    for fid in [
        0x8400_0000,
        CPU_OFF,
        CPU_ON_64,
        AFFINITY_INFO_64,
        0x8400_000a,
    ] {
        assert_eq!(
            call(0x8400_000a, fid.into()),
            Action::Return(SUCCESS),
            "{fid:#x}"
        );
    }
    assert_eq!(call(0x8400_000a, 0x8000_0000), Action::Return(SUCCESS));
    assert_eq!(call(0x8400_000a, 0xc400_0012), Action::Forward);
}

/// What a test does next; indices are taken modulo the number of CPUs.
#[derive(Clone, Copy, Debug)]
enum Step {
    On(usize),
    Off(usize),
    Started(usize),
    Stopped(usize),
    Failed(usize),
}

fn step() -> impl Strategy<Value = Step> {
    (0..5, 0usize..32).prop_map(|(kind, cpu)| match kind {
        0 => Step::On(cpu),
        1 => Step::Off(cpu),
        2 => Step::Started(cpu),
        3 => Step::Stopped(cpu),
        _ => Step::Failed(cpu),
    })
}

proptest! {
    /// Against the diagram at the top: steps that the firmware would take
    /// in each state, and the answers that the specification gives.
    #[test]
    fn follows_the_diagram(
        cores in 1usize..=16,
        vcpus in 0usize..=16,
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        use CpuState::{Off, On, OnPending, OffPending};
        let (mut psci, core_names, vcpu_names) = machine(cores, vcpus);
        let ids: Vec<_> =
            (0..cores).map(CpuId::Core).chain((0..vcpus).map(CpuId::Vcpu)).collect();
        let names: Vec<_> = core_names.into_iter().chain(vcpu_names).collect();
        let mut model = std::vec![Off; ids.len()];
        model[0] = On;
        for step in steps {
            let (Step::On(n) | Step::Off(n) | Step::Started(n) | Step::Stopped(n) | Step::Failed(n)) = step;
            let cpu = n % ids.len();
            match (step, model[cpu]) {
                (Step::On(_), state) => {
                    let action = psci.call(ids[0], CPU_ON_64, [names[cpu].value(), 0x1000, 1]);
                    let expect = match (state, ids[cpu]) {
                        (On | OffPending, _) => Action::Return(ALREADY_ON),
                        (OnPending, _) => Action::Return(ON_PENDING),
                        (Off, CpuId::Core(index)) => Action::StartCore { index, entry: 0x1000, context: 1 },
                        (Off, CpuId::Vcpu(index)) => Action::StartVcpu { index, entry: 0x1000, context: 1 },
                    };
                    prop_assert_eq!(action, expect);
                    if state == Off { model[cpu] = OnPending; }
                }
                (Step::Off(_), On) => {
                    let action = psci.call(ids[cpu], CPU_OFF, [0; 3]);
                    let expect = match ids[cpu] {
                        CpuId::Core(0) if vcpus > 0 => Action::Park,
                        CpuId::Core(_) => Action::StopCore,
                        CpuId::Vcpu(_) => Action::StopVcpu,
                    };
                    prop_assert_eq!(action, expect);
                    if action != Action::Park { model[cpu] = OffPending; }
                }
                (Step::Started(_), OnPending) => { psci.started(ids[cpu]); model[cpu] = On; }
                (Step::Stopped(_), OffPending) => { psci.stopped(ids[cpu]); model[cpu] = Off; }
                (Step::Failed(_), OnPending) => { psci.failed(ids[cpu]); model[cpu] = Off; }
                _ => {}
            }
            for (i, &id) in ids.iter().enumerate() {
                prop_assert_eq!(psci.state(id), model[i]);
                let info = psci.call(ids[0], AFFINITY_INFO_64, [names[i].value(), 0, 0]);
                let expect = match model[i] { On | OffPending => 0, Off => 1, OnPending => 2 };
                prop_assert_eq!(info, Action::Return(expect));
            }
        }
    }

    #[test]
    fn any_call_gives_an_action(fid: u32, psci_fid in 0u32..64, args: [u64; 3], core in 0usize..40) {
        let (mut psci, ..) = machine(4, 3);
        psci.call(CpuId::Core(core), fid, args);
        psci.call(CpuId::Vcpu(core), 0x8400_0000 | (psci_fid & 32) << 25 | psci_fid & 31, args);
    }
}

/// SDEI registers an entry point with the firmware below, which would enter it
/// at EL2.
#[test]
fn linux_may_not_give_el3_entry_points() {
    let cores = [Mpidr::new(0), Mpidr::new(1)];
    let mut psci = Psci::new(&cores, &[], 0);
    for fid in 0xc400_0020..=0xc400_003f {
        let action = psci.call(CpuId::Core(0), fid, [0x4000_0000, 0, 0]);
        assert_eq!(action, Action::Return(taichi_machine::psci::NOT_SUPPORTED));
    }
    assert_eq!(
        psci.call(CpuId::Core(0), 0x8000_0000, [0; 3]),
        Action::Forward
    );
}
