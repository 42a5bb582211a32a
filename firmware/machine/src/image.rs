// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The header of an arm64 kernel `Image` (Linux, Documentation/arch/arm64/booting.rst, "Call the
//! kernel image").

use core::fmt;

/// Where an `Image` wants to be and how much room it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// Bytes from a 2 MiB aligned base to the load address.
    pub text_offset: u64,
    /// Bytes from the load address that the kernel uses, zeroed data included.
    pub image_size: u64,
    /// The header's flags, as they are.
    pub flags: u64,
}

/// Why a file is no kernel that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Fewer than the header's 64 bytes.
    TooShort,
    /// A compressed kernel: gzip, or EFI's zboot.
    Compressed,
    /// The magic number "ARM\x64" is missing.
    NoMagic,
    /// A kernel from before Linux 3.17, which doesn't say how big it is.
    NoSize,
    /// A big-endian kernel.
    BigEndian,
    /// An offset or a size that no kernel has.
    Absurd,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "the kernel is shorter than the header of an arm64 Image",
            Self::Compressed => "the kernel is compressed; unpack it to an arm64 Image",
            Self::NoMagic => "the kernel is no arm64 Image (no \"ARM\\x64\" at byte 56)",
            Self::NoSize => "the kernel's header holds no size (older than Linux 3.17)",
            Self::BigEndian => "the kernel is big-endian",
            Self::Absurd => "the kernel's header holds an offset or size that can't be",
        })
    }
}

impl core::error::Error for ImageError {}

/// Bytes in the header.
const HEADER: usize = 64;
/// No kernel is this large; a larger size in a header is nonsense.
const SIZE_LIMIT: u64 = 1 << 30;

impl ImageHeader {
    /// Kernels are loaded [`ImageHeader::text_offset`] bytes above a multiple of this.
    pub const ALIGNMENT: u64 = 2 << 20;

    /// Reads the header at the start of `image`.
    ///
    /// # Errors
    /// Anything but a little-endian arm64 `Image` with a sane size.
    pub fn parse(image: &[u8]) -> Result<Self, ImageError> {
        if image.starts_with(&[0x1f, 0x8b]) || image.get(4..8) == Some(b"zimg") {
            return Err(ImageError::Compressed);
        }
        let header = image.first_chunk::<HEADER>().ok_or(ImageError::TooShort)?;
        if header[56..60] != *b"ARM\x64" {
            return Err(ImageError::NoMagic);
        }
        let word = |at: usize| {
            header[at..at + 8]
                .iter()
                .rev()
                .fold(0, |word, &byte| word << 8 | u64::from(byte))
        };
        let parsed = Self {
            text_offset: word(8),
            image_size: word(16),
            flags: word(24),
        };
        if parsed.flags & 1 != 0 {
            return Err(ImageError::BigEndian);
        }
        if parsed.image_size == 0 {
            return Err(ImageError::NoSize);
        }
        let offset_ok =
            parsed.text_offset < Self::ALIGNMENT && parsed.text_offset.is_multiple_of(4096);
        if !offset_ok || parsed.image_size > SIZE_LIMIT {
            return Err(ImageError::Absurd);
        }
        Ok(parsed)
    }

    /// Bytes in a page of this kernel; `None` where the header doesn't say.
    pub fn page_size(&self) -> Option<u32> {
        match self.flags >> 1 & 3 {
            1 => Some(4 << 10),
            2 => Some(16 << 10),
            3 => Some(64 << 10),
            _ => None,
        }
    }

    /// Whether the kernel may lie anywhere in memory; if not, it can't use
    /// memory below its own 2 MiB aligned base and belongs near the start.
    pub fn anywhere(&self) -> bool {
        self.flags & 8 != 0
    }

    /// Whether `address` is one at which the kernel may be loaded.
    pub fn may_load_at(&self, address: u64) -> bool {
        address % Self::ALIGNMENT == self.text_offset
    }

    /// The lowest address not below `from` at which the kernel may be loaded;
    /// `None` where the address space ends before.
    pub fn load_address(&self, from: u64) -> Option<u64> {
        let base = from.saturating_sub(self.text_offset);
        base.checked_next_multiple_of(Self::ALIGNMENT)?
            .checked_add(self.text_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn image(text_offset: u64, size: u64, flags: u64) -> Vec<u8> {
        let mut bytes = std::vec![0; HEADER];
        bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&size.to_le_bytes());
        bytes[24..32].copy_from_slice(&flags.to_le_bytes());
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes
    }

    #[test]
    fn a_debian_kernel() {
        let header = ImageHeader::parse(&image(0, 0x208_0000, 0xa)).unwrap();
        assert_eq!((header.page_size(), header.anywhere()), (Some(4096), true));
        assert!(header.may_load_at(0x4020_0000) && !header.may_load_at(0x4021_0000));
        assert_eq!(header.load_address(0x4000_0001), Some(0x4020_0000));
        assert_eq!(header.load_address(u64::MAX), None);
    }

    #[test]
    fn an_old_kernel_with_an_offset() {
        let header = ImageHeader::parse(&image(0x80000, 0x100_0000, 0)).unwrap();
        assert_eq!((header.page_size(), header.anywhere()), (None, false));
        assert_eq!(header.load_address(0x4000_0000), Some(0x4008_0000));
        assert_eq!(header.load_address(0x4008_0001), Some(0x4028_0000));
        assert_eq!(header.load_address(0), Some(0x8_0000));
    }

    #[test]
    fn every_error() {
        let error = |bytes: &[u8]| ImageHeader::parse(bytes).unwrap_err();
        assert_eq!(error(&image(0, 1, 0)[..63]), ImageError::TooShort);
        assert_eq!(error(b""), ImageError::TooShort);
        assert_eq!(error(b"\x1f\x8b"), ImageError::Compressed);
        assert_eq!(error(b"MZ\0\0zimg"), ImageError::Compressed);
        assert_eq!(error(&[0; 64]), ImageError::NoMagic);
        assert_eq!(error(&image(0, 0, 0)), ImageError::NoSize);
        assert_eq!(error(&image(0, 1, 1)), ImageError::BigEndian);
        assert_eq!(error(&image(2 << 20, 1, 0)), ImageError::Absurd);
        assert_eq!(error(&image(1, 1, 0)), ImageError::Absurd);
        assert_eq!(error(&image(0, u64::MAX, 0)), ImageError::Absurd);
    }

    proptest! {
        #[test]
        fn what_it_proposes_it_accepts(offset in 0u64..512, from: u64) {
            let header = ImageHeader::parse(&image(offset * 4096, 4096, 0)).unwrap();
            if let Some(at) = header.load_address(from) {
                prop_assert!(at >= from && header.may_load_at(at));
                prop_assert!(at - from < ImageHeader::ALIGNMENT || at == header.text_offset);
            }
        }
    }
}
