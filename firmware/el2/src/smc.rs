// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls to the firmware below (SMCCC, Arm DEN 0028).

use core::arch::asm;

/// PSCI SYSTEM_OFF.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// PSCI SYSTEM_RESET.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// PSCI CPU_ON, 64 bit.
pub const CPU_ON: u32 = 0xc400_0003;
/// PSCI CPU_OFF.
pub const CPU_OFF: u32 = 0x8400_0002;
/// PSCI PSCI_VERSION.
pub const VERSION: u32 = 0x8400_0000;

/// Makes a call and gives x0-x3.
///
/// Safe where used: the firmware below owns the machine anyway; the calls that
/// give it addresses are made by [`crate::boot::start_core`] alone, and those
/// that Linux makes pass through [`forward`].
#[inline]
fn call(x: &mut [u64; 18]) {
    // SAFETY: SMCCC 1.0 lets a call change x0-x17 and nothing else.
    unsafe {
        asm!("smc #0",
            inout("x0") x[0], inout("x1") x[1], inout("x2") x[2], inout("x3") x[3],
            inout("x4") x[4], inout("x5") x[5], inout("x6") x[6], inout("x7") x[7],
            inout("x8") x[8], inout("x9") x[9], inout("x10") x[10], inout("x11") x[11],
            inout("x12") x[12], inout("x13") x[13], inout("x14") x[14], inout("x15") x[15],
            inout("x16") x[16], inout("x17") x[17], options(nostack))
    };
}

/// Makes the call that the loaded context's x0-x17 hold, and gives it the
/// answer.
pub fn forward(context: &mut crate::context::Context) {
    call(context.arguments());
}

/// A PSCI call with up to three arguments; gives x0.
pub(crate) fn psci(function: u32, a: u64, b: u64, c: u64) -> i64 {
    let mut x = [0; 18];
    x[..4].copy_from_slice(&[u64::from(function), a, b, c]);
    call(&mut x);
    x[0] as i64
}

/// PSCI version of the firmware below: major in bits 16-30, minor in 0-15.
pub fn version() -> u32 {
    psci(VERSION, 0, 0, 0) as u32
}

/// Resets the machine.
pub fn reset() -> ! {
    psci(SYSTEM_RESET, 0, 0, 0);
    halt()
}

/// Switches the machine off.
pub fn off() -> ! {
    psci(SYSTEM_OFF, 0, 0, 0);
    halt()
}

/// Stops this core for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: waits.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}
