// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Traps: synchronous exceptions from EL1 and EL0. The most frequent first,
//! and decoded just as far as they need.

use super::hot::HOT;
use super::{crash, lend, pages, power, reclaim, sgi};
use core::sync::atomic::Ordering::Relaxed;
use taichi_abi::doorbell;
use taichi_abi::smccc;
use taichi_abi::trace::Event;
use taichi_el2::context;
use taichi_el2::percore::Core;
use taichi_el2::vectors::Outcome;
use taichi_el2::{fault, features, gic, read_sysreg, shared, timer};
use taichi_machine::features::{IdRegister, visible};
use taichi_machine::psci::NOT_SUPPORTED;
use taichi_machine::trap::{self, Trap, ec};

/// A synchronous exception from EL1 or EL0.
#[inline]
pub fn sync(core: &mut Core) -> Outcome {
    let esr = read_sysreg!("esr_el2");
    if is_yield(esr) {
        context::skip_instruction();
        return lend::yielded(core, (esr >> 16) as u8 & 31);
    }
    match (esr >> 26) as u8 & 0x3f {
        ec::SYSREG => {
            if let Trap::SysReg {
                op: trap::ICC_SGI1R_EL1,
                rt,
                write: true,
            } = Trap::decode(esr)
            {
                context::skip_instruction();
                let value = core.current().get_x(rt);
                return sgi::send(core, value);
            }
        }
        ec::HVC if core.current().get_x(0) as u32 == smccc::VERSION => {
            shared::add(&core.counters().traps, 1);
            core.current().set_x(0, u64::from(taichi_abi::VERSION));
            return Outcome::Resume;
        }
        _ => {}
    }
    rare(core, esr)
}

/// A load of one register from the yield register: ISV, a fault address there,
/// not S1PTW, not WnR.
#[inline]
fn is_yield(esr: u64) -> bool {
    const ISV: u32 = 1 << 24;
    const IL: u32 = 1 << 25;
    const CLASS: u32 = (ec::DATA_ABORT as u32) << 26;
    const S1PTW: u64 = 1 << 7;
    const WNR: u64 = 1 << 6;
    const _: () = assert!(doorbell::YIELD == 0);
    esr as u32 & (0xff << 24) & !IL == CLASS | ISV
        && read_sysreg!("hpfar_el2") == HOT.doorbell_hpfar.load(Relaxed)
        && esr & (S1PTW | WNR) == 0
        && read_sysreg!("far_el2") & 0xfff == 0
}

#[inline(never)]
fn rare(core: &mut Core, esr: u64) -> Outcome {
    shared::add(&core.counters().traps, 1);
    match Trap::decode(esr) {
        Trap::Wfx { wfe: false } => match core.vcpu() {
            Some(vcpu) => reclaim::vcpu_idle(core, vcpu),
            None => lend::idle(core),
        },
        Trap::Wfx { wfe: true } | Trap::WfxTimeout => {
            core.skip_instruction();
            Outcome::Resume
        }
        Trap::Float => {
            core.give_float();
            Outcome::Resume
        }
        Trap::SysReg { op, rt, write } => system_register(core, op, rt, write, esr),
        Trap::DataAbort { .. } => pages::access(core, esr),
        Trap::Smc => {
            core.skip_instruction();
            power::call(core)
        }
        Trap::Hvc(_) => {
            hypercall(core);
            Outcome::Resume
        }
        Trap::InstAbort { .. } if crash::is_parked(core) => lend::sleep(core),
        Trap::InstAbort { .. } => {
            refuse(core, esr);
            context::inject_fetch_abort();
            Outcome::Resume
        }
        Trap::Other(_) => {
            refuse(core, esr);
            context::inject_undefined();
            Outcome::Resume
        }
    }
}

/// Records a trap that the firmware has no answer for. While the machine dies
/// these are all that Linux does, and the core stops here.
pub fn refuse(core: &Core, esr: u64) {
    fault::stop_if_dying();
    core.trace(timer::now(), Event::Trap, core.vcpu(), esr);
}

/// Vendor hypervisor calls (SMCCC, Arm DEN 0028, 6.2) by HVC.
#[inline(never)]
fn hypercall(core: &mut Core) {
    let x = core.current().arguments();
    match x[0] as u32 {
        smccc::UID => {
            for (x, word) in x.iter_mut().zip(smccc::UID_WORDS) {
                *x = u64::from(word);
            }
        }
        #[cfg(feature = "faults")]
        smccc::DIE => taichi_el2::faults::die(x[1]),
        _ => x[0] = NOT_SUPPORTED as u64,
    }
}

/// The registers that ICH_HCR_EL2.TC traps on DP cores, where the physical
/// CPU interface is Linux's; a vCPU's physical timer, which it hasn't; ID and
/// debug registers; the performance counters, which nobody has.
#[inline(never)]
fn system_register(core: &mut Core, op: u32, rt: u8, write: bool, esr: u64) -> Outcome {
    const CNTP_TVAL_EL0: u32 = trap::sysreg(3, 3, 14, 2, 0);
    const CNTP_CTL_EL0: u32 = trap::sysreg(3, 3, 14, 2, 1);
    const CNTP_CVAL_EL0: u32 = trap::sysreg(3, 3, 14, 2, 2);
    shared::add(&core.counters().registers, 1);
    let value = core.current().get_x(rt);
    let read = match (op, write) {
        (trap::ICC_CTLR_EL1, true) => {
            // EL2 ends its own interrupts as EOImode 0 wants it.
            gic::write_control(value & !gic::EOI_MODE);
            0
        }
        (trap::ICC_CTLR_EL1, false) => gic::read_control(),
        (trap::ICC_PMR_EL1, true) => {
            gic::set_priority_mask(value);
            0
        }
        (trap::ICC_PMR_EL1, false) => gic::priority_mask(),
        (trap::ICC_RPR_EL1, false) => gic::running_priority(),
        (trap::ICC_DIR_EL1, true) => {
            gic::deactivate(value as u32);
            0
        }
        // Group 0 and Secure SGIs are not Linux's to send.
        (trap::ICC_SGI0R_EL1 | trap::ICC_ASGI1R_EL1, true) => 0,
        (CNTP_TVAL_EL0 | CNTP_CTL_EL0 | CNTP_CVAL_EL0, _) => 0,
        _ if !write && let Some(register) = IdRegister::decode(op) => {
            visible(register, features::id_register(register))
        }
        _ if trap::is_performance_counter(op) => 0,
        // Nor are Group 0 interrupts its own to take: they would be FIQs at EL2.
        _ if let Some(read) = trap::group_0(op) => read,
        _ => match debug_register(core, op, value, write) {
            Some(read) => read,
            None => {
                refuse(core, esr);
                context::inject_undefined();
                return Outcome::Resume;
            }
        },
    };
    core.skip_instruction();
    if write {
        Outcome::Resume
    } else {
        core.give(rt, read)
    }
}

/// An access to a debug register; gives what is read. `None`: there is no such
/// register.
fn debug_register(core: &mut Core, op: u32, value: u64, write: bool) -> Option<u64> {
    if write {
        core.write_debug(op, value).map(|()| 0)
    } else {
        core.read_debug(op)
    }
}
