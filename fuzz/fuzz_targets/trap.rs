// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No register value makes a decoder panic, nor any order of stores the
//! emulated parts of the interrupt controller and of PSCI; EL2's own
//! interrupts stay as they are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taichi_machine::affinity::{Mpidr, vcpu_mpidr};
use taichi_machine::irouter::{PAGES, Router};
use taichi_machine::psci::{CpuId, Psci};
use taichi_machine::redist::VirtualRedistributor;
use taichi_machine::sgi_page::{Filtered, PROTECTED, filter};
use taichi_machine::spi::Spi;
use taichi_machine::trap::{AccessSize, SgiTargets, Trap, fault_ipa, loaded};

/// One trap: ESR_EL2, FAR_EL2 and a general register.
type Step = (u64, u64, u64);

fuzz_target!(|steps: Vec<Step>| {
    let cores: Vec<_> = (0..4).map(Mpidr::new).collect();
    let vcpus: Vec<_> = (0..3).map(|i| vcpu_mpidr(i, &cores)).collect();
    let mut psci = Psci::new(&cores, &vcpus, 0);
    let mut frame = VirtualRedistributor::new(vcpus[0], 0x11, 0x43b, true);
    let mut router = Router::new();
    let mut routes = [0u64; (PAGES.end - PAGES.start) as usize / 8];
    for (esr, far, value) in steps {
        let offset = fault_ipa(0, far) as u32 | (far >> 32) as u32 & 0x1_f000;
        match Trap::decode(esr) {
            Trap::SysReg { op, rt, .. } => {
                assert!(op & 0x3e1 == 0 && rt < 32);
                let targets = SgiTargets::decode(value);
                assert!(targets.iter().all(|cpu| targets.includes(cpu, vcpus[0])));
            }
            Trap::DataAbort {
                write,
                size,
                sign_extend,
                wide,
                ..
            } => {
                loaded(value, size, sign_extend, wide);
                if write {
                    frame.write(offset, size, value);
                    real_page(offset & 0xfff, size, value);
                    let write = router.write(offset, size, value, &vcpus, cores[0]);
                    let Some(write) = write else { continue };
                    if write.size == AccessSize::Double
                        && let Some(route) = write.offset.checked_sub(PAGES.start as u32)
                        && let Some(route) = routes.get_mut(route as usize / 8)
                    {
                        *route = write.value;
                        // Around them are reserved registers, which pass.
                        let spi = Spi::routed_at(write.offset);
                        assert!(spi.is_none() || !vcpus.iter().any(|v| v.value() == write.value));
                    }
                } else {
                    let read = frame.read(offset, size);
                    assert_eq!(read & !size.mask(), 0);
                    router.read(offset, size, value, &vcpus);
                }
            }
            Trap::Smc => {
                let caller = match far % 7 {
                    vcpu @ 4.. => CpuId::Vcpu(vcpu as usize - 4),
                    core => CpuId::Core(core as usize),
                };
                psci.call(caller, value as u32, [far, value >> 32, esr]);
                assert_eq!(
                    psci.state(CpuId::Core(0)),
                    taichi_machine::psci::CpuState::On
                );
            }
            _ => {}
        }
    }
});

/// A store to a real core's page leaves EL2's interrupts enabled.
fn real_page(offset: u32, size: AccessSize, value: u64) {
    if let Filtered::Write(value) = filter(offset, size, value)
        && matches!(offset, 0x180 | 0x380 | 0xd00)
    {
        assert_eq!(value as u32 & PROTECTED, 0);
    }
}
