// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Is a blob safe to read? (Devicetree Specification 0.4, chapter 5.)

use super::{MAX_SIZE, TreeError};

/// Bytes in a blob's header.
pub const HEADER_BYTES: usize = 40;
/// Deeper trees than this don't exist; reading them is recursive.
const MAX_DEPTH: usize = 32;
/// Nodes and properties; bounds the memory that reading takes.
const MAX_ITEMS: usize = 1 << 16;
/// Bytes in a name; bounds it too, because names are shared in the blob.
const MAX_NAME: usize = 255;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// A blob that is well-formed.
pub(super) struct Checked<'a> {
    /// The blob, cut to its size.
    pub blob: &'a [u8],
    /// Nodes and properties in it.
    pub items: usize,
}

fn word(blob: &[u8], at: usize) -> Option<u32> {
    blob.get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes))
}

/// The size in bytes of the blob that starts with these [`HEADER_BYTES`].
///
/// # Errors
/// No magic number, another version, or a size over [`MAX_SIZE`].
pub fn total_size(header: &[u8]) -> Result<usize, TreeError> {
    let field = |n: usize| word(header, 4 * n).ok_or(TreeError::Truncated);
    if field(0)? != 0xd00d_feed {
        return Err(TreeError::NotATree);
    }
    let (version, compatible) = (field(5)?, field(6)?);
    if version < 17 || compatible > 17 {
        return Err(TreeError::Version(version));
    }
    match field(1)? {
        size if size as usize > MAX_SIZE => Err(TreeError::TooLarge(size)),
        size if (size as usize) < HEADER_BYTES => Err(TreeError::Truncated),
        size => Ok(size as usize),
    }
}

/// Checks all that reading relies on.
pub(super) fn check(blob: &[u8]) -> Result<Checked<'_>, TreeError> {
    let size = total_size(blob)?;
    let blob = blob.get(..size).ok_or(TreeError::Truncated)?;
    let field = |n: usize| {
        word(blob, 4 * n)
            .map(|w| w as usize)
            .ok_or(TreeError::Truncated)
    };
    reservations(blob, field(4)?)?;
    let block = |start: usize, length: usize, align: usize, name| {
        let end = start
            .checked_add(length)
            .filter(|_| start.is_multiple_of(align));
        end.filter(|_| start >= HEADER_BYTES)
            .and_then(|end| blob.get(..end))
            .ok_or(TreeError::Block(name))
    };
    let strings_start = field(3)?;
    let strings = block(strings_start, field(8)?, 1, "strings")?;
    let structure_start = field(2)?;
    let structure = block(structure_start, field(9)?, 4, "structure")?;
    let strings = strings
        .get(strings_start..)
        .ok_or(TreeError::Block("strings"))?;
    let items = Structure {
        bytes: structure,
        at: structure_start,
        strings,
        items: 0,
    }
    .check()?;
    Ok(Checked { blob, items })
}

/// The memory reservation block ends with a pair of zeroes inside the blob.
fn reservations(blob: &[u8], start: usize) -> Result<(), TreeError> {
    let misplaced = TreeError::Block("memory reservation");
    if !start.is_multiple_of(8) || start < HEADER_BYTES {
        return Err(misplaced);
    }
    let entries = blob.get(start..).ok_or(misplaced)?;
    let end = entries
        .chunks_exact(16)
        .position(|entry| entry.iter().all(|&byte| byte == 0));
    end.map(|_| ()).ok_or(misplaced)
}

/// A walk over the structure block.
struct Structure<'a> {
    /// The blob up to the block's end.
    bytes: &'a [u8],
    /// Where in the blob the walk stands.
    at: usize,
    strings: &'a [u8],
    items: usize,
}

impl Structure<'_> {
    fn wrong<T>(&self, what: &'static str) -> Result<T, TreeError> {
        Err(TreeError::Structure(self.at, what))
    }

    fn word(&mut self) -> Result<u32, TreeError> {
        let Some(value) = word(self.bytes, self.at) else {
            return self.wrong("the block ends");
        };
        self.at += 4;
        Ok(value)
    }

    /// Steps over `length` bytes and the padding behind them.
    fn skip(&mut self, length: usize) -> Result<(), TreeError> {
        match self.at.checked_add(length) {
            Some(end) if end <= self.bytes.len() => self.at = end.next_multiple_of(4),
            _ => return self.wrong("a value reaches behind the block's end"),
        }
        Ok(())
    }

    fn item(&mut self) -> Result<(), TreeError> {
        self.items += 1;
        if self.items > MAX_ITEMS {
            self.wrong("too many nodes and properties")
        } else {
            Ok(())
        }
    }

    /// Returns the number of nodes and properties.
    fn check(mut self) -> Result<usize, TreeError> {
        let mut depth = 0;
        // Whether a property may follow: not behind a child node.
        let mut properties = false;
        loop {
            match self.word()? {
                BEGIN_NODE if depth == MAX_DEPTH => return self.wrong("nodes are nested too deep"),
                BEGIN_NODE => {
                    self.node(depth)?;
                    depth += 1;
                    properties = true;
                }
                PROP if properties => self.property()?,
                PROP => return self.wrong("a property outside of a node or behind a child"),
                NOP if depth > 0 => {}
                END_NODE if depth == 1 => break,
                END_NODE if depth > 1 => {
                    depth -= 1;
                    properties = false;
                }
                _ => return self.wrong("an unexpected token"),
            }
        }
        if self.word()? != END {
            return self.wrong("the root node is not the only one");
        }
        Ok(self.items)
    }

    fn node(&mut self, depth: usize) -> Result<(), TreeError> {
        self.item()?;
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let Some(name) = name(rest) else {
            return self.wrong("a node's name is no text");
        };
        if name.is_empty() != (depth == 0) || name.contains('/') {
            return self.wrong("a node's name is wrong");
        }
        self.skip(name.len() + 1)
    }

    fn property(&mut self) -> Result<(), TreeError> {
        self.item()?;
        let length = self.word()? as usize;
        let at = self.word()? as usize;
        match name(self.strings.get(at..).unwrap_or(&[])) {
            Some(name) if !name.is_empty() => self.skip(length),
            _ => self.wrong("a property's name is no text"),
        }
    }
}

/// The text at the start of `bytes`, up to a zero byte.
fn name(bytes: &[u8]) -> Option<&str> {
    let bytes = bytes.get(..bytes.len().min(MAX_NAME + 1))?;
    core::ffi::CStr::from_bytes_until_nul(bytes)
        .ok()?
        .to_str()
        .ok()
}
