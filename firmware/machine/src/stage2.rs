// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Translation tables with a 4 KiB granule that map every address to itself:
//! Linux's stage 2 and EL2's own stage 1 (Arm ARM D8).
//!
//! Both are built from a list of regions, of which a later one wins over an
//! earlier one, in the largest blocks possible: 1 GiB, 2 MiB, and 4 KiB pages
//! only where a boundary needs them. What no region covers is Linux's in stage
//! 2, and not mapped in stage 1. Tables come from a [`Tables`], so nothing here
//! touches memory by itself.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// Where tables come from. Addresses are physical, in bytes.
pub trait Tables {
    /// A 4 KiB table of zeroes, aligned to its size; `None` when there are no
    /// more.
    fn alloc(&mut self) -> Option<usize>;
    /// `count` (a power of two, up to 16) tables of zeroes in one piece,
    /// aligned to the size of the piece.
    fn alloc_contiguous(&mut self, count: usize) -> Option<usize>;
    /// The entry `index` (below 512) of a table from here.
    fn entry(&mut self, table: usize, index: usize) -> &mut u64;
}

/// What Linux may do with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: every access faults to EL2.
    None,
    /// Load; a store or a fetch faults to EL2.
    ReadOnly,
    /// Load, store and execute.
    ReadWrite,
}

/// What a region is to EL2. Nothing is both writable and executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not mapped: a guard.
    Guard,
    /// Instructions: read and execute.
    Code,
    /// Constants: read.
    ReadOnly,
    /// Memory that only EL2 uses: read and write, write-back cacheable.
    Data,
    /// Memory that Linux maps uncached: read and write, not cacheable.
    Shared,
    /// Registers: read and write, Device-nGnRE.
    Device,
}

/// Linux's stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    /// The root table or tables: VTTBR_EL2.BADDR.
    pub root: usize,
    /// VTCR_EL2.
    pub vtcr: u64,
}

/// EL2's stage 1, for HCR_EL2.E2H = 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage1 {
    /// The root table: TTBR0_EL2.
    pub root: usize,
    /// TCR_EL2.
    pub tcr: u64,
    /// MAIR_EL2.
    pub mair: u64,
}

/// Why tables can't be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// A region starts or ends inside a page.
    Misaligned(u64),
    /// A region reaches beyond the physical addresses that the CPU has.
    TooFar(u64),
    /// [`Tables`] has no more.
    NoTables,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned(at) => write!(f, "a region's end, {at:#x}, is inside a page"),
            Self::TooFar(at) => write!(f, "a region's end, {at:#x}, is no physical address here"),
            Self::NoTables => f.write_str("the memory for translation tables is used up"),
        }
    }
}

impl core::error::Error for MapError {}

/// Bytes in a page and in a table.
const PAGE: u64 = 4096;
/// Entries in a table.
const ENTRIES: u64 = 512;

/// Descriptor: something is there.
const VALID: u64 = 1 << 0;
/// Descriptor: a table, or at level 3 a page; else a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// Descriptor, leaf: accessed.
const AF: u64 = 1 << 10;
/// Descriptor, leaf: inner shareable.
const INNER: u64 = 3 << 8;
/// Descriptor, leaf: not executable.
const XN: u64 = 1 << 54;

/// Bits of a physical address, from ID_AA64MMFR0_EL1.PARange. Clamped to 48:
/// more needs FEAT_LPA.
pub const fn address_bits(parange: u64) -> u32 {
    match parange & 15 {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

/// The value of a PS field for that many bits.
const fn ps(parange: u64) -> u64 {
    let parange = parange & 15;
    if parange > 5 { 5 } else { parange }
}

/// Fields that VTCR_EL2 and TCR_EL2 share: T0SZ, walks inner-shareable and
/// write-back cacheable, 4 KiB granule, PS, the RES1 bit.
const fn control(parange: u64) -> u64 {
    let t0sz = 64 - address_bits(parange) as u64;
    t0sz | 1 << 8 | 1 << 10 | 3 << 12 | ps(parange) << 16 | 1 << 31
}

/// Builds Linux's stage 2: everything is [`Access::ReadWrite`] but `regions`.
/// All of it is Normal write-back memory: stage 1 makes devices of it where
/// they are.
///
/// A 48-bit space takes 513 tables, because level 0 has no blocks; up to 42
/// bits it takes 8 at most. Boundaries inside of blocks come on top.
///
/// # Errors
/// A region that is no set of pages or lies too high, or no more tables.
pub fn stage2(
    parange: u64,
    regions: &[(Range<u64>, Access)],
    tables: &mut dyn Tables,
) -> Result<Stage2, MapError> {
    let bits = address_bits(parange);
    // A start at level 0 needs 44 bits; below that the start is at level 1,
    // in up to 16 concatenated tables (D8.2.2).
    let level = if bits >= 44 { 0 } else { 1 };
    let concatenated = 1 << bits.saturating_sub(shift(level) + 9);
    let plan = Plan::new(bits, regions, Access::ReadWrite, |access| match access {
        Access::None => 0,
        Access::ReadOnly => S2_NORMAL | 1 << 6 | XN,
        Access::ReadWrite => S2_NORMAL | 3 << 6,
    })?;
    let root = tables
        .alloc_contiguous(concatenated)
        .ok_or(MapError::NoTables)?;
    plan.fill_root(tables, root, level)?;
    let sl0 = if level == 0 { 2 } else { 1 };
    Ok(Stage2 {
        root,
        vtcr: control(parange) | sl0 << 6,
    })
}

/// How many entries the root of a stage 2 with this VTCR_EL2 has, in one table
/// or in several in one piece.
pub const fn root_entries(vtcr: u64) -> u64 {
    let bits = 64 - (vtcr & 63) as u32;
    // SL0, with 4 KiB pages.
    let level = 2 - (vtcr >> 6 & 3) as u32;
    1 << (bits - shift(level))
}

/// Stage 2, leaf: Normal, inner and outer write-back.
const S2_NORMAL: u64 = 0xf << 2 | INNER | AF;

/// MAIR_EL2: 0 is Normal write-back, 1 Normal non-cacheable, 2 Device-nGnRE.
const MAIR: u64 = 0x04_44_ff;
/// Stage 1, leaf: read-only. Without it: read and write.
const READ_ONLY: u64 = 1 << 7;
/// Stage 1, leaf: accessed; AP[1] is RES1 where there is one privilege level.
const S1: u64 = AF | 1 << 6;
/// TCR_EL2 has a second RES1 bit.
const TCR_RES1: u64 = 1 << 23;

/// Builds EL2's stage 1.
///
/// # Errors
/// A region that is no set of pages or lies too high, or no more tables.
pub fn stage1(
    parange: u64,
    regions: &[(Range<u64>, Kind)],
    tables: &mut dyn Tables,
) -> Result<Stage1, MapError> {
    let bits = address_bits(parange);
    let level = if bits >= 40 { 0 } else { 1 };
    let plan = Plan::new(bits, regions, Kind::Guard, |kind| match kind {
        Kind::Guard => 0,
        Kind::Code => S1 | INNER | READ_ONLY,
        Kind::ReadOnly => S1 | INNER | READ_ONLY | XN,
        Kind::Data => S1 | INNER | XN,
        Kind::Shared => S1 | INNER | XN | 1 << 2,
        Kind::Device => S1 | XN | 2 << 2,
    })?;
    let root = tables.alloc().ok_or(MapError::NoTables)?;
    plan.fill_root(tables, root, level)?;
    Ok(Stage1 {
        root,
        tcr: control(parange) | TCR_RES1,
        mair: MAIR,
    })
}

/// The address bits below those that index a table of this level.
const fn shift(level: u32) -> u32 {
    39 - 9 * level
}

/// The whole address space, cut into pieces of one kind.
struct Plan {
    /// The end of a piece and its leaves' attributes (0: not mapped). Sorted;
    /// neighbours differ.
    pieces: Vec<(u64, u64)>,
    /// The end of the address space.
    end: u64,
}

impl Plan {
    fn new<A: Copy>(
        bits: u32,
        regions: &[(Range<u64>, A)],
        elsewhere: A,
        attributes: fn(A) -> u64,
    ) -> Result<Self, MapError> {
        let end = 1 << bits;
        let mut ends: Vec<u64> = regions
            .iter()
            .flat_map(|(range, _)| [range.start, range.end])
            .collect();
        if let Some(&at) = ends.iter().find(|at| !at.is_multiple_of(PAGE)) {
            return Err(MapError::Misaligned(at));
        }
        if let Some(&at) = ends.iter().find(|&&at| at > end) {
            return Err(MapError::TooFar(at));
        }
        ends.push(end);
        ends.sort_unstable();
        ends.dedup();
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for end in ends.into_iter().filter(|&end| end > 0) {
            let last = regions
                .iter()
                .rev()
                .find(|(range, _)| range.contains(&(end - 1)));
            let here = attributes(last.map_or(elsewhere, |&(_, kind)| kind));
            match pieces.last_mut() {
                Some((last, attributes)) if *attributes == here => *last = end,
                _ => pieces.push((end, here)),
            }
        }
        Ok(Self { pieces, end })
    }

    /// The attributes of all of `range`, if they are the same.
    fn uniform(&self, range: Range<u64>) -> Option<u64> {
        let after = self.pieces.partition_point(|&(end, _)| end <= range.start);
        let &(end, attributes) = self.pieces.get(after)?;
        (range.end <= end).then_some(attributes)
    }

    /// Fills the root: one table, or several in one piece.
    fn fill_root(&self, tables: &mut dyn Tables, root: usize, level: u32) -> Result<(), MapError> {
        self.fill(tables, root, level, 0, self.end >> shift(level))
    }

    /// Fills a table of `entries` entries, the first of which maps `base`.
    fn fill(
        &self,
        tables: &mut dyn Tables,
        table: usize,
        level: u32,
        base: u64,
        entries: u64,
    ) -> Result<(), MapError> {
        let size = 1 << shift(level);
        let leaf = if level == 3 {
            VALID | TABLE_OR_PAGE
        } else {
            VALID
        };
        for index in 0..entries {
            let at = base + index * size;
            let entry = match self.uniform(at..at + size) {
                Some(0) => continue,
                Some(attributes) if level > 0 => at | attributes | leaf,
                _ => {
                    let next = tables.alloc().ok_or(MapError::NoTables)?;
                    self.fill(tables, next, level + 1, at, ENTRIES)?;
                    next as u64 | VALID | TABLE_OR_PAGE
                }
            };
            let part = table + (index / ENTRIES * PAGE) as usize;
            *tables.entry(part, (index % ENTRIES) as usize) = entry;
        }
        Ok(())
    }
}
