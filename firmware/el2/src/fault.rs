// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The end: a panic or a fault at EL2 leaves an epitaph on the console and in
//! RAM ([`crate::stone`]), then resets the machine.
//!
//! Dying is a row of steps, each taken once: a fault or panic in one of them
//! comes back here and goes on with the next, the last of which resets.

use crate::console::{self, Console};
use crate::stone::{self, Stone};
use crate::{boot, memory, read_sysreg, shared, smc, stop, timer};
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};
use taichi_abi::epitaph::{END, REASON};
use taichi_abi::trace::{Event, RECORDS};

/// The first core that dies, plus one.
static DYING: AtomicU32 = AtomicU32::new(0);
/// What that core does next, from [`step`]. Loads and stores alone: started at
/// EL1, the MMU is off, where exclusives may never succeed.
static STEP: AtomicU32 = AtomicU32::new(step::STOP);
/// Trace records in an epitaph.
const TRACED: u64 = 32;
/// Seconds that a core which dies second leaves to the first for its epitaph:
/// 4,000 characters take a third of one at 115,200 baud, but a host that
/// emulates the core may stop it.
const PATIENCE: u64 = 10;

/// The steps; after them comes the reset.
pub(crate) mod step {
    /// Linux is stopped on all cores.
    pub const STOP: u32 = 0;
    /// The epitaph is written in RAM.
    pub const WRITE: u32 = 1;
    /// If that was cut off, why.
    pub const NOTE: u32 = 2;
    /// What was written goes to the console.
    pub const PRINT: u32 = 3;
    /// The epitaph is made to last.
    pub const KEEP: u32 = 4;
}

type Reason<'a> = &'a dyn Fn(&mut Stone) -> fmt::Result;

/// Panics come here.
#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    epitaph(&|stone| {
        write!(stone, "{REASON}panic: {}", info.message())?;
        match info.location() {
            Some(place) => writeln!(stone, ", at {place}"),
            None => writeln!(stone),
        }
    })
}

/// Ends the machine because of `reason`.
#[track_caller]
pub fn die(reason: &str) -> ! {
    let place = core::panic::Location::caller();
    epitaph(&|stone| writeln!(stone, "{REASON}{reason}, at {place}"))
}

/// General registers as they were at an exception.
#[repr(C)]
struct Registers {
    x: [u64; 31],
    sp: u64,
}

/// Exceptions that must not happen come here, on the fault stack, at whose top
/// `registers` are.
#[unsafe(no_mangle)]
extern "C" fn taichi_fatal(vector: u64, registers: &Registers) -> ! {
    epitaph(&|stone| {
        stone.write_str(REASON)?;
        match vector {
            4 => synchronous(stone)?,
            5 | 6 => write!(stone, "interrupt at EL2")?,
            7 => write!(stone, "SError (asynchronous abort) at EL2")?,
            10 => write!(stone, "FIQ from EL1: Group 0 is not ours")?,
            12..=15 => write!(stone, "exception from AArch32")?,
            _ => write!(stone, "unexpected exception")?,
        }
        let elr = read_sysreg!("elr_el2");
        writeln!(
            stone,
            ", at {elr:#x} (image + {:#x}), vector {vector}",
            elr.wrapping_sub(memory::image().start)
        )?;
        for (n, x) in registers.x.iter().enumerate() {
            let end = if n % 4 == 3 { '\n' } else { ' ' };
            write!(stone, "x{n} {x:#x}{end}")?;
        }
        writeln!(stone, "SP {:#x}", registers.sp)
    })
}

/// What happened, by ESR_EL2 (Arm ARM, "ISS encoding for an exception from a
/// Data Abort"; IFSC has the same values as DFSC).
fn synchronous(stone: &mut Stone) -> fmt::Result {
    let (esr, far) = (read_sysreg!("esr_el2"), read_sysreg!("far_el2"));
    let access = match esr >> 26 {
        0x21 => "instruction fetch from",
        0x25 if esr & 1 << 6 != 0 => "store to",
        0x25 => "load from",
        class => return write!(stone, "exception of class {class:#x} at EL2"),
    };
    if let Some(core) = memory::guarded(far) {
        write!(stone, "stack overflow on core {core}: ")?;
    }
    let why = match esr & 0x3c {
        0x00 => "address size fault",
        0x04 => "translation fault: not mapped",
        0x08 => "access flag fault",
        0x0c => "permission fault: not allowed",
        0x10 => "external abort: nothing answers there",
        0x20 => "alignment fault",
        _ => "abort",
    };
    write!(stone, "{access} {far:#x} at EL2: {why}")
}

/// This core's index; 0 at EL1, where no other core is started.
fn this_core() -> usize {
    if at_el2() {
        read_sysreg!("tpidr_el2") as usize & 0xf
    } else {
        0
    }
}

/// Started at EL1, none of EL2's registers can be read.
fn at_el2() -> bool {
    read_sysreg!("currentel") >> 2 & 3 == 2
}

fn epitaph(reason: Reason) -> ! {
    if at_el2() {
        let_the_first_die();
    }
    let again = STEP.load(Ordering::Relaxed) > step::WRITE;
    loop {
        let step = STEP.load(Ordering::Relaxed);
        STEP.store(step + 1, Ordering::Relaxed);
        #[cfg(feature = "faults")]
        crate::faults::before(step);
        // Writing doesn't fail: what is too long is cut.
        match step {
            step::STOP if at_el2() => {
                let (vtcr, vttbr) = boot::stage2();
                stop::linux(vtcr, vttbr);
            }
            step::STOP => {}
            step::WRITE => {
                stone::begin();
                let _ = write(&mut Stone, reason);
            }
            step::NOTE if again => {
                let _ = write!(Stone, "\ncut off by another; ").and_then(|()| reason(&mut Stone));
            }
            step::NOTE => {}
            step::PRINT => {
                let _ = Console.write_str(stone::text());
                console::flush();
            }
            step::KEEP => stone::keep(),
            _ => smc::reset(),
        }
    }
}

/// If another core is dying, leaves it the time for its epitaph; it resets the
/// machine, and if it can't, this one does.
fn let_the_first_die() {
    let me = this_core() as u32 + 1;
    match DYING.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst) {
        Err(first) if first != me => wait_for_reset(),
        _ => {}
    }
}

/// For a core whose Linux has come to EL2 for no reason that is known: if the
/// machine dies, which has taken Linux's memory away, it doesn't go back.
pub fn stop_if_dying() {
    if is_dying() {
        wait_for_reset()
    }
}

/// Whether a core dies.
pub(crate) fn is_dying() -> bool {
    DYING.load(Ordering::SeqCst) != 0
}

/// Waits for the reset by the core that died, and if it doesn't come, resets.
fn wait_for_reset() -> ! {
    let end = timer::now() + PATIENCE * timer::frequency();
    while timer::now() < end {
        core::hint::spin_loop();
    }
    smc::reset()
}

fn write(stone: &mut Stone, reason: Reason) -> fmt::Result {
    if !at_el2() {
        writeln!(stone, "\ntaichi: the firmware died at EL1")?;
        return reason(stone);
    }
    let id = this_core();
    writeln!(
        stone,
        "\ntaichi: the firmware died on core {id}; the machine will be reset"
    )?;
    writeln!(
        stone,
        "build: {:016x}, image: {:#x}, time: {} ticks",
        memory::build_id(),
        memory::image().start,
        timer::now()
    )?;
    reason(stone)?;
    #[cfg(feature = "faults")]
    crate::faults::in_the_midst();
    system_registers(stone)?;
    trace(stone, id)?;
    writeln!(stone, "{END}")
}

fn system_registers(stone: &mut Stone) -> fmt::Result {
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
    )
}

fn trace(stone: &mut Stone, id: usize) -> fmt::Result {
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
