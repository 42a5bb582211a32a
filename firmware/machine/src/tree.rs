// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device tree: reading a blob that may be hostile, and writing the one
//! that Linux gets to see.
//!
//! A blob is checked here first, and just for what could hurt: `dtoolkit`, which
//! does the rest, refuses names longer than 31 bytes or with unusual letters,
//! which Linux takes and trees of real boards have, and recurses as deep as a
//! blob asks for.

mod check;
mod edit;
pub(crate) mod read;

pub use check::{HEADER_BYTES, total_size};
pub use edit::{Edits, edit};

use core::fmt;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};

/// The largest blob taken, in bytes: what Linux takes.
pub const MAX_SIZE: usize = 2 << 20;

/// What is wrong with a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// The magic number is missing.
    NotATree,
    /// The blob ends before the size that its header names.
    Truncated,
    /// The header names more than [`MAX_SIZE`] bytes.
    TooLarge(u32),
    /// Not readable as version 17.
    Version(u32),
    /// A block lies outside of the blob or is misaligned.
    Block(&'static str),
    /// At this byte of the blob the structure block is wrong.
    Structure(usize, &'static str),
    /// Two nodes or two properties in one place have the same name.
    Twice,
    /// What an edit needs is missing or has a form that it can't handle.
    Edit(&'static str),
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("device tree: ")?;
        match *self {
            Self::NotATree => f.write_str("no blob there (no 0xd00dfeed at its start)"),
            Self::Truncated => f.write_str("the blob is shorter than its header says"),
            Self::TooLarge(size) => write!(f, "the blob has {size} bytes, more than 2 MiB"),
            Self::Version(version) => write!(f, "format {version} is not compatible with 17"),
            Self::Block(name) => write!(f, "the {name} block is misplaced"),
            Self::Structure(at, what) => write!(f, "at byte {at:#x}: {what}"),
            Self::Twice => f.write_str("the same name twice in one node"),
            Self::Edit(what) => f.write_str(what),
        }
    }
}

impl core::error::Error for TreeError {}

/// Checks and reads a blob; bytes behind its end are ignored.
///
/// # Errors
/// Anything that makes the blob no well-formed tree of a sane size.
pub fn open(blob: &[u8]) -> Result<DeviceTree, TreeError> {
    let checked = check::check(blob)?;
    let tree = DeviceTree::from_fdt(&Fdt::new_unchecked(checked.blob));
    // The library keeps one of two equal names and drops the other.
    if count(&tree.root) != checked.items {
        return Err(TreeError::Twice);
    }
    Ok(tree)
}

/// Nodes and properties from `node` on down.
fn count(node: &DeviceTreeNode) -> usize {
    use dtoolkit::Node;
    1 + node.properties().count() + node.children().map(count).sum::<usize>()
}
