// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tree that Linux gets to see: the boot loader's, with our edits. What an
//! edit doesn't name keeps every byte of its value and its place.

use super::{TreeError, open, read};
use crate::affinity::Mpidr;
use crate::platform;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;
use dtoolkit::model::{DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, ToPropertyValue};
use taichi_abi::window::{self, Windows};

/// What Linux's tree shall have besides what the machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits<'a> {
    /// The names of the vCPUs: a `cpu` node each, like the first core's.
    pub vcpus: &'a [Mpidr],
    /// The vCPUs' redistributors: one more region of the GIC's, behind the
    /// real ones.
    pub redistributors: Option<Range<u64>>,
    /// Bytes from one real redistributor to the next. With it the real
    /// regions are cut to as many frames as there are cores, in order; without
    /// they stay.
    pub stride: Option<u64>,
    /// The firmware's memory: reserved, and Linux may not map it. Empty: none.
    pub firmware: Range<u64>,
    /// The shared pages: the node `/taichi`.
    pub windows: Option<Windows>,
    /// The cores' performance counters, profiling and trace units aren't for
    /// Linux.
    pub no_counters: bool,
}

/// Makes Linux's tree. Besides the [`Edits`], boot modules go and the kernel's
/// command line loses our options.
///
/// # Errors
/// A blob that can't be read, or one in which there is no room for an edit
/// (it may be done already). The blob is left as it is.
pub fn edit(blob: &[u8], edits: &Edits<'_>) -> Result<Vec<u8>, TreeError> {
    let mut tree = open(blob)?;
    let root = &mut tree.root;
    chosen(root);
    if let Some(frames) = &edits.redistributors {
        redistributors(root, frames, edits.stride)?;
    }
    if !edits.vcpus.is_empty() {
        cpus(root, edits.vcpus)?;
    }
    if !edits.firmware.is_empty() {
        reserve(root, &edits.firmware)?;
    }
    if let Some(windows) = &edits.windows {
        shared_pages(root, windows)?;
    }
    if edits.no_counters {
        disable_counters(root);
    }
    let mut edited = tree.to_dtb();
    // The library leaves boot_cpuid_phys zero.
    if let (Some(to), Some(from)) = (edited.get_mut(28..32), blob.get(28..32)) {
        to.copy_from_slice(from);
    }
    Ok(edited)
}

fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    match node.property_mut(name) {
        Some(property) => property.set_value(value),
        None => node.add_property(DeviceTreeProperty::new_unchecked(name, value)),
    }
}

/// Adds an empty child; there may be none of its name.
fn add<'a>(node: &'a mut DeviceTreeNode, name: &str) -> Result<&'a mut DeviceTreeNode, TreeError> {
    if node.children().any(|child| child.name() == name) {
        return Err(TreeError::Edit("a node that must be added exists already"));
    }
    Ok(node.add_child_mut(DeviceTreeNode::new_unchecked(name)))
}

/// `numbers` in cells, `None` where one doesn't fit.
fn encode<const N: usize>(records: &[[u64; N]], cells: [u32; N]) -> Result<Vec<u8>, TreeError> {
    let mut bytes = Vec::new();
    for (number, cells) in records.iter().flat_map(|record| record.iter().zip(cells)) {
        match cells {
            1 => {
                let number = u32::try_from(*number)
                    .map_err(|_| TreeError::Edit("an address does not fit into one cell"))?;
                bytes.extend(number.to_be_bytes());
            }
            2 => bytes.extend(number.to_be_bytes()),
            _ => return Err(TreeError::Edit("neither one nor two cells in an address")),
        }
    }
    Ok(bytes)
}

/// The command line without our options, the initial RAM disk at the place
/// where Linux looks for it, no boot modules.
fn chosen(root: &mut DeviceTreeNode) {
    let (bootargs, initrd) = platform::linux_chosen(root);
    let Some(chosen) = root.child_mut("chosen") else {
        return;
    };
    if read::text(chosen, "bootargs").unwrap_or("") != bootargs {
        set(chosen, "bootargs", bootargs);
    }
    if let Some(initrd) = initrd
        && read::bytes(chosen, "linux,initrd-start").is_none()
    {
        set(chosen, "linux,initrd-start", initrd.start);
        set(chosen, "linux,initrd-end", initrd.end);
    }
    let is_module = |node: &&DeviceTreeNode| node.name().starts_with("module@");
    let modules: Vec<String> = chosen
        .children()
        .filter(is_module)
        .map(|node| node.name().to_string())
        .collect();
    for module in modules {
        chosen.remove_child(&module);
    }
}

/// Properties of a core that hold for a vCPU too. Not among them: what names
/// the core itself, its clocks, power domains and idle states.
const COMMON: [&str; 12] = [
    "device_type",
    "compatible",
    "enable-method",
    "numa-node-id",
    "capacity-dmips-mhz",
    "i-cache-size",
    "i-cache-line-size",
    "i-cache-sets",
    "d-cache-size",
    "d-cache-line-size",
    "d-cache-sets",
    "next-level-cache",
];

fn cpus(root: &mut DeviceTreeNode, vcpus: &[Mpidr]) -> Result<(), TreeError> {
    let mut phandle = highest_phandle(root);
    let cpus = root
        .child_mut("cpus")
        .ok_or(TreeError::Edit("no node /cpus"))?;
    let [address_cells, _] = read::cells(cpus);
    let has_map = cpus.child("cpu-map").is_some();
    let model = cpus
        .children()
        .find(platform::is_core)
        .ok_or(TreeError::Edit("no core below /cpus"))?;
    let common = COMMON
        .iter()
        .filter_map(|name| Some((*name, read::bytes(model, name)?.to_vec())));
    let common: Vec<_> = common.collect();
    let mut phandles = Vec::new();
    for vcpu in vcpus {
        let reg = encode(&[[vcpu.value()]], [address_cells])?;
        let node = add(cpus, &format!("cpu@{:x}", vcpu.value()))?;
        for (name, value) in &common {
            set(node, name, value);
        }
        set(node, "enable-method", "psci");
        set(node, "reg", reg);
        if has_map {
            phandle = phandle
                .checked_add(1)
                .ok_or(TreeError::Edit("no phandle is free"))?;
            set(node, "phandle", phandle);
            phandles.push(phandle);
        }
    }
    match cpus.child_mut("cpu-map") {
        Some(map) => topology(map, &phandles),
        None => Ok(()),
    }
}

/// Linux drops a `cpu-map` that leaves a CPU out: the vCPUs are one more
/// cluster, of the first socket where there are sockets.
fn topology(map: &mut DeviceTreeNode, phandles: &[u32]) -> Result<(), TreeError> {
    let socket = map.children().any(|node| node.name() == "socket0");
    let parent = if socket {
        map.child_mut("socket0")
    } else {
        Some(map)
    };
    let parent = parent.ok_or(TreeError::Edit("no node socket0"))?;
    let has = |n: usize| {
        parent
            .children()
            .any(|node| node.name() == format!("cluster{n}"))
    };
    // Linux counts up from 0 to the first that is missing.
    let free = (0..).find(|&n| !has(n)).unwrap_or(0);
    let cluster = add(parent, &format!("cluster{free}"))?;
    for (n, phandle) in phandles.iter().enumerate() {
        set(add(cluster, &format!("core{n}"))?, "cpu", *phandle);
    }
    Ok(())
}

/// The highest phandle in use; 0xffffffff is none.
fn highest_phandle(node: &DeviceTreeNode) -> u32 {
    let own = ["phandle", "linux,phandle"]
        .into_iter()
        .filter_map(|name| read::cell(node, name));
    let below = node.children().map(highest_phandle);
    own.filter(|&phandle| phandle != u32::MAX)
        .chain(below)
        .max()
        .unwrap_or(0)
}

/// Whether a node with this name, if it has no registers in memory, stands for
/// system registers that tell what a core executed: to Linux's drivers arm_pmuv3,
/// arm_spe_pmu, coresight-etm4x or coresight-trbe. (A cluster's counters, which no
/// context owns, are another matter.)
fn counts_instructions(compatible: &str) -> bool {
    compatible.ends_with("-pmu") && compatible != "arm,dsu-pmu"
        || compatible == "arm,armv8-pmuv3"
        || compatible.starts_with("arm,statistical-profiling-extension")
        || matches!(
            compatible,
            "arm,coresight-etm4x-sysreg"
                | "arm,embedded-trace-extension"
                | "arm,trace-buffer-extension"
        )
}

/// Disables the nodes of what counts, profiles or traces instructions.
fn disable_counters(node: &mut DeviceTreeNode) {
    for child in node.children_mut() {
        let counts = child
            .compatible()
            .is_some_and(|mut names| names.any(counts_instructions));
        if counts && child.property("reg").is_none() {
            set(child, "status", "disabled");
        }
        disable_counters(child);
    }
}

/// One more region of redistributors.
fn redistributors(
    root: &mut DeviceTreeNode,
    frames: &Range<u64>,
    stride: Option<u64>,
) -> Result<(), TreeError> {
    let cores = platform::core_count(root);
    let mut found = None;
    read::walk(root, &mut |visit| {
        if found.is_none() && platform::is_gic(visit.node) {
            found = Some((visit.path.to_string(), visit.reg));
        }
    });
    let (path, physical) = found.ok_or(TreeError::Edit("no GICv3"))?;
    let (gic, cells) = descend(root, &path).ok_or(TreeError::Edit("no GICv3"))?;
    let reg = read::bytes(gic, "reg").and_then(|value| read::records(value, cells));
    let mut reg = reg.ok_or(TreeError::Edit("the GIC's reg is wrong"))?;
    if !reg
        .iter()
        .map(|&[base, _]| base)
        .eq(physical.iter().map(|range| range.start))
    {
        return Err(TreeError::Edit(
            "the GIC is on a bus that translates addresses",
        ));
    }
    let count = read::cell(gic, "#redistributor-regions").unwrap_or(1);
    let end = (count as usize)
        .checked_add(1)
        .ok_or(TreeError::Edit("too many GIC regions"))?;
    let regions = reg
        .get_mut(1..end)
        .ok_or(TreeError::Edit("the GIC's reg is too short"))?;
    if let Some(stride) = stride {
        shrink(regions, stride, cores);
    }
    reg.insert(end, [frames.start, frames.end - frames.start]);
    set(gic, "reg", encode(&reg, cells)?);
    set(gic, "#redistributor-regions", count.saturating_add(1));
    Ok(())
}

/// Cuts regions to the frames of `cores` cores, if they hold that many.
fn shrink(regions: &mut [[u64; 2]], stride: u64, cores: usize) {
    let fits = |size: u64| size.checked_div(stride).unwrap_or(0);
    let room = regions
        .iter()
        .fold(0u64, |room, &[_, size]| room.saturating_add(fits(size)));
    let mut rest = cores as u64;
    if room < rest {
        return;
    }
    for [_, size] in regions {
        let frames = fits(*size).min(rest);
        if frames > 0 {
            *size = frames * stride;
        }
        rest -= frames;
    }
}

/// The node with this full path, and its parent's cells.
fn descend<'a>(
    root: &'a mut DeviceTreeNode,
    path: &str,
) -> Option<(&'a mut DeviceTreeNode, [u32; 2])> {
    let mut found = (root, [2, 1]);
    for name in path.split('/').skip(1) {
        let cells = read::cells(found.0);
        found = (found.0.child_mut(name)?, cells);
    }
    Some(found)
}

/// Keeps Linux away from the firmware's memory.
fn reserve(root: &mut DeviceTreeNode, firmware: &Range<u64>) -> Result<(), TreeError> {
    const NAME: &str = "reserved-memory";
    let [address_cells, size_cells] = read::cells(root);
    if root.children().all(|node| node.name() != NAME) {
        let node = add(root, NAME)?;
        set(node, "#address-cells", address_cells);
        set(node, "#size-cells", size_cells);
        set(node, "ranges", [0u8; 0]);
    }
    let parent = root
        .child_mut(NAME)
        .ok_or(TreeError::Edit("no node /reserved-memory"))?;
    let record = [firmware.start, firmware.end - firmware.start];
    let reg = encode(&[record], read::cells(parent))?;
    let node = add(parent, &format!("taichi@{:x}", firmware.start))?;
    set(node, "reg", reg);
    set(node, "no-map", [0u8; 0]);
    Ok(())
}

fn shared_pages(root: &mut DeviceTreeNode, windows: &Windows) -> Result<(), TreeError> {
    let node = add(root, window::NODE)?;
    set(node, "compatible", window::COMPATIBLE);
    set(node, "reg", windows.to_reg());
    let names = window::REG_NAMES
        .iter()
        .flat_map(|name| [name.as_bytes(), b"\0"].concat());
    set(node, "reg-names", names.collect::<Vec<u8>>());
    Ok(())
}
