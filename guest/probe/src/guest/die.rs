// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes the firmware die, if it was built for that; and shows what the run
//! before this one left, if it died. So a machine that dies and resets by
//! itself comes here twice and ends well.

use core::sync::atomic::Ordering::Relaxed;

use taichi_abi::epitaph::{self, Header};
use taichi_abi::smccc::{self, Death};

use super::console::say;
use super::cpu;
use super::psci;
use super::report::check;
use super::sys;

/// Calls that leave a record in the firmware's trace: more than an epitaph
/// shows.
const RECORDS: usize = 40;

/// Dies as `how` says: a [`Death`]'s name; `both`: two cores, the second while
/// the first writes its epitaph; `not`: doesn't.
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
        "both" => second(area),
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

/// Another core that dies as soon as it sees the first's epitaph begin.
fn second(area: u64) -> Option<Death> {
    let other = cpu::cores().find(|core| core.index != 0)?;
    check!(other.start().is_ok(), "no second core");
    let follow = |area| {
        // SAFETY: the stone's header, which is never unmapped; atomics.
        let header = unsafe { &*(area as *const Header) };
        while header.magic.load(Relaxed) != epitaph::MAGIC {
            core::hint::spin_loop();
        }
        die(Death::GiveUp);
    };
    other.post(follow, area);
    Some(Death::Panic)
}

/// Where epitaphs are.
fn area() -> Option<u64> {
    let header = cpu::header()?;
    let base = cpu::machine().windows?.telemetry.base;
    Some(base + u64::from(header.epitaph_offset.load(Relaxed)))
}
