// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The emulated redistributor frames, and routes of SPIs to vCPUs.

use core::sync::atomic::Ordering::Relaxed;

use crate::guest::cpu;
use crate::guest::gic;
use crate::guest::report::check;
use crate::guest::sys;
use crate::guest::tests::await_or_fail;

/// Each vCPU has a frame that says who it is, and the last frame says so.
pub fn frame() {
    // GICR_TYPER.Processor_Number and PPInum.
    const BOOT: u64 = 0xffff << 8 | 0x1f << 27;
    let boot = sys::read64(cpu::all()[0].frame + gic::GICR_TYPER);
    let last = cpu::vcpus().map(|v| v.frame).max().unwrap_or(0);
    for vcpu in cpu::vcpus() {
        let frame = vcpu.frame;
        check!(frame != 0, "vCPU {} has no frame", vcpu.number);
        if frame == 0 {
            continue;
        }
        let typer = sys::read64(frame + gic::GICR_TYPER);
        let halves = u64::from(sys::read32(frame + gic::GICR_TYPER))
            | u64::from(sys::read32(frame + gic::GICR_TYPER + 4)) << 32;
        check!(
            typer == halves,
            "TYPER is {typer:#x} whole and {halves:#x} in halves"
        );
        check!(
            typer >> 32 == vcpu.mpidr,
            "TYPER {typer:#x}: not MPIDR {:#x}",
            vcpu.mpidr
        );
        check!(
            (typer >> 4 & 1 == 1) == (frame == last),
            "TYPER {typer:#x}: wrong Last"
        );
        check!(
            typer & 0x8e == 0,
            "TYPER {typer:#x}: VLPIS, Dirty, DirectLPI or RVPEID"
        );
        check!(typer & 1 == 1, "TYPER {typer:#x}: no PLPIS");
        check!(
            (typer ^ boot) & BOOT == 0,
            "TYPER {typer:#x}: not the boot core's Processor_Number and PPInum, {boot:#x}"
        );
        let control = sys::read32(frame);
        check!(control & 1 << 2 == 0, "CTLR {control:#x}: IR");
        let revision = sys::read32(frame + 0xffe8) >> 4 & 0xf;
        check!(revision == 3, "PIDR2 says GICv{revision}");
        let waker = sys::read32(frame + gic::GICR_WAKER);
        check!(waker & 6 == 0, "WAKER is {waker:#x} after wake-up");
        let enabled = sys::read32(frame + gic::GICR_ISENABLER);
        check!(
            enabled == 0xffff | 1 << gic::TIMER,
            "ISENABLER0 is {enabled:#x}"
        );
        check!(
            sys::read32(frame + gic::GICR_ICENABLER) == enabled,
            "ICENABLER0 differs"
        );
        priorities(frame);
    }
}

fn priorities(frame: u64) {
    let at = frame + gic::GICR_PRIORITY + 8;
    sys::write8(at + 2, 0x60);
    let word = sys::read32(at);
    check!(
        word == 0xa060_a0a0,
        "IPRIORITYR2 is {word:#x} after a byte store"
    );
    sys::write32(at, 0xa0a0_a0a0);
    let byte = sys::read8(at + 2);
    check!(byte == 0xa0, "priority is {byte:#x} after a word store");
}

/// SGIs are held back while disabled, and can be made pending and not pending
/// through the frame from another CPU.
pub fn enable_and_pend() {
    const NUMBER: u64 = 6;
    const BIT: u32 = 1 << NUMBER;
    for vcpu in cpu::vcpus() {
        let before = vcpu.sgi(NUMBER);
        let came = || vcpu.sgi(NUMBER) - before;
        let pending = || sys::read32(vcpu.frame + gic::GICR_ISPENDR) & BIT != 0;
        sys::write32(vcpu.frame + gic::GICR_ICENABLER, BIT);
        gic::send(gic::sgi_to(NUMBER, vcpu.mpidr));
        sys::spin(5_000);
        check!(came() == 0, "vCPU {}: a disabled SGI came", vcpu.number);
        check!(
            pending(),
            "vCPU {}: a disabled SGI isn't pending",
            vcpu.number
        );
        sys::write32(vcpu.frame + gic::GICR_ICPENDR, BIT);
        check!(
            !pending(),
            "vCPU {}: ICPENDR0 left an SGI pending",
            vcpu.number
        );
        sys::write32(vcpu.frame + gic::GICR_ISENABLER, BIT);
        sys::spin(5_000);
        check!(came() == 0, "vCPU {}: a cleared SGI came", vcpu.number);
        sys::write32(vcpu.frame + gic::GICR_ICENABLER, BIT);
        gic::send(gic::sgi_to(NUMBER, vcpu.mpidr));
        sys::write32(vcpu.frame + gic::GICR_ISENABLER, BIT);
        await_or_fail("an SGI that was enabled late", || came() == 1);
        sys::write32(vcpu.frame + gic::GICR_ISPENDR, BIT);
        await_or_fail("an SGI by ISPENDR0", || came() == 2);
    }
}

/// A route reads back as written, and the interrupt arrives once: at the core
/// that it names, or at the boot core where it names a vCPU.
pub fn irouter() {
    const INTID: u32 = 61;
    let gicd = cpu::machine().gicd;
    let register = gicd + gic::GICD_IROUTER + 8 * u64::from(INTID);
    let sum = || cpu::all().iter().map(|c| c.spis.load(Relaxed)).sum::<u32>();
    for vcpu in cpu::all().iter().rev() {
        gic::init_spi(gicd, INTID, vcpu.mpidr);
        let found = sys::read64(register);
        check!(
            found == vcpu.mpidr,
            "IROUTER is {found:#x}, not {:#x}",
            vcpu.mpidr
        );
        let half = sys::read32(register);
        check!(
            u64::from(half) == vcpu.mpidr & 0xffff_ffff,
            "half of IROUTER is {half:#x}"
        );
        let receiver = if vcpu.virt { &cpu::all()[0] } else { vcpu };
        let here = receiver.spis.load(Relaxed);
        let before = sum();
        gic::raise_spi(gicd, INTID);
        await_or_fail("an SPI routed to a vCPU", || sum() != before);
        sys::spin(1_000);
        check!(sum() == before + 1, "an SPI came {} times", sum() - before);
        let taken = receiver.spis.load(Relaxed) - here;
        check!(taken == 1, "an SPI came elsewhere than to its receiver");
    }
}
