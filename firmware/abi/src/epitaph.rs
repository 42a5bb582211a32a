// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The epitaph in RAM: what the firmware wrote when it died, readable after
//! the reset that followed.
//!
//! It lies in the telemetry window, [`BYTES`] at the offset that
//! [`crate::telemetry::Header::epitaph_offset`] names. A reset doesn't clear
//! RAM, and the next boot leaves these bytes alone if they are an epitaph, so
//! what is found there was written by an earlier run. After power-on RAM holds
//! anything: [`read`] believes nothing that doesn't add up.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// Bytes that an epitaph may take, header and text.
pub const BYTES: usize = 2 * crate::PAGE;
/// Offset of the text, in bytes.
pub const TEXT_OFFSET: usize = 32;
/// The longest text, in bytes.
pub const TEXT_MAX: usize = BYTES - TEXT_OFFSET;
/// First word of [`Header`]: "EPITAPH" and a zero byte, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"EPITAPH\0");
/// How the line of the text begins that says why the firmware died.
pub const REASON: &str = "reason: ";
/// The text's last line; an epitaph without it was cut off by another fault.
pub const END: &str = "end of the epitaph";

/// What an epitaph starts with.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// Bytes of text in bits 0..32, their [`Sum`] in bits 32..64: one word, so
    /// that the two agree whenever the machine stops.
    pub text: AtomicU64,
    /// Boots since it was written: 1 in the run that followed.
    pub age: AtomicU32,
    /// 0.
    pub reserved: AtomicU32,
}

const _: () = assert!(size_of::<Header>() <= TEXT_OFFSET);

/// The checksum of a text: FNV-1a (Fowler, Noll, Vo) of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum(pub u32);

impl Sum {
    /// That of no text.
    pub const EMPTY: Self = Self(0x811c_9dc5);

    /// With one byte more.
    #[must_use]
    pub const fn and(self, byte: u8) -> Self {
        Self((self.0 ^ byte as u32).wrapping_mul(0x0100_0193))
    }
}

/// An epitaph that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epitaph<'a> {
    /// Boots since it was written, as [`Header::age`].
    pub age: u32,
    /// All of it, lines that end in `\n`.
    pub text: &'a str,
}

impl Epitaph<'_> {
    /// Why the firmware died, in a line; empty if it was cut off before that.
    pub fn reason(&self) -> &str {
        let mut lines = self.text.lines();
        lines.find_map(|l| l.strip_prefix(REASON)).unwrap_or("")
    }
}

/// Reads an epitaph; `None` if these bytes are none.
pub fn read(area: &[u8]) -> Option<Epitaph<'_>> {
    let word = |at: usize| Some(u32::from_le_bytes(*area.get(at..)?.first_chunk()?));
    if area.first_chunk() != Some(&MAGIC.to_le_bytes()) {
        return None;
    }
    let (length, sum, age) = (word(8)? as usize, word(12)?, word(16)?);
    if length > TEXT_MAX {
        return None;
    }
    let text = area.get(TEXT_OFFSET..TEXT_OFFSET + length)?;
    let found = text.iter().fold(Sum::EMPTY, |sum, &byte| sum.and(byte));
    let text = core::str::from_utf8(text).ok()?;
    (found == Sum(sum)).then_some(Epitaph { age, text })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    const TEXT: &str = "\nthe firmware died\nreason: a test\nESR 0\n";

    fn stone(text: &str) -> Vec<u8> {
        let sum = text.bytes().fold(Sum::EMPTY, Sum::and);
        let mut bytes = Vec::from(MAGIC.to_le_bytes());
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(sum.0.to_le_bytes());
        bytes.resize(TEXT_OFFSET, 0);
        bytes.extend(text.bytes());
        bytes.resize(BYTES, 0x55);
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let mut bytes = stone(TEXT);
        bytes[16] = 3;
        let found = read(&bytes).unwrap();
        assert_eq!((found.age, found.text), (3, TEXT));
        assert_eq!(found.reason(), "a test");
        assert_eq!(read(&stone("")).unwrap().reason(), "");
    }

    #[test]
    fn the_sum_is_fnv_1a() {
        // From its authors' table of test vectors.
        assert_eq!(
            "foobar".bytes().fold(Sum::EMPTY, Sum::and),
            Sum(0xbf9c_f968)
        );
    }

    #[test]
    fn every_flipped_bit_but_those_of_the_age_is_noticed() {
        let good = stone(TEXT);
        let used = TEXT_OFFSET + TEXT.len();
        for bit in (0..128).chain(TEXT_OFFSET * 8..used * 8) {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn garbage_and_lengths_beyond_the_area_are_nothing() {
        for byte in [0, 0x55, 0xff] {
            assert_eq!(read(&[byte; BYTES]), None);
        }
        let good = stone(TEXT);
        for length in [0, 1, 8, 12, 16, 19, TEXT_OFFSET, TEXT_OFFSET + 1] {
            assert_eq!(read(&good[..length]), None, "{length} bytes");
        }
        let mut bytes = good;
        for length in [TEXT_MAX as u32 + 1, u32::MAX] {
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            assert_eq!(read(&bytes), None, "length {length}");
        }
    }
}
