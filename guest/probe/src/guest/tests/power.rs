// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CPUs that go and come.

use crate::guest::cpu::{self, Cpu};
use crate::guest::psci;
use crate::guest::report::check;
use crate::guest::tests::await_or_fail;

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
