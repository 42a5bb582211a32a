// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What passed and what failed. Any CPU may fail the test that is running.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::console::{self, say};
use super::lock::Lock;
use super::{psci, trace};

/// Print the firmware's trace when a test fails.
pub static TRACE: AtomicBool = AtomicBool::new(false);

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// The first thing that went wrong in the running test.
struct Failure {
    text: [u8; 400],
    used: usize,
    more: u32,
}

static FAILURE: Lock<Failure> = Lock::new(Failure {
    text: [0; 400],
    used: 0,
    more: 0,
});

impl Write for Failure {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for &byte in s.as_bytes() {
            if self.used < self.text.len() {
                self.text[self.used] = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

/// Notes a failure of the running test; the first one's words are printed.
pub fn fail(args: fmt::Arguments) {
    let mut failure = FAILURE.lock();
    if failure.used == 0 {
        // Writing to the buffer can't fail; it truncates.
        let _ = failure.write_fmt(args);
    } else {
        failure.more += 1;
    }
}

/// Something already failed in the running test.
pub fn failing() -> bool {
    FAILURE.lock().used != 0
}

/// Fails the running test unless a condition holds.
macro_rules! check {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            $crate::guest::report::fail(format_args!($($why)+));
        }
    };
}
pub(crate) use check;

/// Runs one test and prints its line.
pub fn run(name: &str, test: impl FnOnce()) {
    test();
    let mut failure = FAILURE.lock();
    if failure.used == 0 {
        say!("ok {name}");
        PASSED.fetch_add(1, Relaxed);
        return;
    }
    let why = str::from_utf8(&failure.text[..failure.used]).unwrap_or("(cut inside a character)");
    say!("FAIL {name}: {why} ({} more)", failure.more);
    FAILED.fetch_add(1, Relaxed);
    (failure.used, failure.more) = (0, 0);
    drop(failure);
    if TRACE.load(Relaxed) {
        trace::print();
    }
}

/// Prints the last line.
pub fn done() {
    say!(
        "done {} passed {} failed",
        PASSED.load(Relaxed),
        FAILED.load(Relaxed)
    );
}

/// Ends the machine after a failure that nothing can follow.
pub fn give_up() -> ! {
    let failed = FAILED.load(Relaxed) + 1;
    console::last_words(format_args!(
        "done {} passed {failed} failed",
        PASSED.load(Relaxed)
    ));
    psci::system_off()
}
