// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `Platform::discover` finds in real trees of QEMU and in a made-up one.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "lists of one range are meant"
)]

use proptest::prelude::*;
use taichi_machine::affinity::Mpidr;
use taichi_machine::config;
use taichi_machine::platform::{Conduit, Loader, Platform, PlatformError};
use taichi_machine::tree::{HEADER_BYTES, TreeError, total_size};

const MODULES: &[u8] = include_bytes!("data/virt-6-modules.dtb");
const SOCKETS: &[u8] = include_bytes!("data/virt-16-sockets.dtb");
const GICV2: &[u8] = include_bytes!("data/virt-gicv2.dtb");
const UBOOT: &[u8] = include_bytes!("data/uboot-like.dtb");

/// Where `needle` stands in a tree, once.
fn position(blob: &[u8], needle: &[u8]) -> usize {
    let mut at = blob
        .windows(needle.len())
        .enumerate()
        .filter(|(_, w)| *w == needle);
    let (first, _) = at.next().expect("the tree holds the text");
    first
}

/// A tree with one text replaced by another of the same length, everywhere.
fn replaced(blob: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut blob = blob.to_vec();
    position(&blob, from);
    for at in 0..blob.len() - from.len() {
        if &blob[at..at + from.len()] == from {
            blob[at..at + from.len()].copy_from_slice(to);
        }
    }
    blob
}

#[test]
fn qemu_with_boot_modules() {
    let platform = Platform::discover(MODULES).unwrap();
    assert_eq!(platform.cores, (0..6).map(Mpidr::new).collect::<Vec<_>>());
    assert_eq!(platform.memory, [0x4000_0000..0xc000_0000]);
    assert_eq!(platform.reserved, []);
    assert_eq!(platform.gic.distributor, 0x800_0000..0x801_0000);
    assert_eq!(platform.gic.redistributors, [0x80a_0000..0x900_0000]);
    assert_eq!(platform.gic.stride, None);
    assert_eq!(platform.gic.its, [0x808_0000..0x80a_0000]);
    assert_eq!(platform.gic.maintenance, Some(25));
    assert_eq!(platform.conduit, Conduit::Smc);
    assert_eq!(platform.console, Some(0x900_0000));
    assert_eq!(platform.kernel, Some(0x4800_0000..0x4800_03e8));
    assert_eq!(platform.initrd, Some(0x5000_0000..0x5000_0001));
    assert_eq!(platform.bootargs, "console=ttyAMA0 ro");
    assert_eq!(platform.options.as_deref(), Some("vcpus=4 dp=2-5"));
    let timers = platform.timers;
    assert_eq!(
        (timers.physical, timers.virtual_, timers.hypervisor),
        (Some(30), Some(27), Some(26))
    );
    let config = config::parse(platform.options.as_deref().unwrap()).unwrap();
    assert_eq!(config.check(platform.cores.len(), 0), Ok(()));
}

#[test]
fn qemu_with_sockets() {
    let platform = Platform::discover(SOCKETS).unwrap();
    assert_eq!(platform.cores.len(), 16);
    assert_eq!(platform.core_index(Mpidr::new(15)), Some(15));
    assert_eq!(platform.core_index(Mpidr::new(16)), None);
    assert_eq!(platform.kernel, None);
    assert_eq!(platform.initrd, Some(0x4800_0000..0x4800_0001));
    assert_eq!(
        (platform.bootargs.as_str(), platform.options),
        ("quiet", None)
    );
}

#[test]
fn a_board_under_u_boot() {
    let platform = Platform::discover(UBOOT).unwrap();
    let names: Vec<_> = platform.cores.iter().map(|core| core.value()).collect();
    assert_eq!(names, [0, 0x100, 0x1_0000, 1 << 32]);
    assert_eq!(
        platform.memory,
        [0x8000_0000..0x1_0000_0000, 0x8_8000_0000..0xa_0000_0000]
    );
    assert_eq!(
        platform.reserved,
        [0x8000_0000..0x8002_0000, 0xf000_0000..0xf100_0000]
    );
    assert_eq!(
        platform.gic.redistributors,
        [0x410_0000..0x418_0000, 0x420_0000..0x430_0000]
    );
    assert_eq!(platform.gic.stride, Some(0x4_0000));
    assert_eq!(platform.console, Some(0x1000_1000));
    assert_eq!(platform.initrd, Some(0x8800_0000..0x8810_0000));
    assert_eq!(platform.bootargs, "root=/dev/nvme0n1p2 quiet");
    assert_eq!(platform.options.as_deref(), Some("vcpus=2 dp=2-3"));
    // PCI's windows are taken, a sensor's number on I2C is no address.
    assert!(platform.used.contains(&(0x60_0000_0000..0x70_0000_0000)));
    assert!(!platform.used.iter().any(|range| range.contains(&0x48)));
}

#[test]
fn free_windows_are_free() {
    for blob in [MODULES, SOCKETS, UBOOT] {
        let platform = Platform::discover(blob).unwrap();
        for (size, limit) in [
            (0x1000, 1 << 40),
            (0x20_0000, 1 << 40),
            (0x20_0000, 1 << 32),
        ] {
            let base = platform.free_window(size, 0x1_0000, limit).unwrap();
            assert!(base.is_multiple_of(0x1_0000) && base + size <= limit);
            assert!(
                platform
                    .used
                    .iter()
                    .all(|r| r.end <= base || base + size <= r.start)
            );
        }
        assert_eq!(platform.free_window(1 << 40, 0x1000, 1 << 40), None);
        assert_eq!(platform.free_window(u64::MAX, 0x1000, u64::MAX), None);
    }
}

#[test]
fn machines_that_can_not_be_served() {
    let error = |blob: &[u8]| Platform::discover(blob).unwrap_err();
    assert_eq!(error(GICV2), PlatformError::Gicv2);
    assert_eq!(
        error(&replaced(MODULES, b"arm,gic-v3\0", b"arm,gic-v9\0")),
        PlatformError::NoGic
    );
    assert_eq!(
        error(&replaced(MODULES, b"smc\0", b"abc\0")),
        PlatformError::NoPsci
    );
    assert_eq!(
        error(&replaced(MODULES, b"memory\0", b"memoro\0")),
        PlatformError::NoMemory
    );
    assert_eq!(
        error(&replaced(MODULES, b"cpu\0", b"gpu\0")),
        PlatformError::NoCores
    );
    assert_eq!(
        error(&replaced(UBOOT, b"psci\0", b"spin\0")),
        PlatformError::NotPsci(Mpidr::new(0))
    );
    for error in [error(GICV2), error(b""), PlatformError::TooManyCores(17)] {
        assert!(error.to_string().len() > 10, "{error}");
    }
}

#[test]
fn a_loader_is_found_where_the_machine_can_not_be_served() {
    let modules = Loader::discover(&replaced(MODULES, b"arm,gic-v3\0", b"arm,gic-v9\0"));
    assert_eq!(modules.console, Some(0x900_0000));
    assert_eq!(modules.kernel, Some(0x4800_0000..0x4800_03e8));
    let gicv2 = Loader {
        console: Some(0x900_0000),
        kernel: None,
    };
    assert_eq!(Loader::discover(GICV2), gicv2);
    assert_eq!(Loader::discover(&MODULES[..100]), Loader::default());
}

#[test]
fn blobs_that_can_not_be_read() {
    let error = |blob: &[u8]| match Platform::discover(blob) {
        Err(PlatformError::Tree(error)) => error,
        other => panic!("{other:?}"),
    };
    let patched = |at: usize, value: u32| {
        let mut blob = MODULES.to_vec();
        blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
        blob
    };
    assert_eq!(error(b""), TreeError::Truncated);
    assert_eq!(error(&[0; 64]), TreeError::NotATree);
    assert_eq!(error(&MODULES[..MODULES.len() - 1]), TreeError::Truncated);
    assert_eq!(error(&patched(4, 3 << 20)), TreeError::TooLarge(3 << 20));
    assert_eq!(error(&patched(20, 16)), TreeError::Version(16));
    assert_eq!(
        error(&patched(8, 0x7fff_fffc)),
        TreeError::Block("structure")
    );
    assert_eq!(error(&patched(8, 0)), TreeError::Block("structure"));
    assert_eq!(error(&patched(12, u32::MAX)), TreeError::Block("strings"));
    assert_eq!(
        error(&patched(16, 0x7fff_fff8)),
        TreeError::Block("memory reservation")
    );
    let start = u32::from_be_bytes(MODULES[8..12].try_into().unwrap()) as usize;
    assert!(matches!(
        error(&patched(start, 9)),
        TreeError::Structure(..)
    ));
    // Trailing bytes don't matter.
    let mut longer = MODULES.to_vec();
    longer.extend([0xff; 100]);
    assert_eq!(total_size(&longer[..HEADER_BYTES]), Ok(MODULES.len()));
    assert_eq!(Platform::discover(&longer), Platform::discover(MODULES));
}

#[test]
fn a_very_deep_tree_is_refused() {
    let mut structure = Vec::new();
    for depth in 0..100_000u32 {
        structure.extend(1u32.to_be_bytes());
        structure.extend(if depth == 0 { [0; 4] } else { *b"abc\0" });
    }
    let mut blob = Vec::new();
    let size = 56 + structure.len() as u32;
    for word in [
        0xd00d_feed,
        size,
        56,
        size,
        40,
        17,
        16,
        0,
        0,
        structure.len() as u32,
    ] {
        blob.extend(word.to_be_bytes());
    }
    blob.extend([0; 16]);
    blob.extend(structure);
    let error = Platform::discover(&blob).unwrap_err();
    assert!(error.to_string().contains("too deep"), "{error}");
}

fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let blob = prop_oneof![Just(MODULES), Just(UBOOT)];
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8);
    (blob, changes).prop_map(|(blob, changes)| {
        let mut blob = blob.to_vec();
        for (at, value) in changes {
            let at = at.index(blob.len());
            blob[at] = value;
        }
        blob
    })
}

proptest! {
    #[test]
    fn damaged_trees_never_panic(blob in damaged()) {
        if let Err(error) = Platform::discover(&blob) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn cut_trees_are_refused(length in 0usize..MODULES.len()) {
        prop_assert!(Platform::discover(&MODULES[..length]).is_err());
    }
}
