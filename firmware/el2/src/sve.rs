// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SVE: z0 to z31, of which v0 to v31 are the low halves or less; p0 to p15; FFR;
//! ZCR_EL1. Where a core has it, these are saved and loaded in place of the
//! vector registers, by the same rules (`float.rs`).
//!
//! Always as long as the core's longest vectors (ZCR_EL2.LEN is all ones), what
//! length EL1 has chosen: what lies above that length may be kept by the core.

use core::arch::asm;
use core::cell::UnsafeCell;
use taichi_abi::{MAX_CORES, MAX_VCPUS};

/// Bytes of the longest vector that the architecture allows.
const LONGEST: usize = 256;
/// 32 vectors, 16 predicates and FFR, an eighth as long each.
const BYTES: usize = 32 * LONGEST + 17 * LONGEST / 8;

/// What one context has of it.
#[repr(C, align(64))]
struct Area {
    registers: [u8; BYTES],
    zcr_el1: u64,
}

#[repr(transparent)]
struct Shared(UnsafeCell<Area>);

// SAFETY: an area is its context's, and a context is one core's at a time.
unsafe impl Sync for Shared {}

static AREAS: [Shared; MAX_CORES + MAX_VCPUS] = [const {
    Shared(UnsafeCell::new(Area {
        registers: [0; BYTES],
        zcr_el1: 0,
    }))
}; MAX_CORES + MAX_VCPUS];

/// Where a context has its vectors: its place among all contexts.
#[derive(Clone, Copy)]
pub(crate) struct Place(usize);

impl Place {
    /// Of a core's native context.
    pub(crate) const fn native(core: usize) -> Self {
        Self(core % MAX_CORES)
    }

    /// Of a vCPU.
    pub(crate) const fn vcpu(vcpu: usize) -> Self {
        Self(MAX_CORES + vcpu % MAX_VCPUS)
    }

    fn area(self) -> *mut Area {
        AREAS[self.0].0.get()
    }
}

/// All vectors and predicates, each with its number of lengths.
macro_rules! all_registers {
    ($op:literal) => {
        all_registers!($op: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15;
            16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31)
    };
    ($op:literal: $($low:literal)*; $($high:literal)*) => {
        concat!(
            $($op, " z", $low, ", [{area}, #", $low, ", mul vl]\n",)*
            $($op, " z", $high, ", [{area}, #", $high, ", mul vl]\n",)*
            // 32 lengths on.
            "addvl {area}, {area}, #16\naddvl {area}, {area}, #16\n",
            $($op, " p", $low, ", [{area}, #", $low, ", mul vl]\n",)*
        )
    };
}

/// # Safety
/// `place` is that of a context of this core, which has SVE, and no trap is set.
pub(crate) unsafe fn save(place: Place) {
    let area = place.area();
    // SAFETY: the caller's promise; an area has room for the longest vectors.
    unsafe {
        asm!(
            ".arch_extension sve",
            all_registers!("str"),
            "rdffr p0.b",
            "str p0, [{area}, #16, mul vl]",
            "mrs {zcr}, s3_0_c1_c2_0",
            ".arch_extension nosve\n.arch_extension nosimd\n.arch_extension nofp",
            area = inout(reg) area => _, zcr = out(reg) (*area).zcr_el1,
            options(nostack, preserves_flags)
        );
    }
}

/// # Safety
/// As for [`save`]; the registers are EL1's and EL0's alone.
pub(crate) unsafe fn load(place: Place) {
    let area = place.area();
    // SAFETY: as in `save`.
    unsafe {
        asm!(
            ".arch_extension sve",
            // FFR by way of p0, which comes after.
            "addvl {at}, {area}, #16",
            "addvl {at}, {at}, #16",
            "ldr p0, [{at}, #16, mul vl]",
            "wrffr p0.b",
            all_registers!("ldr"),
            "msr s3_0_c1_c2_0, {zcr}",
            ".arch_extension nosve\n.arch_extension nosimd\n.arch_extension nofp",
            area = inout(reg) area => _, at = out(reg) _, zcr = in(reg) (*area).zcr_el1,
            options(nostack, preserves_flags)
        );
    }
}
