// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every class of exit, one at a time, with a full frame around it: it must
//! give what it promises and change nothing else.

use taichi_abi::{doorbell, smccc};

use crate::guest::cpu::{self, Cpu};
use crate::guest::frame::{Action, Frame, Register};
use crate::guest::sys;
use crate::guest::{gic, psci};

/// An exit: executes it on a fresh frame and says what it may change.
pub type Exit = fn(&'static Cpu, Frame) -> Frame;

/// Exits that mean the same with and without the firmware.
const PLAIN: &[(&str, Exit)] = &[
    ("nothing", |_, f| f.run(Action::act_nop)),
    ("send an SGI to self", |me, f| {
        f.x(0, gic::sgi_to(5, me.mpidr)).run(Action::act_send_sgi)
    }),
    ("send SGI 0 to the first CPU", |_, f| {
        f.x(0, gic::sgi_to(0, cpu::all()[0].mpidr))
            .run(Action::act_send_sgi)
    }),
    ("send an SGI to the last CPU", |_, f| {
        f.x(0, gic::sgi_to(6, cpu::all()[cpu::all().len() - 1].mpidr))
            .run(Action::act_send_sgi)
    }),
    ("send SGI 0 to the last CPU", |_, f| {
        f.x(0, gic::sgi_to(0, cpu::all()[cpu::all().len() - 1].mpidr))
            .run(Action::act_send_sgi)
    }),
    ("send an SGI to nobody", |me, f| {
        f.x(0, gic::sgi_to(5, me.mpidr) & !0xffff)
            .run(Action::act_send_sgi)
    }),
    ("send an SGI to an MPIDR without a CPU", |_, f| {
        f.x(0, gic::sgi_to(5, 0x7f_7f0e)).run(Action::act_send_sgi)
    }),
    ("send an SGI to all others", |_, f| {
        f.x(0, gic::sgi_to_others(7)).run(Action::act_send_sgi)
    }),
    ("read ICC_CTLR", |_, f| f.run(Action::act_read_ctlr).any(0)),
    ("write ICC_CTLR", |_, f| {
        f.x(0, 0).run(Action::act_write_ctlr)
    }),
    ("read ICC_PMR", |_, f| {
        let pmr = f.want.system[Register::Pmr as usize];
        f.run(Action::act_read_pmr).gives(0, pmr)
    }),
    ("write ICC_PMR", |_, f| {
        f.x(0, 0xd0)
            .run(Action::act_write_pmr)
            .becomes(Register::Pmr, 0xd0)
    }),
    ("read ICC_RPR", |_, f| {
        f.run(Action::act_read_rpr).gives(0, 0xff)
    }),
    ("PSCI unknown function", |_, f| {
        psci_action(f.x(0, 0x8400_00ff))
            .gives(0, u64::MAX)
            .any(1)
            .any(2)
            .any(3)
    }),
    ("PSCI VERSION", |_, f| {
        let f = psci_action(f.x(0, psci::VERSION)).any(1).any(2).any(3);
        let version = if f.got.x[0] >= 0x1_0000 {
            f.got.x[0]
        } else {
            0x1_0000
        };
        f.gives(0, version)
    }),
    ("WFI until the timer", |_, f| {
        let deadline = sys::now() + sys::micros(30);
        let f = f
            .with(Register::CntvCval, deadline)
            .with(Register::CntvCtl, 1)
            .run(Action::act_wfi);
        fired(f)
    }),
    ("read the frame's TYPER, 64 bit", |me, f| {
        load(
            f,
            Action::act_load64,
            me.frame + gic::GICR_TYPER,
            sys::read64(me.frame + 8),
        )
    }),
    ("read the frame's TYPER, 32 bit", |me, f| {
        let high = sys::read32(me.frame + gic::GICR_TYPER + 4);
        load(
            f,
            Action::act_load32,
            me.frame + gic::GICR_TYPER + 4,
            high.into(),
        )
    }),
    ("read a frame's register into XZR", |me, f| {
        f.x(0, me.frame + gic::GICR_TYPER)
            .run(Action::act_load_zero)
    }),
    ("read the frame's priority, 8 bit", |me, f| {
        load(
            f,
            Action::act_load8,
            me.frame + gic::GICR_PRIORITY + 5,
            gic::PRIORITY.into(),
        )
    }),
    ("read the frame's priority, sign extended", |me, f| {
        let want = 0xffff_ffff_a0a0_a0a0;
        load(
            f,
            Action::act_load_signed,
            me.frame + gic::GICR_PRIORITY + 4,
            want,
        )
    }),
    ("write the frame's priority, 8 bit", |me, f| {
        let f = f.x(0, me.frame + gic::GICR_PRIORITY + 5).x(1, 0xa0);
        f.run(Action::act_store8)
    }),
    ("write the frame's enable, 32 bit", |me, f| {
        f.x(0, me.frame + gic::GICR_ISENABLER)
            .x(1, 1 << 8)
            .run(Action::act_store32)
    }),
    ("read GICD_IROUTER", |_, f| {
        let address = cpu::machine().gicd + gic::GICD_IROUTER + 8 * 50;
        load(f, Action::act_load64, address, sys::read64(address))
    }),
    ("write GICD_IROUTER", |_, f| {
        let address = cpu::machine().gicd + gic::GICD_IROUTER + 8 * 50;
        f.x(0, address)
            .x(1, cpu::all()[0].mpidr)
            .run(Action::act_store64)
    }),
    ("write half of GICD_IROUTER", |_, f| {
        let address = cpu::machine().gicd + gic::GICD_IROUTER + 8 * 50;
        f.x(0, address)
            .x(1, cpu::all()[0].mpidr & 0xff_ffff)
            .run(Action::act_store32)
    }),
    ("count", |_, f| {
        f.x(1, 5000).run(Action::act_count).gives(1, 0)
    }),
];

/// Exits that only the firmware answers.
const FIRMWARE: &[(&str, Exit)] = &[
    ("HVC null call", |_, f| {
        let f = f.x(0, smccc::VERSION.into()).run(Action::act_hvc);
        f.gives(0, taichi_abi::VERSION.into()).any(1).any(2).any(3)
    }),
    ("HVC UID", |_, f| {
        let mut f = f.x(0, smccc::UID.into()).run(Action::act_hvc);
        for (n, word) in smccc::UID_WORDS.into_iter().enumerate() {
            f = f.gives(n, word.into());
        }
        f
    }),
    ("HVC unknown function", |_, f| {
        f.x(0, 0xc600_7777)
            .run(Action::act_hvc)
            .gives(0, u64::MAX)
            .any(1)
            .any(2)
            .any(3)
    }),
    ("read the doorbell's identity", |_, f| {
        load(
            f,
            Action::act_load64,
            doorbell() + doorbell::ID as u64,
            doorbell::MAGIC,
        )
    }),
    ("read the doorbell's identity, 32 bit", |_, f| {
        let low = doorbell::MAGIC & 0xffff_ffff;
        load(f, Action::act_load32, doorbell() + doorbell::ID as u64, low)
    }),
    ("read nothing from the doorbell", |_, f| {
        load(f, Action::act_load64, doorbell() + 0x100, 0)
    }),
    ("store to the doorbell", |_, f| {
        f.x(0, doorbell()).run(Action::act_store64)
    }),
    ("store to the doorbell, 8 bit", |_, f| {
        f.x(0, doorbell()).run(Action::act_store8)
    }),
    ("yield", |_, f| yielded(f, Action::act_load64)),
    ("yield, 32 bit", |_, f| yielded(f, Action::act_load32)),
    ("yield into XZR", |_, f| {
        f.x(0, doorbell()).run(Action::act_load_zero)
    }),
    ("store a probe", |_, f| {
        f.x(0, control()).x(1, 0).run(Action::act_store32)
    }),
    ("store a probe for no core", |_, f| {
        f.x(0, control()).x(1, 0xffff_fff0).run(Action::act_store32)
    }),
    ("read the control page", |_, f| {
        load(f, Action::act_load64, control(), 0)
    }),
    ("store elsewhere in the control page", |_, f| {
        f.x(0, control() + 0x800).run(Action::act_store64)
    }),
];

fn doorbell() -> u64 {
    cpu::machine().windows.map_or(0, |w| w.doorbell.base)
}

fn control() -> u64 {
    cpu::machine().windows.map_or(0, |w| w.control.base)
}

/// PSCI by the conduit that the machine has.
fn psci_action(f: Frame) -> Frame {
    f.run(if cpu::machine().hvc {
        Action::act_hvc
    } else {
        Action::act_smc
    })
}

fn load(f: Frame, action: Action, address: u64, value: u64) -> Frame {
    f.x(0, address).run(action).gives(1, value)
}

/// A yield may end for any reason, but for one that exists.
fn yielded(f: Frame, action: Action) -> Frame {
    let f = f.x(0, doorbell()).run(action);
    let found = f.got.x[1];
    let reason = doorbell::Reason::from_value(found).map_or(u64::MAX, |r| r as u64);
    f.gives(1, reason)
}

/// The timer may have fired: then ISTATUS is set, and the firmware may have
/// masked it. (Another interrupt can end a WFI first.)
pub fn fired(f: Frame) -> Frame {
    let ctl = f.got.system[Register::CntvCtl as usize] & 7;
    f.becomes(
        Register::CntvCtl,
        if [1, 7].contains(&ctl) { ctl } else { 5 },
    )
}

/// How many exits there are here.
pub fn count() -> usize {
    PLAIN.len()
        + if cpu::header().is_some() {
            FIRMWARE.len()
        } else {
            0
        }
}

/// Executes exit number `n` on the calling CPU and checks its frame.
pub fn one(me: &'static Cpu, n: usize, round: u64) {
    let (name, exit) = *PLAIN.iter().chain(FIRMWARE).nth(n).unwrap_or(&PLAIN[0]);
    exit(me, Frame::new(me, round)).verify(name);
}

fn each_exit(rounds: u64) {
    let me = cpu::this();
    for round in 0..rounds {
        for n in 0..count() {
            one(me, n, round);
        }
    }
}

/// Each exit, 16 times on each core, one core at a time.
pub fn on_cores() {
    each_exit(16);
    for cpu in cpu::cores().skip(1) {
        cpu.run(each_exit, 16);
    }
}

/// The same on vCPUs; the first core idles, so that there is a core for them.
pub fn on_vcpus() {
    for cpu in cpu::vcpus() {
        cpu.run(each_exit, 16);
    }
}
