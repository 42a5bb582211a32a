// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `/chosen`: what the boot loader left for the kernel, and for us.

use crate::config;
use crate::tree::read;
use alloc::string::{String, ToString};
use core::ops::Range;
use dtoolkit::Node;
use dtoolkit::model::DeviceTreeNode;
use dtoolkit::standard::NodeStandard;

/// The full path of the node that `/chosen/stdout-path` names, by an alias or
/// by its path, maybe with options behind a colon.
pub(super) fn stdout_path(root: &DeviceTreeNode) -> Option<String> {
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
pub(super) struct Chosen {
    pub kernel: Option<Range<u64>>,
    pub initrd: Option<Range<u64>>,
    /// `/chosen/taichi`.
    options: Option<String>,
    /// `/chosen/bootargs`.
    bootargs: Option<String>,
    /// The kernel module's own command line.
    kernel_bootargs: Option<String>,
}

impl Chosen {
    pub fn read(root: &DeviceTreeNode) -> Self {
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
    pub fn split(&self) -> (String, Option<String>) {
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
