// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest.

mod attack;
mod bench;
mod boot;
mod console;
mod cpu;
mod die;
mod frame;
mod gic;
mod lock;
mod mmu;
mod more;
mod psci;
mod report;
mod sys;
mod tests;
mod trace;
mod tree;
mod vectors;

use core::panic::PanicInfo;

use console::say;
use sys::set;

#[unsafe(no_mangle)]
extern "C" fn first_cpu(tree: u64) -> ! {
    set!("vbar_el1", vectors::table(0));
    // The windows aren't known yet; the tables are completed once they are.
    cpu::enable_mmu(0, 0);
    let (machine, args) = match tree::read(tree) {
        Ok(read) => read,
        Err(why) => panic!("{why}"),
    };
    if machine.uart != 0 {
        console::init(machine.uart);
    }
    psci::init(machine.hvc);
    cpu::enable_mmu(0, machine.windows.map_or(0, |w| w.doorbell.base));
    gic::init_distributor(machine.gicd);
    cpu::init(machine);
    cpu::this().init_self();
    sys::unmask();
    let (cores, vcpus) = (cpu::cores().count(), cpu::vcpus().count());
    say!("probe: {cores} cores, {vcpus} vCPUs, args \"{args}\"");
    if let Some(windows) = cpu::machine().windows {
        say!("probe: telemetry at {:#x}", windows.telemetry.base);
    }
    tests::run(args);
    psci::system_off()
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    set!("daif", 0x3c0);
    console::last_words(format_args!("FAIL panic: {}", info.message()));
    if let Some(place) = info.location() {
        console::last_words(format_args!("  at {}:{}", place.file(), place.line()));
    }
    report::give_up()
}
