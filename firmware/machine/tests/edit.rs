// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `tree::edit` changes, and that it changes nothing else.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "lists of one range are meant"
)]

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use taichi_abi::window::{Window, Windows};
use taichi_machine::affinity::Mpidr;
use taichi_machine::platform::Platform;
use taichi_machine::tree::{Edits, TreeError, edit};

const MODULES: &[u8] = include_bytes!("data/virt-6-modules.dtb");
const SOCKETS: &[u8] = include_bytes!("data/virt-16-sockets.dtb");
const UBOOT: &[u8] = include_bytes!("data/uboot-like.dtb");

/// Every property's value by its path, and every node with an empty one.
type Flat = BTreeMap<String, Vec<u8>>;

/// Reads a tree by `dtoolkit`'s flat reader, which `edit` doesn't use.
fn flat(blob: &[u8]) -> Flat {
    fn visit(node: FdtNode<'_>, path: &str, all: &mut Flat) {
        all.insert(format!("{path}/"), Vec::new());
        for property in node.properties() {
            let value = property.value().to_vec();
            assert!(
                all.insert(format!("{path}:{}", property.name()), value)
                    .is_none()
            );
        }
        for child in node.children() {
            visit(child, &format!("{path}/{}", child.name()), all);
        }
    }
    let mut all = Flat::new();
    visit(Fdt::new_unchecked(blob).root(), "", &mut all);
    all
}

/// Paths that differ between two trees.
fn changes(before: &Flat, after: &Flat) -> Vec<String> {
    let paths = before
        .keys()
        .chain(after.keys().filter(|path| !before.contains_key(*path)));
    paths
        .filter(|path| before.get(*path) != after.get(*path))
        .cloned()
        .collect()
}

fn vcpus(blob: &[u8], count: usize) -> Vec<Mpidr> {
    Platform::discover(blob).unwrap().vcpu_names(count)
}

fn windows() -> Windows {
    let page = |base| Window { base, size: 0x1000 };
    Windows {
        doorbell: page(0xb00_0000),
        control: page(0xb00_1000),
        telemetry: page(0xb00_2000),
    }
}

const FRAMES: Range<u64> = 0xb10_0000..0xb16_0000;

fn all_edits(vcpus: &[Mpidr]) -> Edits<'_> {
    Edits {
        vcpus,
        redistributors: Some(FRAMES),
        stride: Some(0x2_0000),
        firmware: 0x4800_0000..0x4840_0000,
        windows: Some(windows()),
        no_counters: false,
    }
}

fn cells(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[test]
fn qemu_with_boot_modules() {
    let vcpus = vcpus(MODULES, 3);
    let edited = edit(MODULES, &all_edits(&vcpus)).unwrap();
    Fdt::new(&edited).unwrap();
    let (before, after) = (flat(MODULES), flat(&edited));
    let expect = [
        "/chosen/module@0x48000000/",
        "/chosen/module@0x48000000:bootargs",
        "/chosen/module@0x48000000:compatible",
        "/chosen/module@0x48000000:reg",
        "/chosen/module@0x50000000/",
        "/chosen/module@0x50000000:compatible",
        "/chosen/module@0x50000000:reg",
        "/chosen:bootargs",
        "/intc@8000000:#redistributor-regions",
        "/intc@8000000:reg",
        "/chosen:linux,initrd-end",
        "/chosen:linux,initrd-start",
        "/cpus/cpu-map/socket0/cluster1/",
        "/cpus/cpu-map/socket0/cluster1/core0/",
        "/cpus/cpu-map/socket0/cluster1/core0:cpu",
        "/cpus/cpu-map/socket0/cluster1/core1/",
        "/cpus/cpu-map/socket0/cluster1/core1:cpu",
        "/cpus/cpu-map/socket0/cluster1/core2/",
        "/cpus/cpu-map/socket0/cluster1/core2:cpu",
    ];
    let cpu = |n| {
        let end = [
            "/",
            ":compatible",
            ":device_type",
            ":enable-method",
            ":phandle",
            ":reg",
        ];
        end.map(|end| format!("/cpus/cpu@10{n}{end}"))
    };
    let reserved = [
        "/",
        ":#address-cells",
        ":#size-cells",
        ":ranges",
        "/taichi@48000000/",
    ];
    let reserved = reserved.iter().map(|end| format!("/reserved-memory{end}"));
    let firmware = [":no-map", ":reg"].map(|end| format!("/reserved-memory/taichi@48000000{end}"));
    let taichi = ["/", ":compatible", ":reg", ":reg-names"].map(|end| format!("/taichi{end}"));
    let mut expect: Vec<String> = expect.iter().map(|path| path.to_string()).collect();
    expect.extend(
        (0..3)
            .flat_map(cpu)
            .chain(reserved)
            .chain(firmware)
            .chain(taichi),
    );
    let mut changed = changes(&before, &after);
    expect.sort();
    changed.sort();
    assert_eq!(changed, expect);

    assert_eq!(after["/chosen:bootargs"], b"console=ttyAMA0 ro\0");
    assert_eq!(after["/chosen:linux,initrd-end"], cells(&[0, 0x5000_0001]));
    assert_eq!(after["/intc@8000000:#redistributor-regions"], cells(&[2]));
    let reg = [
        0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0xc_0000, 0, 0xb10_0000, 0, 0x6_0000,
    ];
    assert_eq!(after["/intc@8000000:reg"], cells(&reg));
    assert_eq!(after["/cpus/cpu@102:reg"], cells(&[0x102]));
    assert_eq!(
        after["/cpus/cpu@102:compatible"],
        before["/cpus/cpu@0:compatible"]
    );
    let map = &after["/cpus/cpu-map/socket0/cluster1/core2:cpu"];
    assert_eq!(*map, after["/cpus/cpu@102:phandle"]);
    let users = after
        .iter()
        .filter(|(path, id)| path.ends_with(":phandle") && *id == map);
    assert_eq!(users.count(), 1);
    assert_eq!(after["/taichi:reg"], windows().to_reg());
    assert_eq!(
        after["/taichi:reg-names"],
        b"doorbell\0control\0telemetry\0"
    );

    // Read again, it is the machine that we meant.
    let platform = Platform::discover(&edited).unwrap();
    assert_eq!(platform.cores.len(), 9);
    assert_eq!(
        platform.gic.redistributors,
        [0x80a_0000..0x816_0000, FRAMES]
    );
    assert_eq!(platform.reserved, [0x4800_0000..0x4840_0000]);
    assert_eq!((platform.kernel, platform.options), (None, None));
    assert_eq!(platform.initrd, Some(0x5000_0000..0x5000_0001));
}

#[test]
fn a_board_under_u_boot() {
    let vcpus = vcpus(UBOOT, 2);
    let edits = Edits {
        stride: None,
        ..all_edits(&vcpus)
    };
    let (before, after) = (flat(UBOOT), flat(&edit(UBOOT, &edits).unwrap()));
    // Regions as they are, ours behind them, GICv2's parts stay last.
    let old = &before["/soc/interrupt-controller@4000000:reg"];
    let ours = cells(&[0, 0xb10_0000, 0, 0x6_0000]);
    let expect = [&old[..48], &ours, &old[48..]].concat();
    assert_eq!(after["/soc/interrupt-controller@4000000:reg"], expect);
    // Above the highest Aff1, that of a disabled core.
    assert_eq!(vcpus[0], Mpidr::new(0x300));
    assert_eq!(after["/cpus/cpu@300:reg"], cells(&[0, 0x300]));
    for common in [
        "compatible",
        "next-level-cache",
        "d-cache-size",
        "capacity-dmips-mhz",
    ] {
        let (core, vcpu) = (
            format!("/cpus/cpu@0:{common}"),
            format!("/cpus/cpu@301:{common}"),
        );
        assert_eq!(after[&vcpu], before[&core]);
    }
    for own in ["clocks", "cpu-idle-states"] {
        assert!(before.contains_key(&format!("/cpus/cpu@0:{own}")));
        assert!(!after.contains_key(&format!("/cpus/cpu@300:{own}")));
    }
    // Without sockets they are one more cluster at the top.
    let new = &after["/cpus/cpu@301:phandle"];
    assert_eq!(*new, after["/cpus/cpu-map/cluster2/core1:cpu"]);
    assert!(!before.values().any(|value| value == new));
}

#[test]
fn counters_are_disabled_and_nothing_else() {
    let edits = Edits {
        no_counters: true,
        ..Edits::default()
    };
    let before = flat(&edit(MODULES, &Edits::default()).unwrap());
    let mut after = flat(&edit(MODULES, &edits).unwrap());
    assert_eq!(
        after.remove("/pmu:status").as_deref(),
        Some(&b"disabled\0"[..])
    );
    assert_eq!(after, before);
}

#[test]
fn a_second_edit_is_an_error() {
    let vcpus = vcpus(MODULES, 1);
    let once = edit(MODULES, &all_edits(&vcpus)).unwrap();
    let none = Edits::default();
    for edits in [
        Edits {
            vcpus: &vcpus,
            ..none.clone()
        },
        Edits {
            firmware: 0x4800_0000..0x4800_1000,
            ..none.clone()
        },
        Edits {
            windows: Some(windows()),
            ..none.clone()
        },
    ] {
        assert!(
            matches!(edit(&once, &edits), Err(TreeError::Edit(_))),
            "{edits:?}"
        );
    }
    // Nothing to do: the same bytes.
    assert_eq!(edit(&once, &none).unwrap(), once);
}

#[test]
fn addresses_that_do_not_fit() {
    let one_cell = Mpidr::from_affinity(1, 0, 0, 0);
    let edits = Edits {
        vcpus: &[one_cell],
        ..Edits::default()
    };
    let error = edit(MODULES, &edits).unwrap_err();
    assert!(error.to_string().contains("one cell"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn other_nodes_keep_every_byte(
        which in 0usize..3,
        count in 0usize..=16,
        frames: bool,
        firmware: bool,
        pages: bool,
    ) {
        let blob = [MODULES, SOCKETS, UBOOT][which];
        let vcpus = vcpus(blob, count);
        let mut edits = all_edits(&vcpus);
        if !frames { edits.redistributors = None; }
        if !firmware { edits.firmware = 0..0; }
        if !pages { edits.windows = None; }
        let edited = edit(blob, &edits).unwrap();
        let (before, after) = (flat(blob), flat(&edited));
        for path in changes(&before, &after) {
            let ours = path.starts_with("/taichi") && pages
                || path.starts_with("/reserved-memory") && firmware
                || (path.starts_with("/cpus/cpu@1") || path.starts_with("/cpus/cpu@3")) && count > 0
                || path.starts_with("/cpus/cpu-map/") && path.contains("cluster") && count > 0
                || path.contains(":#redistributor-regions") && frames
                || path.ends_with("000000:reg") && frames
                || path.starts_with("/chosen");
            prop_assert!(ours, "{} changed", path);
            let gone = !after.contains_key(&path);
            prop_assert!(!gone || path.starts_with("/chosen/module@"), "{} is gone", path);
        }
        Platform::discover(&edit(blob, &Edits { vcpus: &[], ..edits }).unwrap()).unwrap();
    }

    #[test]
    fn damaged_trees_never_panic(
        at in 40usize..UBOOT.len(),
        value: u8,
        which: bool,
    ) {
        let mut blob = if which { UBOOT } else { MODULES }.to_vec();
        let at = at.min(blob.len() - 1);
        blob[at] = value;
        let vcpus = [Mpidr::new(0x300)];
        if let Ok(edited) = edit(&blob, &all_edits(&vcpus)) {
            flat(&edited);
        }
    }
}
