// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The console: a PL011 (Arm DDI 0183), shared with Linux. It is written to
//! while booting, and for an epitaph.

use crate::mmio::Frame;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const TX_FULL: u32 = 1 << 5;
const BUSY: u32 = 1 << 3;
/// Reads of FR until a console counts as stuck.
const PATIENCE: u32 = 1_000_000;

/// Address of the PL011; 0: no console.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Tells where the PL011 is.
pub fn set(base: u64) {
    BASE.store(base, Ordering::Relaxed);
}

/// Where the console is; `None`: there is none.
pub fn base() -> Option<u64> {
    Some(BASE.load(Ordering::Relaxed)).filter(|&base| base != 0)
}

/// Waits until all has left, before the machine is reset.
pub(crate) fn flush() {
    if let Some(uart) = uart() {
        wait(&uart, BUSY);
    }
}

fn uart() -> Option<Frame> {
    Frame::new(base()?, 0x1000)
}

/// Waits until a bit of FR is 0; false if it never is. A console that is stuck
/// must not stop the machine, so it is waited for once.
fn wait(uart: &Frame, bit: u32) -> bool {
    let free = (0..PATIENCE).any(|_| uart.read32(FR) & bit == 0);
    if !free {
        set(0);
    }
    free
}

/// Writes bytes to the console, if there is one.
pub struct Console;

impl Console {
    fn put(byte: u8) {
        if let Some(uart) = uart()
            && wait(&uart, TX_FULL)
        {
            uart.write32(DR, u32::from(byte));
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            if byte == b'\n' {
                Self::put(b'\r');
            }
            Self::put(byte);
        }
        Ok(())
    }
}

/// Prints a line that starts with "taichi: ".
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {{
        use ::core::fmt::Write as _;
        // The console never fails.
        let _ = ::core::write!($crate::console::Console, "taichi: ");
        let _ = ::core::writeln!($crate::console::Console, $($arg)*);
    }};
}
