// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The end: a panic or a fault at EL2 leaves an epitaph on the console and in
//! RAM, then resets the machine. A second one while doing so resets at once.

use crate::console::Console;
use crate::{memory, read_sysreg, shared, smc, timer};
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};
use taichi_abi::trace::{Event, RECORDS};

/// Set by the first core that dies.
static DYING: AtomicU32 = AtomicU32::new(0);
/// Trace records in an epitaph.
const TRACED: u64 = 32;

/// The epitaph in RAM: text in the telemetry window's last two pages.
struct Stone {
    used: usize,
}

/// Bytes of the epitaph in RAM.
pub const STONE: u64 = 2 * memory::PAGE;

impl Write for Stone {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let area = memory::telemetry();
        for &byte in s.as_bytes() {
            if self.used as u64 + 1 < STONE {
                // SAFETY: in the window's last pages, which nothing else uses;
                // the index was checked.
                unsafe {
                    ((area.end - STONE + self.used as u64) as *mut u8).write_volatile(byte);
                }
                self.used += 1;
            }
        }
        let _ = Console.write_str(s);
        Ok(())
    }
}

/// Panics come here.
#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    epitaph(|stone| writeln!(stone, "reason: {info}"))
}

/// Exceptions that must not happen come here, on the fault stack. `frame` is
/// the stack pointer of the moment.
#[unsafe(no_mangle)]
extern "C" fn taichi_fatal(vector: u64, frame: u64) -> ! {
    epitaph(|stone| {
        let reason = match vector {
            4 => "exception at EL2",
            5..=7 => "interrupt or SError at EL2",
            12..=15 => "exception from AArch32",
            10 => "FIQ from EL1: Group 0 is not ours",
            _ => "unexpected exception",
        };
        writeln!(
            stone,
            "reason: {reason} (vector {vector}), stack {frame:#x}"
        )
    })
}

/// Ends the machine because of `reason`.
pub fn die(reason: &str) -> ! {
    epitaph(|stone| writeln!(stone, "reason: {reason}"))
}

fn epitaph(reason: impl FnOnce(&mut Stone) -> fmt::Result) -> ! {
    if DYING.swap(1, Ordering::SeqCst) != 0 {
        smc::reset();
    }
    let stone = &mut Stone { used: 0 };
    // Nothing sensible can be done where writing fails.
    let _ = write(stone, reason);
    smc::reset()
}

fn write(stone: &mut Stone, reason: impl FnOnce(&mut Stone) -> fmt::Result) -> fmt::Result {
    // Started at EL1, none of EL2's registers can be read.
    if read_sysreg!("currentel") >> 2 & 3 != 2 {
        writeln!(stone, "\ntaichi: the firmware died at EL1")?;
        return reason(stone);
    }
    let id = read_sysreg!("tpidr_el2") as usize;
    writeln!(
        stone,
        "\ntaichi: the firmware died on core {id}; the machine will be reset"
    )?;
    reason(stone)?;
    writeln!(stone, "build: {:016x}", memory::build_id())?;
    writeln!(
        stone,
        "image: {:#x}, time: {} ticks",
        memory::image().start,
        timer::now()
    )?;
    writeln!(
        stone,
        "ESR_EL2 {:#x} ELR_EL2 {:#x} FAR_EL2 {:#x} HPFAR_EL2 {:#x} SPSR_EL2 {:#x} HCR_EL2 {:#x}",
        read_sysreg!("esr_el2"),
        read_sysreg!("elr_el2"),
        read_sysreg!("far_el2"),
        read_sysreg!("hpfar_el2"),
        read_sysreg!("spsr_el2"),
        read_sysreg!("hcr_el2"),
    )?;
    writeln!(
        stone,
        "ELR_EL1 {:#x} ESR_EL1 {:#x} FAR_EL1 {:#x} SPSR_EL1 {:#x} SP_EL1 {:#x} VBAR_EL1 {:#x}",
        read_sysreg!("elr_el1"),
        read_sysreg!("esr_el1"),
        read_sysreg!("far_el1"),
        read_sysreg!("spsr_el1"),
        read_sysreg!("sp_el1"),
        read_sysreg!("vbar_el1"),
    )?;
    writeln!(
        stone,
        "last events on core {id} (ticks, event, vCPU, argument), oldest first:"
    )?;
    let ring = shared::ring(id);
    let head = ring.head.load(Ordering::Relaxed);
    for n in head.saturating_sub(TRACED)..head {
        let record = &ring.records[n as usize % RECORDS];
        let word = record.word.load(Ordering::Relaxed);
        let event = Event::from_number(word as u8).unwrap_or(Event::None);
        let ticks = record.ticks.load(Ordering::Relaxed);
        writeln!(
            stone,
            "  {ticks} {event:?} {:#x} {:#x}",
            (word >> 8) as u8,
            word >> 16
        )?;
    }
    Ok(())
}
