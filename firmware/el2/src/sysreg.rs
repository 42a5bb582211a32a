// SPDX-License-Identifier: Apache-2.0 OR MIT
//! System registers by name.
//!
//! Own macros and not a register crate: the firmware is counted in
//! instructions, a third of the registers here (ICH_*, by number) are in none,
//! and what is unsafe about a register is decided where it is used.

/// Reads a system register. Safe where used: reading the registers of this
/// crate has no side effect on memory.
#[macro_export]
#[doc(hidden)]
macro_rules! read_sysreg {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: a system register read touches no memory.
        #[allow(unused_unsafe)]
        unsafe {
            ::core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value,
                options(nomem, nostack, preserves_flags))
        };
        value
    }};
}

/// Writes a system register; `unsafe`, because many of them decide what memory
/// means.
#[macro_export]
#[doc(hidden)]
macro_rules! write_sysreg {
    ($name:literal, $value:expr) => {
        ::core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) $value as u64,
            options(nostack, preserves_flags))
    };
}

/// Instruction synchronization barrier.
#[inline]
pub fn isb() {
    // SAFETY: a barrier.
    unsafe { ::core::arch::asm!("isb", options(nostack, preserves_flags)) }
}

/// Data synchronization barrier, full system.
#[inline]
pub fn dsb_sy() {
    // SAFETY: a barrier.
    unsafe { ::core::arch::asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// Data synchronization barrier, inner shareable.
#[inline]
pub fn dsb_ish() {
    // SAFETY: a barrier.
    unsafe { ::core::arch::asm!("dsb ish", options(nostack, preserves_flags)) }
}

/// HCR_EL2 bits (Arm ARM D24.2.53).
pub mod hcr {
    /// Stage 2 translation.
    pub const VM: u64 = 1;
    /// Set/way invalidation also cleans.
    pub const SWIO: u64 = 1 << 1;
    /// Physical FIQs to EL2.
    pub const FMO: u64 = 1 << 3;
    /// Physical IRQs to EL2, virtual ones to EL1.
    pub const IMO: u64 = 1 << 4;
    /// SErrors to EL2.
    pub const AMO: u64 = 1 << 5;
    /// EL1's TLB and instruction cache maintenance is broadcast.
    pub const FB: u64 = 1 << 9;
    /// EL1's barriers reach at least the inner shareable domain.
    pub const BSU_IS: u64 = 1 << 10;
    /// WFI traps.
    pub const TWI: u64 = 1 << 13;
    /// Reads of ID registers trap.
    pub const TID3: u64 = 1 << 18;
    /// SMC traps.
    pub const TSC: u64 = 1 << 19;
    /// EL1 is AArch64.
    pub const RW: u64 = 1 << 31;
    /// Limited ordering regions trap.
    pub const TLOR: u64 = 1 << 35;
    /// Pointer authentication keys don't trap.
    pub const APK: u64 = 1 << 40;
    /// Pointer authentication instructions don't trap.
    pub const API: u64 = 1 << 41;
}

/// MDCR_EL2 bits (Arm ARM D24.3.19): what traps.
pub mod mdcr {
    /// PMCR_EL0.
    pub const TPMCR: u64 = 1 << 5;
    /// All registers of the performance counters.
    pub const TPM: u64 = 1 << 6;
    /// Debug registers, but for those of the next two.
    pub const TDA: u64 = 1 << 9;
    /// The OS lock and its like.
    pub const TDOSA: u64 = 1 << 10;
    /// MDRAR_EL1.
    pub const TDRA: u64 = 1 << 11;
    /// Registers of statistical profiling.
    pub const TPMS: u64 = 1 << 14;
    /// Trace filter registers.
    pub const TTRF: u64 = 1 << 19;
}

/// ICH_HCR_EL2 bits (Arm IHI 0069, 12.4.4).
pub mod ich_hcr {
    /// The virtual CPU interface is on.
    pub const EN: u64 = 1;
    /// Maintenance interrupt when none or one list register is in use.
    pub const UIE: u64 = 1 << 1;
    /// Traps the registers that Group 0 and Group 1 share, SGI sends among
    /// them.
    pub const TC: u64 = 1 << 10;
    /// Traps the registers of Group 0.
    pub const TALL0: u64 = 1 << 11;
}
