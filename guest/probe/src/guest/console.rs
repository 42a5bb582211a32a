// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lines on the PL011. A lock keeps them whole.

use core::fmt::{self, Write};

use super::lock::Lock;
use super::sys;

/// QEMU `virt`'s first PL011; the tree's `stdout-path` replaces it.
static UART: Lock<u64> = Lock::new(0x0900_0000);

struct Port(u64);

impl Write for Port {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            while sys::read32(self.0 + 0x18) & 1 << 5 != 0 {} // UARTFR.TXFF
            sys::write32(self.0, byte.into());
        }
        Ok(())
    }
}

/// Sets the port's address.
pub fn init(uart: u64) {
    *UART.lock() = uart;
}

/// Prints one line.
pub fn line(args: fmt::Arguments) {
    let port = UART.lock();
    // A port that takes every byte has no error to report.
    let _ = writeln!(Port(*port), "{args}\r");
}

/// Prints one line without the lock: for a program that is dying.
pub fn last_words(args: fmt::Arguments) {
    let _ = writeln!(Port(0x0900_0000), "{args}\r");
}

/// Prints one line.
macro_rules! say {
    ($($arg:tt)*) => { $crate::guest::console::line(format_args!($($arg)*)) };
}
pub(crate) use say;
