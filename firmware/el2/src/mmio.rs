// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Device frames, and other memory that is not the firmware's.
//!
//! Access is safe because a [`Frame`] never overlaps the firmware's own
//! memory: no Rust object lives where it points. An address with nothing
//! behind it faults, which ends in an epitaph.

use crate::memory;
use core::ptr;

/// A range of physical addresses outside the firmware's memory.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    base: u64,
    size: u64,
}

impl Frame {
    /// `None` if the range wraps or overlaps the firmware's memory.
    pub fn new(base: u64, size: u64) -> Option<Self> {
        let end = base.checked_add(size)?;
        let own = memory::image();
        (end <= own.start || base >= own.end).then_some(Self { base, size })
    }

    /// Address of the first byte.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Reads `bytes` (1, 2, 4 or 8) at `offset`; 0 for an offset outside or
    /// not aligned.
    #[inline]
    pub fn read(&self, offset: u64, bytes: u32) -> u64 {
        let Some(at) = self.at(offset, bytes) else {
            return 0;
        };
        // SAFETY: in the frame and aligned, by `at`; frames hold no Rust
        // object (module's first paragraph).
        unsafe {
            match bytes {
                1 => u64::from(ptr::read_volatile(at as *const u8)),
                2 => u64::from(ptr::read_volatile(at as *const u16)),
                4 => u64::from(ptr::read_volatile(at as *const u32)),
                _ => ptr::read_volatile(at as *const u64),
            }
        }
    }

    /// Writes `bytes` (1, 2, 4 or 8) at `offset`; ignores an offset outside or
    /// not aligned.
    #[inline]
    pub fn write(&self, offset: u64, bytes: u32, value: u64) {
        let Some(at) = self.at(offset, bytes) else {
            return;
        };
        // SAFETY: as for `read`.
        unsafe {
            match bytes {
                1 => ptr::write_volatile(at as *mut u8, value as u8),
                2 => ptr::write_volatile(at as *mut u16, value as u16),
                4 => ptr::write_volatile(at as *mut u32, value as u32),
                _ => ptr::write_volatile(at as *mut u64, value),
            }
        }
    }

    /// [`Self::read`] of 32 bits.
    #[inline]
    pub fn read32(&self, offset: u64) -> u32 {
        self.read(offset, 4) as u32
    }

    /// [`Self::write`] of 32 bits.
    #[inline]
    pub fn write32(&self, offset: u64, value: u32) {
        self.write(offset, 4, u64::from(value));
    }

    #[inline]
    fn at(&self, offset: u64, bytes: u32) -> Option<u64> {
        let end = offset.checked_add(u64::from(bytes))?;
        let aligned = (self.base + offset).is_multiple_of(u64::from(bytes).max(1));
        (end <= self.size && aligned).then(|| self.base + offset)
    }
}
