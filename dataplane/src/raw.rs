// SPDX-License-Identifier: Apache-2.0 OR MIT
//! All unsafe code of this crate but the C ABI: views of memory that somebody
//! else writes, the load that lends a core, and the system counter.
//!
//! The rules that make the mappings sound:
//!
//! 1. A [`Mapping`] is read-only memory and hands out values, never references
//!    to atomics, which could be stored to. A [`MappingMut`] is always writable
//!    and may hand them out.
//! 2. Whatever is viewed is of a [`Shared`] type: atomic integers only, any bits
//!    are a value, so that a writer outside this program is no data race.
//! 3. Every access is checked against the mapping's length and the type's
//!    alignment; a reference borrows the mapping, which is unmapped when dropped.
//!
//! What can't be checked: a *file* that somebody truncates while it is mapped
//! turns a later load into SIGBUS. The windows of the firmware have no file.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use memmap2::{MmapOptions, MmapRaw};
use taichi_abi::telemetry;

/// Types that may be viewed in memory that others write at any time.
///
/// # Safety
/// The type is made of atomic integers and of padding that nobody reads, and
/// every bit pattern is a value of it.
pub unsafe trait Shared {}

// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU32 {}
// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU64 {}
// SAFETY: `repr(C)`, atomic integers only, size asserted in the ABI crate.
unsafe impl Shared for telemetry::Header {}
// SAFETY: `repr(C)`, atomic integers only, size asserted in the ABI crate.
unsafe impl Shared for telemetry::Core {}
// SAFETY: `repr(C)`, atomic integers, padded at its end to 128 bytes; size
// asserted in the ABI crate.
unsafe impl Shared for telemetry::Vcpu {}

/// Read-only shared memory.
#[derive(Debug)]
pub(crate) struct Mapping(MmapRaw);

/// Shared memory that may be stored to.
#[derive(Debug)]
pub struct MappingMut(MmapRaw);

/// The address of `count` values of `T` at a byte offset; `None` where they
/// don't fit or aren't aligned. The mapping's base is aligned to a page, and no
/// `Shared` type wants more, so that an aligned offset is an aligned address.
#[inline]
fn locate<T: Shared>(map: &MmapRaw, offset: usize, count: usize) -> Option<*const T> {
    let end = size_of::<T>().checked_mul(count)?.checked_add(offset)?;
    let fits = end <= map.len() && offset.is_multiple_of(align_of::<T>());
    fits.then(|| map.as_ptr().wrapping_add(offset).cast())
}

impl Mapping {
    /// Maps `len` bytes of `file` from byte `offset`, a multiple of the page size.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub(crate) fn new(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        MmapOptions::new()
            .offset(offset)
            .len(len)
            .map_raw_read_only(file)
            .map(Self)
    }

    /// Whether `count` values of `T` lie at a byte offset.
    pub(crate) fn holds<T: Shared>(&self, offset: usize, count: usize) -> bool {
        locate::<T>(&self.0, offset, count).is_some()
    }

    /// Loads 32 bits at a byte offset; `None` where they don't fit.
    #[inline]
    pub(crate) fn load_u32(&self, offset: usize) -> Option<u32> {
        let word = locate::<AtomicU32>(&self.0, offset, 1)?;
        // SAFETY: in bounds and aligned; relaxed loads of this size are
        // allowed in read-only memory. The reference doesn't leave this line.
        Some(unsafe { &*word }.load(Relaxed))
    }

    /// Loads 64 bits at a byte offset; `None` where they don't fit.
    #[inline]
    pub(crate) fn load_u64(&self, offset: usize) -> Option<u64> {
        let word = locate::<AtomicU64>(&self.0, offset, 1)?;
        // SAFETY: as in `load_u32`.
        Some(unsafe { &*word }.load(Relaxed))
    }

    /// A copy of the value at a byte offset, made by 64-bit loads; `None` where
    /// it doesn't fit.
    pub(crate) fn copy<T: Shared>(&self, offset: usize) -> Option<T> {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() >= 8) };
        locate::<T>(&self.0, offset, 1)?;
        let mut copy = MaybeUninit::<T>::uninit();
        let words = copy.as_mut_ptr().cast::<u64>();
        for i in 0..size_of::<T>() / 8 {
            let word = self.load_u64(offset + i * 8)?;
            // SAFETY: word i of `copy`, which is `size_of::<T>() / 8` words
            // long and aligned to 8 at least (asserted above).
            unsafe { words.add(i).write(word) };
        }
        // SAFETY: every word is written, and any bits are a `T: Shared`.
        Some(unsafe { copy.assume_init() })
    }

    /// Loads 64 bits from device memory: one access of exactly this size, which
    /// may take long and have effects (here: it lends the core). `None` where
    /// it is out of bounds or not aligned.
    #[inline]
    pub(crate) fn load_device(&self, offset: usize) -> Option<u64> {
        let address = locate::<AtomicU64>(&self.0, offset, 1)?;
        // SAFETY: in bounds and aligned. A plain LDR of one register is what a
        // hypervisor can decode from ESR_EL2 (Arm ARM, ISS of a Data Abort,
        // ISV); a compiler may choose another form even for a volatile load.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            let value: u64;
            core::arch::asm!(
                "ldr {value}, [{address}]",
                value = out(reg) value,
                address = in(reg) address,
                options(nostack, preserves_flags),
            );
            Some(value)
        }
        // SAFETY: in bounds and aligned. Other architectures have only files
        // to load from (tests).
        #[cfg(not(target_arch = "aarch64"))]
        unsafe {
            Some(address.cast::<u64>().read_volatile())
        }
    }
}

impl MappingMut {
    /// Maps `len` bytes of `file` for loads and stores, from byte `offset`, a
    /// multiple of the page size.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn new(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        MmapOptions::new()
            .offset(offset)
            .len(len)
            .map_raw(file)
            .map(Self)
    }

    /// The value at a byte offset; `None` where it doesn't fit or isn't aligned.
    #[inline]
    pub fn at<T: Shared>(&self, offset: usize) -> Option<&T> {
        self.slice(offset, 1)?.first()
    }

    /// `count` values from a byte offset; `None` where they don't fit or
    /// aren't aligned.
    #[inline]
    pub fn slice<T: Shared>(&self, offset: usize, count: usize) -> Option<&[T]> {
        let first = locate::<T>(&self.0, offset, count)?;
        // SAFETY: in bounds and aligned, and mapped as long as `self` is
        // borrowed. `T: Shared`: any bits are a value, all access is atomic,
        // and the memory may be stored to.
        Some(unsafe { std::slice::from_raw_parts(first, count) })
    }

    /// Stores 32 bits to device memory, one access of exactly this size.
    /// `None` where it is out of bounds or not aligned.
    #[inline]
    pub(crate) fn store_device(&self, offset: usize, value: u32) -> Option<()> {
        let address = locate::<AtomicU32>(&self.0, offset, 1)?;
        // SAFETY: in bounds and aligned, and mapped for stores. A plain STR of
        // one register, for the reason given in `Mapping::load_device`.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            core::arch::asm!(
                "str {value:w}, [{address}]",
                value = in(reg) value,
                address = in(reg) address,
                options(nostack, preserves_flags),
            );
        }
        // SAFETY: in bounds and aligned, and mapped for stores. Other
        // architectures have only files to store to (tests).
        #[cfg(not(target_arch = "aarch64"))]
        unsafe {
            address.cast_mut().cast::<u32>().write_volatile(value);
        }
        Some(())
    }
}

/// The system counter, in ticks: CNTVCT_EL0, which Linux lets programs read.
/// Other architectures count CLOCK_MONOTONIC in nanoseconds.
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: reads a register that EL0 may read (CNTKCTL_EL1.EL0VCTEN, which
    // Linux sets). The barrier keeps the read behind what comes before it.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        let ticks: u64;
        core::arch::asm!(
            "isb",
            "mrs {ticks}, cntvct_el0",
            ticks = out(reg) ticks,
            options(nostack, preserves_flags),
        );
        ticks
    }
    #[cfg(not(target_arch = "aarch64"))]
    {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
    }
}

/// Ticks of [`ticks`] in a second: CNTFRQ_EL0.
#[inline]
pub fn frequency() -> u64 {
    // SAFETY: reads a register that EL0 may read wherever it may read CNTVCT_EL0.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        let hz: u64;
        core::arch::asm!(
            "mrs {hz}, cntfrq_el0",
            hz = out(reg) hz,
            options(nomem, nostack, preserves_flags),
        );
        hz
    }
    #[cfg(not(target_arch = "aarch64"))]
    {
        1_000_000_000
    }
}
