// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The console: a PL011 (Arm DDI 0183), shared with Linux. It is written to
//! while booting, and for an epitaph.

use crate::mmio::Frame;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const TX_FULL: u32 = 1 << 5;
/// A console that is stuck must not stop the machine.
const PATIENCE: u32 = 1_000_000;

/// Address of the PL011; 0: no console.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Tells where the PL011 is.
pub fn set(base: u64) {
    BASE.store(base, Ordering::Relaxed);
}

/// Writes bytes to the console, if there is one.
pub struct Console;

impl Console {
    fn put(byte: u8) {
        let base = BASE.load(Ordering::Relaxed);
        let Some(uart) = Frame::new(base, 0x1000).filter(|_| base != 0) else {
            return;
        };
        for _ in 0..PATIENCE {
            if uart.read32(FR) & TX_FULL == 0 {
                break;
            }
        }
        uart.write32(DR, u32::from(byte));
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
