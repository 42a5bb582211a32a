// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tests, as a table.

mod chaos;
mod debug;
mod exits;
mod gicr;
mod kicks;
mod park;
mod power;
mod protect;
mod ready;
mod sgi;
mod storm;
mod switches;
mod timer;

use core::sync::atomic::{AtomicU64, Ordering};

use super::bench;
use super::console::say;
use super::cpu::{self, Cpu};
use super::die;
use super::report::{self, check};
use super::sys;

/// What a test needs to mean anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing: it runs on plain QEMU too.
    Nothing,
    /// This many cores, on plain QEMU too.
    Cores(usize),
    /// The firmware, this many cores and vCPUs.
    Vcpus(usize, usize),
}

use Needs::{Cores, Nothing, Vcpus};

/// In an order in which the simple comes first: what fails early explains
/// what fails later.
const TESTS: &[(&str, Needs, fn())] = &[
    ("start", Nothing, start),
    ("exits-on-cores", Nothing, exits::on_cores),
    ("exits-on-vcpus", Vcpus(1, 1), exits::on_vcpus),
    ("protect", Vcpus(1, 0), protect::firmware_memory),
    ("vcpu-frame", Vcpus(1, 1), gicr::frame),
    ("vcpu-frame-enable", Vcpus(1, 1), gicr::enable_and_pend),
    ("irouter", Vcpus(1, 1), gicr::irouter),
    ("sgi-every-number", Cores(2), sgi::every_number),
    ("sgi-others", Cores(2), sgi::others),
    ("sgi-16-at-once", Cores(2), sgi::sixteen_at_once),
    ("sgi-priority-mask", Cores(2), sgi::priority_mask),
    ("sgi-active-priority", Vcpus(1, 1), sgi::active_priority),
    ("timer-wfi", Nothing, timer::wakes_wfi),
    ("timer-ticks", Nothing, timer::ticks),
    ("timer-while-ready", Vcpus(1, 1), timer::while_ready),
    ("debug-registers", Nothing, debug::everywhere),
    ("switch-yield-nothing", Vcpus(2, 0), switches::yield_nothing),
    ("switch-yield-slice", Vcpus(2, 1), switches::yield_slice),
    ("switch-yield-timer", Vcpus(2, 1), switches::yield_timer),
    ("switch-yield-probe", Vcpus(2, 1), switches::yield_probe),
    ("switch-yield-sgi", Vcpus(2, 1), switches::yield_sgi),
    ("switch-yield-spi", Vcpus(2, 1), switches::yield_spi),
    ("switch-yield-pending", Vcpus(2, 1), ready::sgi),
    ("switch-wfi-timer", Vcpus(2, 1), switches::wfi_timer),
    ("switch-vcpu-wfi", Vcpus(1, 1), switches::vcpu_wfi),
    ("switch-forced", Vcpus(1, 1), switches::forced),
    ("switch-rotate", Vcpus(1, 2), switches::rotate),
    ("switch-migrate", Vcpus(3, 1), switches::migrate),
    ("park", Vcpus(2, 1), park::keeps_dp_cores),
    ("park-not-yielding", Vcpus(2, 1), park::yields_once),
    ("probe-native", Vcpus(2, 0), switches::probe_native),
    ("power-errors", Nothing, power::errors),
    ("power-offer", Vcpus(1, 1), power::offer),
    ("power-suspend", Vcpus(1, 1), power::suspend),
    ("power-stolen-time", Vcpus(1, 1), power::stolen_time),
    ("power-vcpu-rounds", Vcpus(1, 1), power::vcpu_rounds),
    ("power-core-rounds", Cores(2), power::core_rounds),
    ("sgi-ping-pong", Cores(2), sgi::ping_pong),
    ("storm", Cores(2), storm::everywhere),
];

/// Before all others, and only where they are asked for by name: whatever they
/// do to the firmware, the tests above must pass after it.
const CHAOS: &[(&str, Needs, fn())] = &[
    ("chaos-strays", Vcpus(1, 1), chaos::strays),
    ("chaos-calls", Vcpus(1, 1), chaos::calls),
    ("chaos-doorbell", Vcpus(1, 1), chaos::doorbell),
    ("chaos-pages", Vcpus(1, 1), chaos::pages),
    ("chaos-user", Vcpus(1, 1), chaos::user),
    ("chaos-registers", Vcpus(1, 1), chaos::registers),
];

/// For a firmware that is built for it, where they are asked for by name.
const FAULTS: &[(&str, Needs, fn())] = &[
    ("kicks-doubled", Vcpus(2, 1), kicks::doubled),
    ("kicks-spurious", Vcpus(2, 1), kicks::spurious),
    ("kicks-lost", Vcpus(2, 1), kicks::lost),
    ("kicks-all-lost", Vcpus(2, 1), kicks::all_lost),
];

/// Runs what the boot arguments ask for: `probe=NAME[,NAME…]` picks tests by
/// the beginnings of their names, `probe=bench` the benchmarks; `die=NAME`
/// makes the firmware die instead; `times=N` is how often each kind of chaos
/// strikes.
pub fn run(args: &str) {
    let wanted = args
        .split_ascii_whitespace()
        .find_map(|a| a.strip_prefix("probe="));
    let traced = args.split_ascii_whitespace().any(|a| a == "trace");
    report::TRACE.store(traced, Ordering::Relaxed);
    let death = args.split_ascii_whitespace();
    if let Some(how) = death.filter_map(|a| a.strip_prefix("die=")).next() {
        report::run("die", || die::run(how));
        return report::done();
    }
    if wanted == Some("bench") {
        report::run("bench", bench::run);
        return report::done();
    }
    let (cores, vcpus) = (cpu::cores().count(), cpu::vcpus().count());
    let extra = |name: &str| name.starts_with("chaos") || name.starts_with("kicks");
    let times = args.split_ascii_whitespace();
    if let Some(n) = times.filter_map(|a| a.strip_prefix("times=")).next() {
        chaos::TIMES.store(n.parse().unwrap_or(0), Ordering::Relaxed);
    }
    let [start, others @ ..] = TESTS else { return };
    for &(name, needs, test) in [start].into_iter().chain(FAULTS).chain(CHAOS).chain(others) {
        let able = match needs {
            Nothing => true,
            Cores(n) => cores >= n,
            Vcpus(c, v) => cpu::header().is_some() && cores >= c && vcpus >= v,
        };
        let asked = name == "start"
            || match wanted {
                Some(wanted) => wanted.split(',').any(|prefix| name.starts_with(prefix)),
                None => !extra(name),
            };
        if able && asked {
            report::run(name, test);
        }
    }
    report::done();
}

fn start() {
    for cpu in cpu::all().iter().skip(1) {
        let started = cpu.start();
        check!(
            started.is_ok(),
            "CPU {}: CPU_ON gave {started:?}",
            cpu.index
        );
    }
    check!(
        cpu::header().is_none() || cpu::cores().any(|c| !c.dp),
        "no CP core among {} cores",
        cpu::cores().count()
    );
    if report::failing() {
        say!("not every CPU runs: nothing else can be tested");
    }
}

/// A word that a spinning CPU waits for: 0, then not.
static GO: AtomicU64 = AtomicU64::new(0);

/// The address of [`GO`], for `act_until`.
fn go_address() -> u64 {
    GO.as_ptr() as u64
}

/// Lets CPUs spin in `act_until` from here on.
fn hold() {
    GO.store(0, Ordering::Release);
}

/// Lets the spinning CPUs go.
fn release() {
    GO.store(1, Ordering::Release);
}

/// Waits for a condition; fails the running test if it doesn't come.
fn await_or_fail(what: &str, condition: impl FnMut() -> bool) -> bool {
    let came = sys::wait_for(cpu::PATIENCE, condition);
    check!(came, "{what}: never; {}", cpu::Whereabouts);
    came
}

/// The first DP core, which the tests of the doorbell need.
fn dp_core() -> Option<&'static Cpu> {
    let core = cpu::cores().find(|c| c.dp);
    check!(core.is_some(), "no DP core: boot with taichi=\"dp=1 ...\"");
    core
}
