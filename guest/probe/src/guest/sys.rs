// SPDX-License-Identifier: Apache-2.0 OR MIT
//! System registers, barriers, time and MMIO.

use core::arch::asm;

/// Reads a system register by its assembler name.
macro_rules! get {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a register of EL1 changes nothing the compiler relies on.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack))
        };
        value
    }};
}
pub(crate) use get;

/// Writes a system register by its assembler name and synchronizes.
macro_rules! set {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the caller names a register whose new value leaves the
        // translation of this program's memory as it is.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) value, options(nostack))
        };
    }};
}
pub(crate) use set;

/// Ticks of the virtual counter, read in program order.
pub fn now() -> u64 {
    // SAFETY: a barrier has no effect on memory.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
    get!("cntvct_el0")
}

/// Ticks in `us` microseconds.
pub fn micros(us: u64) -> u64 {
    us * get!("cntfrq_el0") / 1_000_000
}

/// Waits until `done` is true, or for `us` microseconds; false on time-out.
pub fn wait_for(us: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = now() + micros(us);
    loop {
        if done() {
            return true;
        }
        if now() > end {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// Busy for `us` microseconds.
pub fn spin(us: u64) {
    wait_for(us, || false);
}

/// Wait for interrupt: returns when one is pending, masked or not.
pub fn wfi() {
    // SAFETY: WFI waits; a handler that runs meanwhile keeps all registers.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Masks IRQs.
pub fn mask() {
    // SAFETY: a handler less; nothing in this program waits for one here.
    unsafe { asm!("msr daifset, #2", options(nostack)) };
}

/// Unmasks IRQs.
pub fn unmask() {
    // SAFETY: the handlers keep all registers and share only atomics.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack)) };
}

/// All of this program's memory accesses are done before those that follow.
pub fn barrier() {
    // SAFETY: a barrier has no effect of its own.
    unsafe { asm!("dsb sy", "isb", options(nostack, preserves_flags)) };
}

/// Device registers, accessed by single instructions that always tell EL2 what
/// they are (ISV=1).
macro_rules! mmio {
    ($read:ident, $write:ident, $type:ty, $ldr:literal, $str:literal, $reg:literal) => {
        /// Loads from device memory.
        pub fn $read(address: u64) -> $type {
            let value: u64;
            // SAFETY: `address` is a device's register; a fault is caught by
            // the vectors.
            unsafe {
                asm!(concat!($ldr, " {v", $reg, "}, [{a}]"), v = out(reg) value, a = in(reg) address,
                    options(nostack))
            };
            value as $type
        }
        /// Stores to device memory.
        pub fn $write(address: u64, value: $type) {
            // SAFETY: as above; no device register here is memory of ours.
            unsafe {
                asm!(concat!($str, " {v", $reg, "}, [{a}]"), v = in(reg) u64::from(value),
                    a = in(reg) address, options(nostack))
            };
        }
    };
}
mmio!(read64, write64, u64, "ldr", "str", ":x");
mmio!(read32, write32, u32, "ldr", "str", ":w");
mmio!(read8, write8, u8, "ldrb", "strb", ":w");
