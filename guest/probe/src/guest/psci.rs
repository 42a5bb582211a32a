// SPDX-License-Identifier: Apache-2.0 OR MIT
//! PSCI (Arm DEN 0022) and other SMCCC calls, caller's side.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// PSCI_VERSION.
pub const VERSION: u64 = 0x8400_0000;
/// CPU_SUSPEND, 64 bit.
pub const CPU_SUSPEND: u64 = 0xc400_0001;
/// PSCI_FEATURES.
pub const FEATURES: u64 = 0x8400_000a;
/// SMCCC_VERSION.
pub const SMCCC_VERSION: u64 = 0x8000_0000;
/// PV_TIME_FEATURES.
pub const PV_TIME_FEATURES: u64 = 0xc500_0020;
/// PV_TIME_ST.
pub const PV_TIME_ST: u64 = 0xc500_0021;
/// CPU_OFF.
pub const CPU_OFF: u64 = 0x8400_0002;
/// CPU_ON, 64 bit.
pub const CPU_ON: u64 = 0xc400_0003;
/// AFFINITY_INFO, 64 bit.
pub const AFFINITY_INFO: u64 = 0xc400_0004;
/// SYSTEM_OFF.
pub const SYSTEM_OFF: u64 = 0x8400_0008;

/// NOT_SUPPORTED.
pub const NOT_SUPPORTED: i64 = -1;
/// INVALID_PARAMETERS.
pub const INVALID: i64 = -2;
/// ALREADY_ON.
pub const ALREADY_ON: i64 = -4;

static HVC: AtomicBool = AtomicBool::new(false);

/// Tells whether the tree's `method` is HVC.
pub fn init(hvc: bool) {
    HVC.store(hvc, Ordering::Relaxed);
}

/// HVC with up to four arguments; returns x0.
pub fn hvc(args: [u64; 4]) -> i64 {
    let result: u64;
    // SAFETY: SMCCC keeps all but x0-x17; memory changes only by PSCI calls,
    // whose new CPU runs code of this program.
    unsafe {
        asm!("hvc #0", inout("x0") args[0] => result, inout("x1") args[1] => _,
            inout("x2") args[2] => _, inout("x3") args[3] => _, clobber_abi("C"))
    };
    result as i64
}

/// SMC with up to four arguments; returns x0.
pub fn smc(args: [u64; 4]) -> i64 {
    let result: u64;
    // SAFETY: as for `hvc`.
    unsafe {
        asm!("smc #0", inout("x0") args[0] => result, inout("x1") args[1] => _,
            inout("x2") args[2] => _, inout("x3") args[3] => _, clobber_abi("C"))
    };
    result as i64
}

/// A PSCI call by the conduit that the tree names.
pub fn call(args: [u64; 4]) -> i64 {
    if HVC.load(Ordering::Relaxed) {
        hvc(args)
    } else {
        smc(args)
    }
}

/// Starts a CPU at [`super::boot::entry`] with `context` in x0.
pub fn cpu_on(mpidr: u64, context: u64) -> i64 {
    call([CPU_ON, mpidr, super::boot::entry(), context])
}

/// 0 on, 1 off, 2 on its way.
pub fn affinity_info(mpidr: u64) -> i64 {
    call([AFFINITY_INFO, mpidr, 0, 0])
}

/// Ends the machine.
pub fn system_off() -> ! {
    call([SYSTEM_OFF, 0, 0, 0]);
    loop {
        core::hint::spin_loop();
    }
}
