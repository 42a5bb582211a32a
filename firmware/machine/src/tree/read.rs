// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Values of properties, and the addresses of devices as the CPUs see them.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use dtoolkit::model::DeviceTreeNode;
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

/// A property's bytes.
pub fn bytes<'a>(node: &'a DeviceTreeNode, name: &str) -> Option<&'a [u8]> {
    node.property(name)?.value_as().ok()
}

/// A property that is one text.
pub fn text<'a>(node: &'a DeviceTreeNode, name: &str) -> Option<&'a str> {
    let text = core::str::from_utf8(bytes(node, name)?.strip_suffix(b"\0")?).ok()?;
    Some(text).filter(|t| !t.contains('\0'))
}

/// A property that is one cell.
pub fn cell(node: &DeviceTreeNode, name: &str) -> Option<u32> {
    bytes(node, name)?.try_into().ok().map(u32::from_be_bytes)
}

/// A property that is one number of one or two cells.
pub fn number(node: &DeviceTreeNode, name: &str) -> Option<u64> {
    let value = bytes(node, name)?;
    matches!(value.len(), 4 | 8).then(|| low_64_bits(value))
}

/// Whether the node is there to be used.
pub fn is_okay(node: &DeviceTreeNode) -> bool {
    matches!(text(node, "status"), None | Some("okay" | "ok"))
}

/// The last 8 bytes of a big-endian number.
fn low_64_bits(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Cells of the numbers in a list of records. A number of more than two cells
/// (an address on PCI) is cut to its last two.
pub fn records<const N: usize>(value: &[u8], cells: [u32; N]) -> Option<Vec<[u64; N]>> {
    let length: usize = cells
        .iter()
        .map(|&c| c as usize)
        .sum::<usize>()
        .checked_mul(4)?;
    if cells.iter().any(|&c| c > 4) || length == 0 || !value.len().is_multiple_of(length) {
        return None;
    }
    let records = value.chunks_exact(length).map(|record| {
        let mut rest = record;
        cells.map(|c| {
            let (number, after) = rest.split_at(c as usize * 4);
            rest = after;
            low_64_bits(number)
        })
    });
    Some(records.collect())
}

/// `#address-cells` and `#size-cells` of a node's children.
pub fn cells(node: &DeviceTreeNode) -> [u32; 2] {
    let space = node.address_space();
    [space.address_cells, space.size_cells]
}

/// The range that starts at `base`; `None` where it would wrap.
pub fn range(base: u64, size: u64) -> Option<Range<u64>> {
    Some(base..base.checked_add(size)?)
}

/// How a bus hands its children's addresses on to its parent.
enum Bus {
    /// As they are.
    Identity,
    /// Child address, parent address, size.
    Windows(Vec<[u64; 3]>),
    /// Not at all: what hangs there has no address for a CPU.
    Opaque,
}

impl Bus {
    fn of(node: &DeviceTreeNode, parent_cells: [u32; 2]) -> Self {
        let [address, size] = cells(node);
        match bytes(node, "ranges") {
            None => Self::Opaque,
            Some([]) => Self::Identity,
            Some(value) => {
                records(value, [address, parent_cells[0], size]).map_or(Self::Opaque, Self::Windows)
            }
        }
    }

    fn translate(&self, range: Range<u64>) -> Option<Range<u64>> {
        match self {
            Self::Identity => Some(range),
            Self::Opaque => None,
            Self::Windows(windows) => windows.iter().find_map(|&[child, parent, size]| {
                let offset = range.start.checked_sub(child).filter(|&o| o < size)?;
                self::range(parent.checked_add(offset)?, range.end - range.start)
            }),
        }
    }
}

/// A node on a walk over the tree.
pub struct Visit<'a> {
    /// The node.
    pub node: &'a DeviceTreeNode,
    /// Its full path; the root's is empty.
    pub path: &'a str,
    /// What its `reg` covers, in physical addresses. Empty where it has none,
    /// or none that a CPU can reach.
    pub reg: Vec<Range<u64>>,
    /// Physical addresses that its children's bus takes up: PCI's windows.
    pub windows: Vec<Range<u64>>,
}

/// Calls `f` for every node, parents first.
pub fn walk<'a>(root: &'a DeviceTreeNode, f: &mut dyn FnMut(Visit<'_>)) {
    fn step(
        node: &DeviceTreeNode,
        parent_cells: [u32; 2],
        buses: &mut Vec<Bus>,
        path: &mut String,
        f: &mut dyn FnMut(Visit<'_>),
    ) {
        let bus = if path.is_empty() {
            Bus::Identity
        } else {
            Bus::of(node, parent_cells)
        };
        let up = |range: Range<u64>| {
            buses
                .iter()
                .rev()
                .try_fold(range, |r, bus| bus.translate(r))
        };
        let reg = bytes(node, "reg").and_then(|value| records(value, parent_cells));
        let reg = reg
            .into_iter()
            .flatten()
            .filter_map(|[base, size]| up(range(base, size)?));
        let own = match &bus {
            Bus::Windows(windows) => windows.as_slice(),
            _ => &[],
        };
        let windows = own
            .iter()
            .filter_map(|&[_, parent, size]| up(range(parent, size)?));
        f(Visit {
            node,
            path,
            reg: reg.collect(),
            windows: windows.collect(),
        });
        buses.push(bus);
        for child in node.children() {
            let length = path.len();
            path.push('/');
            path.push_str(child.name());
            step(child, cells(node), buses, path, f);
            path.truncate(length);
        }
        buses.pop();
    }
    step(root, [2, 1], &mut Vec::new(), &mut String::new(), f);
}
