// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the device tree says about the machine.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use taichi_abi::window::{self, Windows};

/// The most CPUs that the probe handles.
pub const MAX_CPUS: usize = 32;

/// An address range.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

/// The machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// Affinity of each CPU, in the tree's order.
    pub mpidr: [u64; MAX_CPUS],
    /// How many there are.
    pub cpus: usize,
    /// The distributor.
    pub gicd: u64,
    /// Redistributor regions: the real one, and that of the vCPUs.
    pub gicr: [Range; 2],
    /// The PL011.
    pub uart: u64,
    /// PSCI is called by HVC, not SMC.
    pub hvc: bool,
    /// The firmware's windows, where there is a firmware.
    pub windows: Option<Windows>,
    /// The memory that the firmware keeps to itself.
    pub firmware: Option<Range>,
}

/// Reads the tree at `address`; the boot arguments come with it.
///
/// # Errors
///
/// What is missing.
pub fn read(address: u64) -> Result<(Machine, &'static str), &'static str> {
    let header = address as *const u32;
    // SAFETY: the boot protocol says that a tree is there; its second word is
    // its size.
    let size = u32::from_be(unsafe { header.add(1).read_volatile() }) as usize;
    // SAFETY: as above; nothing writes the tree.
    let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, size) };
    let fdt = Fdt::new(bytes).map_err(|_| "the tree can't be parsed")?;
    let mut machine = Machine::default();
    let root = fdt.root();
    for node in root.children() {
        top(&mut machine, node);
    }
    cpus(&mut machine, fdt);
    let args = fdt
        .find_node("/chosen")
        .and_then(|n| n.properties().find(|p| p.name() == "bootargs"))
        .and_then(|p| p.value_as::<&str>().ok())
        .unwrap_or("");
    if machine.cpus == 0 || machine.gicd == 0 {
        return Err("the tree names no CPU or no GIC");
    }
    Ok((machine, args))
}

fn top(machine: &mut Machine, node: FdtNode<'static>) {
    let compatible = |name: &str| {
        node.compatible()
            .is_some_and(|mut all| all.any(|c| c == name))
    };
    let mut regs = [Range::default(); 3];
    if let Ok(Some(all)) = node.reg() {
        for (slot, reg) in regs.iter_mut().zip(all) {
            let (Ok(base), Ok(size)) = (reg.address(), reg.size()) else {
                continue;
            };
            *slot = Range { base, size };
        }
    }
    if compatible("arm,gic-v3") {
        machine.gicd = regs[0].base;
        machine.gicr = [regs[1], regs[2]];
    } else if compatible("arm,pl011") && machine.uart == 0 {
        machine.uart = regs[0].base;
    } else if compatible("arm,psci-1.0") || compatible("arm,psci-0.2") {
        machine.hvc = node
            .property("method")
            .is_some_and(|p| p.value() == b"hvc\0");
    } else if compatible(window::COMPATIBLE) {
        machine.windows = node
            .property("reg")
            .and_then(|p| Windows::from_reg(p.value()));
    } else if node.name() == "reserved-memory" {
        for child in node.children() {
            if let Ok(Some(mut reg)) = child.reg()
                && let Some(reg) = reg.next()
                && let (Ok(base), Ok(size)) = (reg.address(), reg.size())
            {
                machine.firmware = Some(Range { base, size });
            }
        }
    }
}

fn cpus(machine: &mut Machine, fdt: Fdt<'static>) {
    let Some(node) = fdt.find_node("/cpus") else {
        return;
    };
    for cpu in node
        .children()
        .filter(|n| n.name_without_address() == "cpu")
    {
        let Some(reg) = cpu.property("reg") else {
            continue;
        };
        let affinity = reg.value().iter().fold(0, |n, &b| n << 8 | u64::from(b));
        if machine.cpus < MAX_CPUS {
            machine.mpidr[machine.cpus] = affinity;
            machine.cpus += 1;
        }
    }
}
