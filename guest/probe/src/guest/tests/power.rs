// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CPUs that go and come, and sleep.

use core::sync::atomic::AtomicI64;
use core::sync::atomic::Ordering::Relaxed;

use crate::guest::cpu::{self, Cpu};
use crate::guest::psci;
use crate::guest::report::check;
use crate::guest::sys;
use crate::guest::tests::{await_or_fail, timer};

/// AFFINITY_INFO: on and off.
const ON: i64 = 0;
const OFF: i64 = 1;

fn leave(_: u64) {
    cpu::this().stop();
}

/// CPU_OFF, AFFINITY_INFO, CPU_ON, and a job on the CPU that came back.
fn round(cpu: &'static Cpu, n: u32) -> bool {
    cpu.post(leave, 0);
    let off = || psci::affinity_info(cpu.mpidr) == OFF;
    if !await_or_fail("CPU_OFF", off) {
        return false;
    }
    let started = cpu.start();
    check!(
        started.is_ok(),
        "round {n}, CPU {}: CPU_ON gave {started:?}",
        cpu.index
    );
    let info = psci::affinity_info(cpu.mpidr);
    check!(
        info == ON,
        "round {n}, CPU {}: AFFINITY_INFO gave {info}",
        cpu.index
    );
    if started.is_ok() {
        cpu.run(|_| {}, 0);
    }
    started.is_ok()
}

/// 200 rounds of each vCPU.
pub fn vcpu_rounds() {
    for cpu in cpu::vcpus() {
        let _ = (0..200).all(|n| round(cpu, n));
    }
}

/// 20 rounds of each real core but the first.
pub fn core_rounds() {
    for cpu in cpu::cores().skip(1) {
        let _ = (0..20).all(|n| round(cpu, n));
    }
}

/// What PSCI must refuse.
pub fn errors() {
    for cpu in cpu::all() {
        let code = psci::cpu_on(cpu.mpidr, 0);
        check!(
            code == psci::ALREADY_ON,
            "CPU_ON of running CPU {} gave {code}",
            cpu.index
        );
        let info = psci::affinity_info(cpu.mpidr);
        check!(
            info == ON,
            "AFFINITY_INFO of running CPU {} gave {info}",
            cpu.index
        );
    }
    for nobody in [0x7f_7f0e, 0xff_00ff_ffff] {
        let code = psci::cpu_on(nobody, 0);
        check!(
            code == psci::INVALID,
            "CPU_ON of MPIDR {nobody:#x} gave {code}"
        );
        let info = psci::affinity_info(nobody);
        check!(
            info == psci::INVALID,
            "AFFINITY_INFO of MPIDR {nobody:#x} gave {info}"
        );
    }
}

/// What PSCI and SMCCC say that they are, and that they are it.
pub fn offer() {
    let version = psci::call([psci::VERSION, 0, 0, 0]);
    check!(
        (0x1_0001..=0x1_0003).contains(&version),
        "PSCI_VERSION {version:#x}"
    );
    let smccc = psci::call([psci::SMCCC_VERSION, 0, 0, 0]);
    check!(smccc >= 0x1_0001, "SMCCC_VERSION {smccc:#x}");
    for there in [psci::CPU_SUSPEND, psci::CPU_ON, psci::SMCCC_VERSION] {
        let code = psci::call([psci::FEATURES, there, 0, 0]);
        check!(code >= 0, "PSCI_FEATURES of {there:#x} gave {code}");
    }
    // SYSTEM_SUSPEND, and the number after the last.
    for absent in [0xc400_000e, 0x8400_001f] {
        for call in [[psci::FEATURES, absent, 0, 0], [absent, 0, 0, 0]] {
            let code = psci::call(call);
            check!(code == psci::NOT_SUPPORTED, "{call:x?} gave {code}");
        }
    }
}

/// A sleep that ends at once would be called hundreds of times a round.
const CALLS: u32 = 50;
/// Power states: standby, and power-down.
const STATES: [u64; 2] = [0, 1 << 16];

/// On each CPU in turn: CPU_SUSPEND until the timer, both ways.
pub fn suspend() {
    for state in STATES {
        suspend_rounds(state);
        for cpu in cpu::all().iter().skip(1) {
            cpu.run(suspend_rounds, state);
        }
    }
}

fn suspend_rounds(state: u64) {
    let me = cpu::this();
    for round in 0..20 {
        let before = me.timers.load(Relaxed);
        let deadline = sys::now() + sys::micros(200);
        timer::arm(deadline);
        // Once the time has come an emulator may still be slow to interrupt.
        let mut calls = 0;
        loop {
            // Masked: the timer must not fire between the look and the call.
            sys::mask();
            if me.timers.load(Relaxed) != before {
                sys::unmask();
                break;
            }
            let entry = crate::guest::boot::entry();
            let code = psci::call([psci::CPU_SUSPEND, state, entry, 0]);
            sys::unmask();
            calls += u32::from(sys::now() < deadline);
            check!(code == 0, "CPU {}: CPU_SUSPEND gave {code}", me.index);
        }
        check!(
            calls <= CALLS,
            "CPU {}, round {round}: {calls} calls of CPU_SUSPEND until the timer",
            me.index
        );
    }
}

/// What the last CPU's PV_TIME_ST returned.
static ADDRESS: AtomicI64 = AtomicI64::new(0);

/// Each CPU has its own stolen-time structure.
pub fn stolen_time() {
    let features = psci::call([psci::PV_TIME_FEATURES, psci::PV_TIME_ST, 0, 0]);
    check!(features == 0, "PV_TIME_FEATURES gave {features}");
    for cpu in cpu::all() {
        let last = ADDRESS.load(Relaxed);
        let ask = |_| ADDRESS.store(psci::call([psci::PV_TIME_ST, 0, 0, 0]), Relaxed);
        if cpu.index == cpu::this().index {
            ask(0);
        } else {
            cpu.run(ask, 0);
        }
        let address = ADDRESS.load(Relaxed);
        check!(
            address > last && address % 64 == 0,
            "CPU {}: PV_TIME_ST gave {address:#x}, the one before {last:#x}",
            cpu.index
        );
    }
}
