// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls to the firmware below (SMCCC, Arm DEN 0028).

use core::arch::asm;
use taichi_machine::psci as psci_ids;
use taichi_machine::smccc::VERSION as SMCCC_VERSION;

/// PSCI SYSTEM_OFF.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// PSCI SYSTEM_RESET.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// PSCI CPU_ON, 64 bit.
pub const CPU_ON: u32 = 0xc400_0003;
/// PSCI CPU_OFF.
pub const CPU_OFF: u32 = 0x8400_0002;
/// PSCI PSCI_VERSION.
const VERSION: u32 = 0x8400_0000;
/// PSCI PSCI_FEATURES.
const FEATURES: u32 = 0x8400_000a;
/// PSCI CPU_SUSPEND, 64 bit.
const CPU_SUSPEND: u32 = 0xc400_0001;
/// The first PSCI with PSCI_FEATURES.
const PSCI_1_0: i64 = 0x1_0000;
/// The SMCCC that has no SMCCC_VERSION.
const SMCCC_1_0: u32 = 0x1_0000;

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
/// answer. Where the firmware below follows SMCCC 1.0 it may change all of
/// them but answers in x0-x3; the rest is kept then, as later versions demand.
pub fn forward(context: &mut crate::context::Context, keeps_registers: bool) {
    let x = context.arguments();
    let before = *x;
    call(x);
    if !keeps_registers {
        x[4..].copy_from_slice(&before[4..]);
    }
}

/// A PSCI call with up to three arguments; gives x0.
pub(crate) fn psci(function: u32, a: u64, b: u64, c: u64) -> i64 {
    let mut x = [0; 18];
    x[..4].copy_from_slice(&[u64::from(function), a, b, c]);
    call(&mut x);
    x[0] as i64
}

/// What the firmware below is.
#[derive(Clone, Copy, Debug)]
pub struct Below {
    /// What PSCI_VERSION returns: major in bits 16-30, minor in 0-15.
    pub psci: i64,
    /// Its power states have the extended format (PSCI_FEATURES of CPU_SUSPEND).
    pub extended_state: bool,
    /// What SMCCC_VERSION returns; 1.0 where there is no such call.
    pub smccc: u32,
}

impl Below {
    /// Asks, only for what exists in the version that it says it is.
    pub fn ask() -> Self {
        // Functions return 32 bits, of which errors have the sign.
        let call = |function, argument| i64::from(psci(function, argument, 0, 0) as i32);
        let mut below = Self {
            psci: call(VERSION, 0),
            extended_state: false,
            smccc: SMCCC_1_0,
        };
        if below.psci >= PSCI_1_0 {
            let suspend = call(FEATURES, u64::from(CPU_SUSPEND));
            below.extended_state = suspend > 0 && suspend & 0b10 != 0;
            if call(FEATURES, u64::from(SMCCC_VERSION)) == psci_ids::SUCCESS {
                let version = call(SMCCC_VERSION, 0);
                below.smccc = u32::try_from(version).unwrap_or(SMCCC_1_0);
            }
        }
        below
    }
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
