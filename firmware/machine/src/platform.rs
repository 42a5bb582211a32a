// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the device tree says about the machine.

mod chosen;
mod found;

use crate::affinity::{Mpidr, vcpu_mpidr};
use crate::tree::read;
use crate::tree::{self, TreeError};
use alloc::string::String;
use alloc::vec::Vec;
use chosen::Chosen;
use core::fmt;
use core::ops::Range;
use dtoolkit::Node;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use dtoolkit::standard::NodeStandard;
use found::Found;

/// How PSCI is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// SMC: there is firmware at EL3.
    Smc,
    /// HVC: somebody else is at EL2.
    Hvc,
}

/// A GICv3 or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gic {
    /// The distributor's registers.
    pub distributor: Range<u64>,
    /// The regions of redistributors, in the tree's order. They may be larger
    /// than the frames in them.
    pub redistributors: Vec<Range<u64>>,
    /// Bytes from one redistributor to the next, where the tree says so; else
    /// GICR_TYPER.VLPIS does: 128 KiB, or 256 KiB with it.
    pub stride: Option<u64>,
    /// The registers of the ITSs.
    pub its: Vec<Range<u64>>,
    /// The maintenance interrupt's INTID; 25 by recommendation.
    pub maintenance: Option<u32>,
}

/// INTIDs of the generic timers' interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// EL1 physical (CNTP); 30 by recommendation.
    pub physical: Option<u32>,
    /// EL1 virtual (CNTV); 27.
    pub virtual_: Option<u32>,
    /// EL2 physical (CNTHP); 26.
    pub hypervisor: Option<u32>,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The cores, in the tree's order: core n of every other interface.
    pub cores: Vec<Mpidr>,
    /// Cores that the tree names and calls disabled.
    pub disabled: Vec<Mpidr>,
    /// RAM.
    pub memory: Vec<Range<u64>>,
    /// Parts of it that are somebody's: `/memreserve/` and `/reserved-memory`.
    pub reserved: Vec<Range<u64>>,
    /// Physical addresses that anything is known to be at, sorted and merged.
    pub used: Vec<Range<u64>>,
    /// The interrupt controller.
    pub gic: Gic,
    /// How PSCI is called.
    pub conduit: Conduit,
    /// The PL011 that `/chosen/stdout-path` names.
    pub console: Option<u64>,
    /// A kernel that a boot loader placed for us (multiboot module).
    pub kernel: Option<Range<u64>>,
    /// The initial RAM disk.
    pub initrd: Option<Range<u64>>,
    /// Linux's command line, without our options.
    pub bootargs: String,
    /// Our options ([`crate::config`]), if there are any.
    pub options: Option<String>,
    /// The timers' interrupts.
    pub timers: Timers,
}

/// Why a machine can't be served. The texts name what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformError {
    /// The tree can't be read.
    Tree(TreeError),
    /// The tree has no cores.
    NoCores,
    /// It has more cores than we serve.
    TooManyCores(usize),
    /// Two cores have the same name.
    SameCore(Mpidr),
    /// A core is not started by PSCI.
    NotPsci(Mpidr),
    /// There is no memory.
    NoMemory,
    /// The interrupt controller is a GICv2.
    Gicv2,
    /// There is no interrupt controller that we know.
    NoGic,
    /// There is no PSCI of version 0.2 or later.
    NoPsci,
    /// A property has a form that can't be.
    Property(&'static str),
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(error) => error.fmt(f),
            Self::NoCores => f.write_str("the device tree has no node for a core below /cpus"),
            Self::TooManyCores(n) => write!(
                f,
                "the machine has {n} cores; this firmware serves up to {}",
                taichi_abi::MAX_CORES
            ),
            Self::SameCore(core) => write!(f, "two cores have the same affinity, {core}"),
            Self::NotPsci(core) => {
                write!(f, "core {core} is not started by PSCI (its enable-method)")
            }
            Self::NoMemory => f.write_str("the device tree has no memory node"),
            Self::Gicv2 => f.write_str("the interrupt controller is a GICv2; a GICv3 is needed"),
            Self::NoGic => f.write_str("the device tree has no GICv3 (compatible arm,gic-v3)"),
            Self::NoPsci => {
                f.write_str("the device tree has no PSCI 0.2 or later with method smc or hvc")
            }
            Self::Property(name) => write!(f, "the device tree has a wrong {name}"),
        }
    }
}

impl core::error::Error for PlatformError {}

impl From<TreeError> for PlatformError {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

impl Platform {
    /// Finds out about the machine from its device tree.
    ///
    /// # Errors
    /// A tree that can't be read, or a machine that we can't serve.
    pub fn discover(blob: &[u8]) -> Result<Self, PlatformError> {
        let tree = tree::open(blob)?;
        let found = Found::walk(&tree.root);
        let chosen = Chosen::read(&tree.root);
        let (bootargs, options) = chosen.split();
        let memory = memory(&tree.root)?;
        let gic = found.gic.ok_or(if found.gicv2 {
            PlatformError::Gicv2
        } else {
            PlatformError::NoGic
        })?;
        Ok(Self {
            cores: cores(&tree.root)?,
            disabled: disabled(&tree.root),
            memory,
            reserved: reserved(&tree),
            used: merged(found.used),
            gic: Gic {
                its: found.its,
                ..gic?
            },
            conduit: found.conduit.ok_or(PlatformError::NoPsci)?,
            console: found.console,
            kernel: chosen.kernel,
            initrd: chosen.initrd,
            bootargs,
            options,
            timers: found.timers,
        })
    }

    /// The index of the core with this name.
    pub fn core_index(&self, mpidr: Mpidr) -> Option<usize> {
        self.cores.iter().position(|&core| core == mpidr)
    }

    /// Names for this many vCPUs; no core has one of them, not even a disabled one.
    pub fn vcpu_names(&self, count: usize) -> Vec<Mpidr> {
        let taken = [self.cores.as_slice(), &self.disabled].concat();
        (0..count).map(|index| vcpu_mpidr(index, &taken)).collect()
    }

    /// An address below `limit` where the tree knows nothing: the start of the
    /// highest gap in which `size` bytes fit. `align` is a power of two.
    pub fn free_window(&self, size: u64, align: u64, limit: u64) -> Option<u64> {
        let starts = self.used.iter().map(|range| range.end);
        let ends = self
            .used
            .iter()
            .skip(1)
            .map(|range| range.start)
            .chain([limit]);
        let mut gaps: Vec<_> = starts.zip(ends).collect();
        gaps.reverse();
        gaps.into_iter().find_map(|(start, end)| {
            let base = start.checked_next_multiple_of(align)?;
            (base.checked_add(size)? <= end.min(limit)).then_some(base)
        })
    }
}

/// The least that is worth knowing of any tree, also of one that
/// [`Platform::discover`] refuses: what to start, and where to complain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loader {
    /// Base of the console's PL011.
    pub console: Option<u64>,
    /// The kernel's image.
    pub kernel: Option<Range<u64>>,
}

impl Loader {
    /// Finds what can be found; nothing in a tree that can't be read.
    pub fn discover(blob: &[u8]) -> Self {
        let Ok(tree) = tree::open(blob) else {
            return Self::default();
        };
        let found = Found::walk(&tree.root);
        Self {
            console: found.console,
            kernel: Chosen::read(&tree.root).kernel,
        }
    }
}

fn cores(root: &DeviceTreeNode) -> Result<Vec<Mpidr>, PlatformError> {
    let cpus = root.child("cpus").ok_or(PlatformError::NoCores)?;
    let nodes: Vec<_> = cpus.children().filter(is_core).collect();
    match nodes.len() {
        0 => return Err(PlatformError::NoCores),
        n if n > taichi_abi::MAX_CORES => return Err(PlatformError::TooManyCores(n)),
        _ => {}
    }
    let alone = nodes.len() == 1;
    let mut cores = Vec::new();
    for node in nodes {
        let core = core_name(cpus, node).ok_or(PlatformError::Property("reg of a core"))?;
        if cores.contains(&core) {
            return Err(PlatformError::SameCore(core));
        }
        // Nobody starts an only core.
        if !alone && read::text(node, "enable-method") != Some("psci") {
            return Err(PlatformError::NotPsci(core));
        }
        cores.push(core);
    }
    Ok(cores)
}

fn disabled(root: &DeviceTreeNode) -> Vec<Mpidr> {
    let Some(cpus) = root.child("cpus") else {
        return Vec::new();
    };
    let nodes = cpus
        .children()
        .filter(|node| is_cpu(node) && !read::is_okay(node));
    nodes.filter_map(|node| core_name(cpus, node)).collect()
}

/// The name of a core: its `reg`, in as many cells as `/cpus` says.
fn core_name(cpus: &DeviceTreeNode, core: &DeviceTreeNode) -> Option<Mpidr> {
    let [address_cells, _] = read::cells(cpus);
    match *read::records(read::bytes(core, "reg")?, [address_cells])? {
        [[value]] if value & !Mpidr::MASK == 0 => Some(Mpidr::new(value)),
        _ => None,
    }
}

fn is_cpu(node: &&DeviceTreeNode) -> bool {
    read::text(node, "device_type") == Some("cpu")
}

pub(crate) fn is_core(node: &&DeviceTreeNode) -> bool {
    is_cpu(node) && read::is_okay(node)
}

/// For [`tree::edit`]: the cores in the tree.
pub(crate) fn core_count(root: &DeviceTreeNode) -> usize {
    root.child("cpus")
        .map_or(0, |cpus| cpus.children().filter(is_core).count())
}

fn memory(root: &DeviceTreeNode) -> Result<Vec<Range<u64>>, PlatformError> {
    let nodes = root
        .children()
        .filter(|node| read::text(node, "device_type") == Some("memory") && read::is_okay(node));
    let mut memory = Vec::new();
    for node in nodes {
        let reg = read::bytes(node, "reg").and_then(|v| read::records(v, read::cells(root)));
        for [base, size] in reg.ok_or(PlatformError::Property("reg of a memory node"))? {
            let range = read::range(base, size);
            memory.push(range.ok_or(PlatformError::Property("reg of a memory node"))?);
        }
    }
    memory.retain(|range| !range.is_empty());
    if memory.is_empty() {
        Err(PlatformError::NoMemory)
    } else {
        Ok(merged(memory))
    }
}

fn reserved(tree: &DeviceTree) -> Vec<Range<u64>> {
    let entries = tree.memory_reservations.iter();
    let mut reserved: Vec<_> = entries
        .filter_map(|entry| read::range(entry.address(), entry.size()))
        .collect();
    if let Some(parent) = tree.root.child("reserved-memory") {
        let regs = parent
            .children()
            .filter_map(|node| read::records(read::bytes(node, "reg")?, read::cells(parent)));
        reserved.extend(
            regs.flatten()
                .filter_map(|[base, size]| read::range(base, size)),
        );
    }
    merged(reserved)
}

/// Sorted, without overlaps or empty ranges.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// For [`tree::edit`]: is this the GIC that [`Platform::discover`] found?
pub(crate) fn is_gic(node: &DeviceTreeNode) -> bool {
    node.is_compatible("arm,gic-v3") && read::is_okay(node)
}

/// For [`tree::edit`]: Linux's command line, and its initial RAM disk.
pub(crate) fn linux_chosen(root: &DeviceTreeNode) -> (String, Option<Range<u64>>) {
    let chosen = Chosen::read(root);
    (chosen.split().0, chosen.initrd)
}
