// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the device tree says about the machine.

use crate::affinity::{Mpidr, vcpu_mpidr};
use crate::config;
use crate::tree::read::{self, Visit};
use crate::tree::{self, TreeError};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use dtoolkit::Node;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use dtoolkit::standard::NodeStandard;

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

/// What a walk over the tree has found so far.
#[derive(Default)]
struct Found {
    stdout: Option<String>,
    used: Vec<Range<u64>>,
    gic: Option<Result<Gic, PlatformError>>,
    gicv2: bool,
    its: Vec<Range<u64>>,
    conduit: Option<Conduit>,
    console: Option<u64>,
    timers: Timers,
}

const GICV2: [&str; 5] = [
    "arm,gic-400",
    "arm,cortex-a15-gic",
    "arm,cortex-a9-gic",
    "arm,cortex-a7-gic",
    "arm,gic-v2",
];

/// A bus's window is counted as used where it is no larger than this: a
/// `soc` node's window may be the whole address space.
const BUS_WINDOW: u64 = 256 << 20;

impl Found {
    fn walk(root: &DeviceTreeNode) -> Self {
        let mut found = Self {
            stdout: stdout_path(root),
            ..Self::default()
        };
        read::walk(root, &mut |visit| found.visit(&visit));
        found
    }

    fn visit(&mut self, visit: &Visit<'_>) {
        self.used.extend(visit.reg.iter().cloned());
        let pci = read::text(visit.node, "device_type") == Some("pci");
        let windows = visit
            .windows
            .iter()
            .filter(|w| pci || w.end - w.start <= BUS_WINDOW);
        self.used.extend(windows.cloned());
        if !read::is_okay(visit.node) {
            return;
        }
        let is = |name| visit.node.is_compatible(name);
        if is("arm,gic-v3") && self.gic.is_none() {
            self.gic = Some(gic(visit));
        }
        self.gicv2 |= GICV2.into_iter().any(is);
        if is("arm,gic-v3-its") {
            self.its.extend(visit.reg.first().cloned());
        }
        if (is("arm,psci-1.0") || is("arm,psci-0.2")) && self.conduit.is_none() {
            self.conduit = match read::text(visit.node, "method") {
                Some("smc") => Some(Conduit::Smc),
                Some("hvc") => Some(Conduit::Hvc),
                _ => None,
            };
        }
        if is("arm,armv8-timer") {
            self.timers = timers(visit.node);
        }
        if self.stdout.as_deref() == Some(visit.path) && (is("arm,pl011") || is("arm,sbsa-uart")) {
            self.console = visit.reg.first().map(|reg| reg.start);
        }
    }
}

/// `reg` of a GICv3: the distributor, the redistributor regions, and then
/// perhaps GICv2's compatible parts.
fn gic(visit: &Visit<'_>) -> Result<Gic, PlatformError> {
    let wrong = PlatformError::Property("reg or #redistributor-regions of the GIC");
    let regions = read::cell(visit.node, "#redistributor-regions").unwrap_or(1) as usize;
    let (distributor, rest) = visit.reg.split_first().ok_or(wrong)?;
    let redistributors = rest.get(..regions).filter(|r| !r.is_empty()).ok_or(wrong)?;
    let stride = match read::bytes(visit.node, "redistributor-stride") {
        None => None,
        Some(_) => Some(
            read::number(visit.node, "redistributor-stride")
                .filter(|s| *s > 0 && s.is_multiple_of(0x1_0000) && *s <= 1 << 32)
                .ok_or(PlatformError::Property("redistributor-stride"))?,
        ),
    };
    Ok(Gic {
        distributor: distributor.clone(),
        redistributors: redistributors.to_vec(),
        stride,
        its: Vec::new(),
        maintenance: ppi(visit.node, 0),
    })
}

/// The INTID of the n-th of a node's interrupts, if it is a PPI.
fn ppi(node: &DeviceTreeNode, n: usize) -> Option<u32> {
    let interrupts = read::records(read::bytes(node, "interrupts")?, [1, 1, 1])?;
    match *interrupts.get(n)? {
        [1, number @ 0..16, _] => Some(16 + number as u32),
        _ => None,
    }
}

/// In the order of the binding `arm,arch_timer`: secure, physical, virtual,
/// hypervisor.
fn timers(node: &DeviceTreeNode) -> Timers {
    Timers {
        physical: ppi(node, 1),
        virtual_: ppi(node, 2),
        hypervisor: ppi(node, 3),
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

/// The full path of the node that `/chosen/stdout-path` names, by an alias or
/// by its path, maybe with options behind a colon.
fn stdout_path(root: &DeviceTreeNode) -> Option<String> {
    let chosen = root.child("chosen")?;
    let path = read::text(chosen, "stdout-path").or(read::text(chosen, "linux,stdout-path"))?;
    let path = path.split(':').next().unwrap_or(path);
    if path.starts_with('/') {
        return Some(path.to_string());
    }
    read::text(root.child("aliases")?, path).map(String::from)
}

/// What the boot loader chose for us.
#[derive(Default)]
struct Chosen {
    kernel: Option<Range<u64>>,
    initrd: Option<Range<u64>>,
    /// `/chosen/taichi`.
    options: Option<String>,
    /// `/chosen/bootargs`.
    bootargs: Option<String>,
    /// The kernel module's own command line.
    kernel_bootargs: Option<String>,
}

impl Chosen {
    fn read(root: &DeviceTreeNode) -> Self {
        let Some(node) = root.child("chosen") else {
            return Self::default();
        };
        let text = |node, name| read::text(node, name).map(String::from);
        let initrd = || {
            let start = read::number(node, "linux,initrd-start")?;
            let end = read::number(node, "linux,initrd-end")?;
            (start < end).then_some(start..end)
        };
        let mut chosen = Self {
            initrd: initrd(),
            options: text(node, "taichi"),
            bootargs: text(node, "bootargs"),
            ..Self::default()
        };
        for module in node
            .children()
            .filter(|node| node.is_compatible("multiboot,module"))
        {
            if module.is_compatible("multiboot,kernel") && chosen.kernel.is_none() {
                chosen.kernel = module_range(module);
                chosen.kernel_bootargs = text(module, "bootargs");
            } else if module.is_compatible("multiboot,ramdisk") && chosen.initrd.is_none() {
                chosen.initrd = module_range(module);
            }
        }
        chosen
    }

    /// Linux's command line without our options, and our options. The kernel
    /// module's command line is Linux's; if it has none, the one of `/chosen`
    /// is for both of us.
    fn split(&self) -> (String, Option<String>) {
        let mut options = self.options.clone();
        let mut linux = String::new();
        for line in [&self.bootargs, &self.kernel_bootargs]
            .into_iter()
            .flatten()
        {
            linux.clone_from(line);
            while let Some((words, cut)) = config::find_in_bootargs(&linux) {
                options.get_or_insert_with(|| words.to_string());
                linux.replace_range(cut, "");
            }
        }
        (linux, options)
    }
}

/// `reg` of a boot module: address and size have 64 bits each in QEMU's trees,
/// whatever `/chosen` says about cells.
fn module_range(module: &DeviceTreeNode) -> Option<Range<u64>> {
    let reg = read::bytes(module, "reg")?;
    let cells = match reg.len() {
        16 => [2, 2],
        12 => [2, 1],
        8 => [1, 1],
        _ => return None,
    };
    let [base, size] = *read::records(reg, cells)?.first()?;
    read::range(base, size).filter(|range| !range.is_empty())
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
