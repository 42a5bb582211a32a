// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A walk over the tree that picks up devices wherever they are.

use super::{Conduit, Gic, PlatformError, Timers};
use crate::tree::read::{self, Visit};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use dtoolkit::model::DeviceTreeNode;
use dtoolkit::standard::NodeStandard;

/// What a walk over the tree has found so far.
#[derive(Default)]
pub(super) struct Found {
    stdout: Option<String>,
    pub used: Vec<Range<u64>>,
    pub gic: Option<Result<Gic, PlatformError>>,
    pub gicv2: bool,
    pub its: Vec<Range<u64>>,
    pub conduit: Option<Conduit>,
    pub console: Option<u64>,
    pub timers: Timers,
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
    pub fn walk(root: &DeviceTreeNode) -> Self {
        let mut found = Self {
            stdout: super::chosen::stdout_path(root),
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
