// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pages that stage 2 keeps from Linux and the firmware answers for: the
//! doorbell, the control page, and parts of the interrupt controller.

use super::hot::HOT;
use super::machine::{Machine, machine};
use super::{crash, park, sync, vcpu};
use core::sync::atomic::Ordering::SeqCst;
use taichi_abi::telemetry::{Page, Parked};
use taichi_abi::{control, doorbell};
use taichi_el2::percore::Core;
use taichi_el2::vectors::Outcome;
use taichi_el2::{context, read_sysreg, shared};
use taichi_machine::irouter;
use taichi_machine::redist::Effect;
use taichi_machine::sgi_page::{self, Filtered};
use taichi_machine::trap::{self, AccessSize, Trap};

/// Bytes of a vCPU's redistributor: RD_base and SGI_base.
const REDISTRIBUTOR: u64 = 0x2_0000;
/// Offset of SGI_base.
const SGI_BASE: u64 = 0x1_0000;
/// GICR_ISPENDR0 and GICR_ICPENDR0: what is pending is not kept in the frame.
const ISPENDR0: u32 = 0x1_0200;
const ICPENDR0: u32 = 0x1_0280;

/// One load or store.
struct Access {
    /// Intermediate physical address.
    address: u64,
    size: AccessSize,
    /// What is stored; `None` for a load.
    store: Option<u64>,
}

/// A load or store faulted at stage 2 (not a yield). What can't be emulated,
/// or hits nothing, is a bus error for Linux.
#[inline(never)]
pub fn access(core: &mut Core, esr: u64) -> Outcome {
    let Trap::DataAbort {
        write,
        size,
        sign_extend,
        rt,
        wide,
        valid,
        s1ptw,
        fsc,
    } = Trap::decode(esr)
    else {
        return Outcome::Resume;
    };
    let address = trap::fault_ipa(read_sysreg!("hpfar_el2"), read_sysreg!("far_el2"));
    let emulated = valid && !s1ptw && trap::is_translation_fault(fsc);
    let store = write.then(|| core.current().get_x(rt) & size.mask());
    let access = Access {
        address,
        size,
        store,
    };
    match emulated
        .then(|| emulate(machine(), core, &access))
        .flatten()
    {
        Some(value) => {
            core.skip_instruction();
            if write {
                return Outcome::Resume;
            }
            core.give(rt, trap::loaded(value, size, sign_extend, wide))
        }
        None => {
            count(core, Page::Nothing);
            sync::refuse(core, esr);
            context::inject_abort();
            Outcome::Resume
        }
    }
}

/// Counts an access by what is there.
fn count(core: &Core, page: Page) {
    shared::add(&core.counters().accesses[page as usize], 1);
}

/// The value loaded (anything for a store), or `None` if nothing is there.
fn emulate(m: &Machine, core: &mut Core, access: &Access) -> Option<u64> {
    let address = access.address;
    if address & !0xfff == m.pages.doorbell {
        count(core, Page::Window);
        let id = access.address & 0xfff == doorbell::ID as u64;
        return Some(if id { doorbell::MAGIC } else { 0 });
    }
    if address & !0xfff == m.pages.control {
        count(core, Page::Window);
        if let Some(value) = access.store {
            command(m, core, address as usize & 0xfff, value);
        }
        return Some(0);
    }
    if let Some(offset) = address.checked_sub(m.pages.redistributors)
        && offset < m.vcpus as u64 * REDISTRIBUTOR
    {
        count(core, Page::Redistributor);
        let vcpu = (offset / REDISTRIBUTOR) as usize;
        return Some(virtual_redistributor(
            m,
            core,
            vcpu,
            offset % REDISTRIBUTOR,
            access,
        ));
    }
    if let Some(offset) = address.checked_sub(m.distributor.base())
        && irouter::PAGES.contains(&offset)
    {
        count(core, Page::Router);
        return Some(router(m, core, offset, access));
    }
    for target in &m.core[..m.cores] {
        let frame = &target.redistributor;
        if let Some(offset) = address.checked_sub(frame.base())
            && (SGI_BASE..SGI_BASE + 0x1000).contains(&offset)
        {
            count(core, Page::Private);
            return Some(real_sgi_page(frame, offset, access));
        }
    }
    None
}

/// A store to the control page.
fn command(m: &Machine, core: &mut Core, register: usize, value: u64) {
    match (register, value) {
        (control::PROBE, core) => probe(m, core),
        (control::PARK, 0) => park::set(m, core, Parked::No),
        (control::PARK, 1) => park::set(m, core, Parked::Asked),
        #[cfg(feature = "faults")]
        (control::FAULT, value) => super::faults::set(value),
        _ => {}
    }
}

/// An accelerator says that work for this core is on its way.
fn probe(m: &Machine, target: u64) {
    let target = target as usize;
    if target >= m.cores {
        return;
    }
    if HOT.hand(target).post_probe() {
        m.raise(target);
    } else {
        // Other cores store here too: a count, not a truth.
        shared::add(&shared::core(target).probes_late, 1);
    }
}

fn virtual_redistributor(
    m: &Machine,
    core: &mut Core,
    vcpu: usize,
    offset: u64,
    access: &Access,
) -> u64 {
    let mut frames = m.frames.lock();
    let frame = &mut frames.redistributors[vcpu];
    let offset = offset as u32;
    let Some(value) = access.store else {
        let value = frame.read(offset, access.size);
        let live = matches!(offset, ISPENDR0 | ICPENDR0);
        return value
            | if live {
                u64::from(HOT.vcpu(vcpu).pending.load(SeqCst))
            } else {
                0
            };
    };
    let effect = frame.write(offset, access.size, value);
    drop(frames);
    match effect {
        Some(Effect::Enabled(set)) => {
            HOT.vcpu(vcpu).enabled.store(set, SeqCst);
            // What was pending and is enabled now must be seen to; but not be
            // made pending again, because the vCPU may be taking it.
            if vcpu::has_pending(vcpu) {
                vcpu::notify(core, vcpu);
            }
        }
        Some(Effect::Pend(set)) => {
            for intid in (0..32).filter(|i| set & 1 << i != 0) {
                vcpu::pend(core, vcpu, intid);
            }
        }
        Some(Effect::Unpend(set)) => {
            HOT.vcpu(vcpu).pending.fetch_and(!set, SeqCst);
        }
        // Active state lives in list registers; Linux clears it for CPUs that
        // come up, whose list registers are empty.
        Some(Effect::Activate(_) | Effect::Deactivate(_)) | None => {}
    }
    0
}

fn router(m: &Machine, core: &Core, offset: u64, access: &Access) -> u64 {
    let mut frames = m.frames.lock();
    let offset = offset as u32;
    let vcpus = &m.vcpu[..m.vcpus];
    match access.store {
        None => {
            let real = m.distributor.read(u64::from(offset), access.size.bytes());
            frames.router.read(offset, access.size, real, vcpus)
        }
        Some(value) => {
            if let Some(vcpu) = core.vcpu() {
                crash::routed_by(m, vcpu);
            }
            let boot = m.core[m.boot_core].mpidr;
            let write = frames.router.write(offset, access.size, value, vcpus, boot);
            if let Some(w) = write {
                m.distributor
                    .write(u64::from(w.offset), w.size.bytes(), w.value);
            }
            0
        }
    }
}

/// A real core's own SGI and PPI registers, but for EL2's interrupts.
fn real_sgi_page(frame: &taichi_el2::mmio::Frame, offset: u64, access: &Access) -> u64 {
    let bytes = access.size.bytes();
    match access.store {
        None => frame.read(offset, bytes),
        Some(value) => {
            let register = (offset - SGI_BASE) as u32;
            if let Filtered::Write(value) = sgi_page::filter(register, access.size, value) {
                frame.write(offset, bytes, value);
            }
            0
        }
    }
}
