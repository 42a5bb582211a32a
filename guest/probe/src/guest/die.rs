// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes the firmware die, if it was built for that; and shows what the run
//! before this one left, if it died. So a machine that dies and resets by
//! itself comes here twice and ends well.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};

use taichi_abi::control::{FAULT, Fault};
use taichi_abi::epitaph;
use taichi_abi::smccc::{self, Death};

use super::console::{last_words, say};
use super::cpu;
use super::psci;
use super::report::check;
use super::sys;
use super::tree::MAX_CPUS;

/// Calls that leave a record in the firmware's trace: more than an epitaph
/// shows.
const RECORDS: usize = 40;

/// Dies as `how` says: a [`Death`]'s name; `both`: two cores, the second as
/// soon as the first does; `chat`: while all other CPUs print; `asleep`: by
/// starting a core whose redistributor never wakes up; `not`: doesn't.
pub fn run(how: &str) {
    let Some(area) = area() else {
        check!(false, "there is no firmware to die");
        return;
    };
    let mut copy = [0; epitaph::BYTES];
    for (n, byte) in copy.iter_mut().enumerate() {
        *byte = sys::read8(area + n as u64);
    }
    if let Some(old) = epitaph::read(&copy) {
        say!("old epitaph of {} bytes, age {}:", old.text.len(), old.age);
        old.text.lines().for_each(|line| say!("| {line}"));
        return;
    }
    say!(
        "no old epitaph; {} bytes are not 0",
        copy.iter().filter(|&&byte| byte != 0).count()
    );
    if how == "not" {
        return;
    }
    let death = match how {
        "both" => second(),
        "chat" => chat(),
        "asleep" => return asleep(),
        _ => Death::from_name(how),
    };
    let Some(death) = death else {
        check!(false, "\"{how}\" is no way to die");
        return;
    };
    for _ in 0..RECORDS {
        psci::call([psci::VERSION, 0, 0, 0]);
    }
    let answer = die(death);
    check!(false, "the firmware lives on and answers {answer}");
}

fn die(death: Death) -> i64 {
    psci::hvc([smccc::DIE.into(), death as u64, 0, 0])
}

/// Another core that dies at EL2 as soon as the first does.
fn second() -> Option<Death> {
    let other = cpu::cores().find(|core| core.number == 1)?;
    check!(other.start().is_ok(), "no second core");
    static BEFORE: AtomicU64 = AtomicU64::new(u64::MAX);
    let traps = || cpu::core_block(1).traps.load(Relaxed);
    let follow = |_| {
        BEFORE.store(cpu::core_block(1).traps.load(Relaxed), Relaxed);
        die(Death::Second);
    };
    other.post(follow, 0);
    let came = sys::wait_for(cpu::PATIENCE, || traps() > BEFORE.load(Relaxed));
    check!(came, "the second core doesn't call");
    Some(Death::Panic)
}

/// All other CPUs print for ever, none with the lock that keeps lines whole.
fn chat() -> Option<Death> {
    static LINES: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
    let talk = |_| {
        let me = cpu::this();
        loop {
            last_words(format_args!("chat of {}", me.index));
            LINES[me.index].fetch_add(1, Relaxed);
        }
    };
    for cpu in cpu::all().iter().skip(1) {
        check!(cpu.start().is_ok(), "CPU {} doesn't start", cpu.index);
        cpu.post(talk, 0);
    }
    for cpu in cpu::all().iter().skip(1) {
        let lines = || LINES[cpu.index].load(Relaxed);
        let came = sys::wait_for(cpu::PATIENCE, || lines() > 3);
        check!(came, "CPU {} says nothing", cpu.index);
    }
    Some(Death::Panic)
}

/// The second core dies before it has entered this program.
fn asleep() {
    if let (Some(windows), Some(core)) = (cpu::machine().windows, cpu::all().get(1)) {
        let fault = Fault::Asleep.to_each(1);
        sys::write32(windows.control.base + FAULT as u64, fault);
        let started = core.start();
        check!(false, "the firmware lives on; CPU_ON gave {started:?}");
    }
}

/// Where epitaphs are.
fn area() -> Option<u64> {
    let header = cpu::header()?;
    let base = cpu::machine().windows?.telemetry.base;
    Some(base + u64::from(header.epitaph_offset.load(Relaxed)))
}
