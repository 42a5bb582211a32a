// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the cores have beyond Armv8.0, as far as EL2 must set something for it.
//! The list of what Linux may see is in [`taichi_machine::features`]; what is
//! hidden there is trapped here, where the architecture has a trap for it.

use crate::sysreg::{hcr, isb, mdcr};
use crate::{float, read_sysreg, write_sysreg};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use taichi_machine::features::{IdRegister, reasons};

/// What every context's HCR_EL2 has besides its own.
static HCR: AtomicU64 = AtomicU64::new(0);
/// CPTR_EL2 of a context that has its floating point.
static CPTR: AtomicU64 = AtomicU64::new(float::FREE);

/// Declares how each ID register is read.
macro_rules! id_registers {
    ($($number:literal $name:literal,)*) => {
        /// Reads an ID register of this core, as it is.
        pub fn id_register(register: IdRegister) -> u64 {
            match register.number() {
                $($number => read_sysreg!($name),)*
                _ => 0,
            }
        }
    };
}

#[rustfmt::skip]
id_registers! {
    8 "s3_0_c0_c1_0", 9 "s3_0_c0_c1_1", 10 "s3_0_c0_c1_2",
    11 "s3_0_c0_c1_3", 12 "s3_0_c0_c1_4", 13 "s3_0_c0_c1_5",
    14 "s3_0_c0_c1_6", 15 "s3_0_c0_c1_7", 16 "s3_0_c0_c2_0",
    17 "s3_0_c0_c2_1", 18 "s3_0_c0_c2_2", 19 "s3_0_c0_c2_3",
    20 "s3_0_c0_c2_4", 21 "s3_0_c0_c2_5", 22 "s3_0_c0_c2_6",
    23 "s3_0_c0_c2_7", 24 "s3_0_c0_c3_0", 25 "s3_0_c0_c3_1",
    26 "s3_0_c0_c3_2", 27 "s3_0_c0_c3_3", 28 "s3_0_c0_c3_4",
    29 "s3_0_c0_c3_5", 30 "s3_0_c0_c3_6", 31 "s3_0_c0_c3_7",
    32 "s3_0_c0_c4_0", 33 "s3_0_c0_c4_1", 34 "s3_0_c0_c4_2",
    35 "s3_0_c0_c4_3", 36 "s3_0_c0_c4_4", 37 "s3_0_c0_c4_5",
    38 "s3_0_c0_c4_6", 39 "s3_0_c0_c4_7", 40 "s3_0_c0_c5_0",
    41 "s3_0_c0_c5_1", 42 "s3_0_c0_c5_2", 43 "s3_0_c0_c5_3",
    44 "s3_0_c0_c5_4", 45 "s3_0_c0_c5_5", 46 "s3_0_c0_c5_6",
    47 "s3_0_c0_c5_7", 48 "s3_0_c0_c6_0", 49 "s3_0_c0_c6_1",
    50 "s3_0_c0_c6_2", 51 "s3_0_c0_c6_3", 52 "s3_0_c0_c6_4",
    53 "s3_0_c0_c6_5", 54 "s3_0_c0_c6_6", 55 "s3_0_c0_c6_7",
    56 "s3_0_c0_c7_0", 57 "s3_0_c0_c7_1", 58 "s3_0_c0_c7_2",
    59 "s3_0_c0_c7_3", 60 "s3_0_c0_c7_4", 61 "s3_0_c0_c7_5",
    62 "s3_0_c0_c7_6", 63 "s3_0_c0_c7_7",
}

/// A four-bit field of an ID register of this core.
pub(crate) fn field(register: IdRegister, shift: u32) -> u64 {
    id_register(register) >> shift & 0xf
}

/// Looks at the boot core; the others are taken to be like it. Before any
/// context is made. Says why Linux's reads of ID registers will trap: what each
/// reason is called, [`None`] where this version has no name for it.
pub fn detect() -> impl Iterator<Item = (IdRegister, Option<&'static str>)> {
    let why = || IdRegister::all().flat_map(|r| reasons(r, id_register(r)).map(move |w| (r, w)));
    let mut extra = 0;
    if why().next().is_some() {
        extra |= hcr::TID3;
    }
    if field(IdRegister::MMFR1, 16) != 0 {
        extra |= hcr::TLOR;
    }
    if has_keys() {
        extra |= hcr::API | hcr::APK;
    }
    HCR.store(extra, Relaxed);
    let mut free = float::FREE;
    if field(IdRegister::PFR0, 32) == 0 {
        free |= float::TZ;
    }
    if field(IdRegister::DFR0, 4) != 0 {
        free |= float::TTA;
    }
    if field(IdRegister::PFR0, 44) != 0 {
        free |= float::TAM;
    }
    CPTR.store(free, Relaxed);
    why()
}

/// Whether this core has keys for pointer authentication: APA, API, GPA or GPI;
/// GPA3 or APA3.
pub(crate) fn has_keys() -> bool {
    id_register(IdRegister::ISAR1) & 0xff00_0ff0 != 0
        || id_register(IdRegister::ISAR2) & 0xff00 != 0
}

/// Whether the cores have SVE.
#[inline]
pub(crate) fn has_sve() -> bool {
    cptr() & float::TZ == 0
}

/// What every context's HCR_EL2 has besides its own.
pub(crate) fn hcr() -> u64 {
    HCR.load(Relaxed)
}

/// CPTR_EL2 of a context that has its floating point.
pub(crate) fn cptr() -> u64 {
    CPTR.load(Relaxed)
}

/// The controls of EL2 that are the same for all contexts, on this core.
pub(crate) fn init_core() {
    let performance = field(IdRegister::DFR0, 8);
    let mut traps = mdcr::TDA | mdcr::TDOSA | mdcr::TDRA;
    if performance != 0 {
        traps |= mdcr::TPM | mdcr::TPMCR;
    }
    if field(IdRegister::DFR0, 32) != 0 {
        traps |= mdcr::TPMS;
    }
    if field(IdRegister::DFR0, 40) != 0 {
        traps |= mdcr::TTRF;
    }
    // SAFETY: traps of EL1, and registers of EL1 that are hidden from it from
    // here on. A fine-grained trap register that is zero traps what an older
    // EL2 doesn't know, and nothing else; HCRX_EL2 likewise.
    unsafe {
        if !matches!(performance, 0 | 0xf) {
            traps |= read_sysreg!("pmcr_el0") >> 11 & 0x1f;
            write_sysreg!("pmcr_el0", 0u64);
            write_sysreg!("pmcntenclr_el0", u64::from(u32::MAX));
            write_sysreg!("pmintenclr_el1", u64::from(u32::MAX));
            write_sysreg!("pmovsclr_el0", u64::from(u32::MAX));
            write_sysreg!("pmuserenr_el0", 0u64);
        }
        write_sysreg!("mdcr_el2", traps);
        if has_sve() {
            isb(); // CPTR_EL2
            write_sysreg!("s3_4_c1_c2_0", 0xfu64); // ZCR_EL2: the longest
        }
        if field(IdRegister::MMFR1, 40) != 0 {
            write_sysreg!("s3_4_c1_c2_2", 0u64); // HCRX_EL2
        }
        let fine = field(IdRegister::MMFR0, 56);
        if fine != 0 {
            write_sysreg!("s3_4_c1_c1_4", 0u64); // HFGRTR_EL2
            write_sysreg!("s3_4_c1_c1_5", 0u64); // HFGWTR_EL2
            write_sysreg!("s3_4_c1_c1_6", 0u64); // HFGITR_EL2
            write_sysreg!("s3_4_c3_c1_4", 0u64); // HDFGRTR_EL2
            write_sysreg!("s3_4_c3_c1_5", 0u64); // HDFGWTR_EL2
            if field(IdRegister::PFR0, 44) != 0 {
                write_sysreg!("s3_4_c3_c1_6", 0u64); // HAFGRTR_EL2
            }
        }
        if fine > 1 {
            write_sysreg!("s3_4_c3_c1_0", 0u64); // HDFGRTR2_EL2
            write_sysreg!("s3_4_c3_c1_1", 0u64); // HDFGWTR2_EL2
            write_sysreg!("s3_4_c3_c1_2", 0u64); // HFGRTR2_EL2
            write_sysreg!("s3_4_c3_c1_3", 0u64); // HFGWTR2_EL2
            write_sysreg!("s3_4_c3_c1_7", 0u64); // HFGITR2_EL2
        }
    }
}
