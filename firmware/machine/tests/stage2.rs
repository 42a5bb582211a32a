// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Walks the tables as the hardware does (Arm ARM D8.2) and compares every
//! boundary with the list of regions.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use taichi_machine::stage2::{
    Access, Kind, MapError, Tables, address_bits, root_entries, stage1, stage2,
};

/// Physical memory that holds nothing but tables.
#[derive(Clone, Default)]
struct Memory {
    words: BTreeMap<usize, u64>,
    next: usize,
    tables: usize,
    limit: usize,
}

impl Memory {
    fn new(limit: usize) -> Self {
        Self {
            next: 0x8_0000_1000,
            limit,
            ..Self::default()
        }
    }
}

impl Tables for Memory {
    fn alloc(&mut self) -> Option<usize> {
        self.alloc_contiguous(1)
    }

    fn alloc_contiguous(&mut self, count: usize) -> Option<usize> {
        self.tables += count;
        let at = self.next.next_multiple_of(4096 * count);
        self.next = at + 4096 * count;
        (self.tables <= self.limit).then_some(at)
    }

    fn entry(&mut self, table: usize, index: usize) -> &mut u64 {
        assert!(table.is_multiple_of(4096) && table < self.next && index < 512);
        self.words.entry(table + 8 * index).or_insert(0)
    }
}

/// What a walk finds.
#[derive(Debug, PartialEq, Eq)]
struct Leaf {
    output: u64,
    attributes: u64,
    level: u32,
}

/// A walk from a root at `level` for `bits` of input.
fn walk(memory: &Memory, root: usize, level: u32, bits: u32, input: u64) -> Option<Leaf> {
    assert!(input >> bits == 0);
    let mut table = root as u64;
    for level in level..4 {
        let shift = 39 - 9 * level;
        // Concatenated tables: the first index has all the bits that are left.
        let index = if table == root as u64 {
            input >> shift
        } else {
            input >> shift & 511
        };
        let entry = memory
            .words
            .get(&((table + 8 * index) as usize))
            .copied()
            .unwrap_or(0);
        let output = entry & 0x0000_ffff_ffff_f000;
        match (entry & 3, level) {
            (0 | 2, _) => return None,
            (3, 0..=2) => table = output,
            (1, 1 | 2) | (3, 3) => {
                assert_eq!(output % (1 << shift), 0);
                let attributes = entry & !0x0000_ffff_ffff_f003;
                return Some(Leaf {
                    output: output + input % (1 << shift),
                    attributes,
                    level,
                });
            }
            other => panic!("a reserved descriptor {other:?}"),
        }
    }
    unreachable!("level 3 has no tables")
}

/// What the regions say about an address.
fn model<A: Copy>(regions: &[(Range<u64>, A)], input: u64) -> Option<A> {
    regions
        .iter()
        .rev()
        .find(|(range, _)| range.contains(&input))
        .map(|&(_, kind)| kind)
}

/// Addresses at, below and above every boundary, and of its blocks.
fn probes<A>(regions: &[(Range<u64>, A)], bits: u32) -> Vec<u64> {
    let ends = regions
        .iter()
        .flat_map(|(range, _)| [range.start, range.end]);
    let ends = ends.chain([0, 1 << bits]);
    let around = ends.flat_map(|at| {
        [0u32, 12, 21, 30].into_iter().flat_map(move |shift| {
            let block = at >> shift << shift;
            [
                block.wrapping_sub(1),
                block,
                block + (1 << shift) - 1,
                block + (1 << shift),
            ]
        })
    });
    around.filter(|&at| at >> bits == 0).collect()
}

fn check_stage2(parange: u64, regions: &[(Range<u64>, Access)]) -> Memory {
    let mut memory = Memory::new(usize::MAX);
    let tables = stage2(parange, regions, &mut memory).unwrap();
    let bits = 64 - (tables.vtcr & 63) as u32;
    assert_eq!(bits, address_bits(parange));
    let level = [2, 1, 0][(tables.vtcr >> 6 & 3) as usize];
    let first = 39 - 9 * level;
    assert!(
        bits > first && bits <= first + 9 + 4,
        "the start level fits the size"
    );
    assert!(level > 0 || bits >= 44, "level 0 needs 44 bits");
    let pieces = 1usize << bits.saturating_sub(first + 9);
    assert_eq!(tables.root % (4096 * pieces), 0);
    for input in probes(regions, bits) {
        let leaf = walk(&memory, tables.root, level, bits, input);
        let expect = match model(regions, input) {
            Some(Access::None) => None,
            Some(Access::ReadOnly) => Some(0x40_0000_0000_077c),
            None | Some(Access::ReadWrite) => Some(0x7fc),
        };
        assert_eq!(
            leaf.as_ref().map(|leaf| leaf.attributes),
            expect,
            "{input:#x}"
        );
        assert!(leaf.is_none_or(|leaf| leaf.output == input));
    }
    largest_blocks(&memory, tables.root, level, bits);
    let mut stopped = memory.clone();
    for entry in 0..root_entries(tables.vtcr) as usize {
        stopped.words.insert(tables.root + 8 * entry, 0);
    }
    for input in probes(regions, bits) {
        assert!(walk(&stopped, tables.root, level, bits, input).is_none());
    }
    memory
}

/// No table below another could have been a block.
fn largest_blocks(memory: &Memory, root: usize, level: u32, bits: u32) {
    let mut todo = vec![(root, level, (1usize << bits) >> (39 - 9 * level))];
    while let Some((table, level, entries)) = todo.pop() {
        let entry = |i: usize| memory.words.get(&(table + 8 * i)).copied().unwrap_or(0);
        let attributes = |i: usize| entry(i) & !0x0000_ffff_ffff_f003;
        let is_table = |i: usize| level < 3 && entry(i) & 3 == 3;
        if table != root && level > 1 {
            let same = (0..entries).all(|i| !is_table(i) && attributes(i) == attributes(0));
            assert!(!same, "a table at level {level} could be a block");
        }
        let below = (0..entries).filter(|&i| is_table(i));
        todo.extend(below.map(|i| ((entry(i) & 0xffff_ffff_f000) as usize, level + 1, 512)));
    }
}

#[test]
fn start_levels_and_control_registers() {
    // PARange, bits, VTCR_EL2, tables for all of it.
    let expect = [
        (0, 32, 0x8000_3560, 1),
        (1, 36, 0x8001_355c, 1),
        (2, 40, 0x8002_3558, 2),
        (3, 42, 0x8003_3556, 8),
        (4, 44, 0x8004_3594, 33),
        (5, 48, 0x8005_3590, 513),
        (6, 48, 0x8005_3590, 513),
    ];
    for (parange, bits, vtcr, tables) in expect {
        let mut memory = Memory::new(tables);
        let built = stage2(parange, &[], &mut memory).unwrap();
        assert_eq!((built.vtcr, memory.tables), (vtcr, tables), "{parange}");
        check_stage2(parange, &[(0..1 << bits, Access::ReadWrite)]);
    }
}

#[test]
fn qemu_with_holes() {
    let regions = [
        (0x4800_0000..0x4840_0000, Access::None),
        (0x800_6000..0x800_8000, Access::None),
        (0x80b_0000..0x80c_0000, Access::ReadOnly),
    ];
    let memory = check_stage2(2, &regions);
    // Two roots; the first two GiB split; one 2 MiB block split.
    assert_eq!(memory.tables, 5);
}

#[test]
fn el2_never_writes_what_it_executes() {
    let kinds = [
        Kind::Guard,
        Kind::Code,
        Kind::ReadOnly,
        Kind::Data,
        Kind::Shared,
        Kind::Device,
    ];
    let regions: Vec<_> = (0..)
        .step_by(4096)
        .map(|at: u64| at..at + 4096)
        .zip(kinds)
        .collect();
    for parange in 0..7 {
        let mut memory = Memory::new(4);
        let tables = stage1(parange, &regions, &mut memory).unwrap();
        let bits = 64 - (tables.tcr & 63) as u32;
        assert_eq!(tables.tcr & 0x8080_ff00, 0x8080_3500);
        assert_eq!(tables.tcr >> 16 & 7, parange.min(5));
        let level = if bits >= 40 { 0 } else { 1 };
        for (range, kind) in &regions {
            let leaf = walk(&memory, tables.root, level, bits, range.start);
            let Some(leaf) = leaf else {
                assert_eq!(*kind, Kind::Guard);
                continue;
            };
            let writable = leaf.attributes & 1 << 7 == 0;
            let executable = leaf.attributes & 1 << 54 == 0;
            let memory_type = tables.mair >> (8 * (leaf.attributes >> 2 & 7)) & 0xff;
            let found = (writable, executable, memory_type);
            let expect = match kind {
                Kind::Guard => panic!("a guard is mapped"),
                Kind::Code => (false, true, 0xff),
                Kind::ReadOnly => (false, false, 0xff),
                Kind::Data => (true, false, 0xff),
                Kind::Shared => (true, false, 0x44),
                Kind::Device => (true, false, 0x04),
            };
            assert_eq!(found, expect, "{kind:?}");
            assert_eq!(leaf.attributes & 0x440, 0x440, "AF and AP[1]");
        }
        assert_eq!(walk(&memory, tables.root, level, bits, 0x6000), None);
    }
}

#[test]
fn errors() {
    let mut memory = Memory::new(usize::MAX);
    let mut build = |range, tables| {
        memory.limit = memory.tables + tables;
        stage2(2, &[(range, Access::None)], &mut memory)
    };
    assert_eq!(build(0x1000..0x1800, 9), Err(MapError::Misaligned(0x1800)));
    assert_eq!(
        build(0..(1 << 40) + 4096, 9),
        Err(MapError::TooFar((1 << 40) + 4096))
    );
    assert_eq!(build(0x1000..0x2000, 1), Err(MapError::NoTables));
    assert_eq!(build(0x1000..0x2000, 3), Err(MapError::NoTables));
    assert!(build(0x1000..0x2000, 4).is_ok());
}

/// Regions with boundaries at all sizes of blocks, inside 40 bits.
fn regions() -> impl Strategy<Value = Vec<(Range<u64>, Access)>> {
    let boundary = (0u64..1 << 10, 0u64..4, 0u64..4)
        .prop_map(|(gib, mib2, page)| (gib << 30) + (mib2 << 21) + (page << 12));
    let access = prop_oneof![
        Just(Access::None),
        Just(Access::ReadOnly),
        Just(Access::ReadWrite)
    ];
    let region = (boundary.clone(), boundary, access)
        .prop_map(|(a, b, access)| (a.min(b)..a.max(b), access));
    proptest::collection::vec(region, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_tables_say_what_the_regions_say(parange in 2u64..6, regions in regions()) {
        // A 48-bit space would take hundreds of tables for its full blocks.
        check_stage2(parange.min(4), &regions);
    }
}
