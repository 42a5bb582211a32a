// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who may touch which memory: Linux (stage 2) and EL2 itself (stage 1).

use super::machine::Pages;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;
use taichi_abi::PAGE;
use taichi_abi::window::{Window, Windows};
use taichi_el2::boot::{self, Regime};
use taichi_el2::console;
use taichi_el2::memory::{self, TablePool};
use taichi_el2::mmio::Frame;
use taichi_el2::read_sysreg;
use taichi_machine::affinity::Mpidr;
use taichi_machine::irouter::PAGES as ROUTES;
use taichi_machine::platform::Platform;
use taichi_machine::stage2::{self, Access, Kind, Tables};
use taichi_machine::tree::Edits;

/// Bytes of one vCPU's redistributor frames.
const REDISTRIBUTOR: u64 = 0x2_0000;
const SGI_BASE: u64 = 0x1_0000;
/// VTTBR_EL2.VMID: one for all contexts.
const VMID: u64 = 1 << 48;
const P: u64 = PAGE as u64;

/// Addresses that the firmware made up, and tables.
pub struct Plan {
    /// Where emulated pages are.
    pub pages: Pages,
    redistributors: Range<u64>,
    stride: u64,
    windows: Windows,
    regime: Regime,
    pool: TablePool,
}

/// Plans the machine's memory.
pub fn plan(platform: &Platform, vcpus: &[Mpidr], real: &[Frame]) -> Result<Plan, String> {
    let frames = memory::frames();
    let redistributors = frames.start..frames.start + vcpus.len() as u64 * REDISTRIBUTOR;
    let doorbell = frames.end - 0x1_0000;
    let telemetry = memory::telemetry();
    let windows = Windows {
        doorbell: Window {
            base: doorbell,
            size: P,
        },
        control: Window {
            base: doorbell + P,
            size: P,
        },
        telemetry: Window {
            base: telemetry.start,
            size: telemetry.end - telemetry.start,
        },
    };
    let mut pool = Pool(TablePool::take());
    let regime = regime(platform, real, &mut pool)?;
    Ok(Plan {
        pages: Pages {
            doorbell,
            control: windows.control.base,
            redistributors: redistributors.start,
        },
        redistributors,
        stride: super::boot::stride(platform),
        windows,
        regime,
        pool: pool.0,
    })
}

impl Plan {
    /// What Linux's tree must say.
    pub fn edits<'a>(&self, vcpus: &'a [Mpidr]) -> Edits<'a> {
        let any = !vcpus.is_empty();
        Edits {
            vcpus,
            redistributors: any.then(|| self.redistributors.clone()),
            stride: any.then_some(self.stride),
            firmware: memory::reserved(),
            windows: Some(self.windows),
            no_counters: true,
        }
    }

    /// Makes it so, on this core; the others follow when they start.
    pub fn install(self) {
        boot::install(self.regime, self.pool);
    }
}

fn regime(platform: &Platform, real: &[Frame], pool: &mut Pool) -> Result<Regime, String> {
    let parange = read_sysreg!("id_aa64mmfr0_el1") & 0xf;
    let guest = stage2::stage2(parange, &for_linux(platform, real), pool);
    let guest = guest.map_err(|e| e.to_string())?;
    let own = stage2::stage1(parange, &for_el2(platform, real), pool);
    let own = own.map_err(|e| e.to_string())?;
    Ok(Regime::new(
        own.mair,
        own.tcr,
        own.root as u64,
        guest.vtcr,
        guest.root as u64 | VMID,
    ))
}

/// Linux gets everything but this.
fn for_linux(platform: &Platform, real: &[Frame]) -> Vec<(Range<u64>, Access)> {
    let telemetry = memory::telemetry();
    let stolen = memory::stolen();
    let reserved = memory::reserved();
    let gicd = platform.gic.distributor.start;
    let mut regions = Vec::from([
        (reserved.start..stolen.start, Access::None),
        (stolen.clone(), Access::ReadOnly),
        (stolen.end..telemetry.start, Access::None),
        (telemetry.clone(), Access::ReadOnly),
        (telemetry.end..reserved.end, Access::None),
        (gicd + ROUTES.start..gicd + ROUTES.end, Access::None),
    ]);
    regions.extend(real.iter().map(|frame| {
        let sgi = frame.base() + SGI_BASE;
        (sgi..sgi + P, Access::None)
    }));
    regions
}

/// EL2 gets just this, in this order of precedence: nothing overlaps.
fn for_el2(platform: &Platform, real: &[Frame]) -> Vec<(Range<u64>, Kind)> {
    let mut regions = Vec::from([
        (memory::text(), Kind::Code),
        (memory::rodata(), Kind::ReadOnly),
        (memory::data(), Kind::Data),
        (memory::stolen(), Kind::Data),
        (memory::telemetry(), Kind::Shared),
        (
            platform.gic.distributor.start..platform.gic.distributor.start + 0x1_0000,
            Kind::Device,
        ),
    ]);
    for (stacks, size) in [
        (memory::stacks(), memory::STACK),
        (memory::fault_stacks(), memory::FAULT_STACK),
    ] {
        // The lowest page of each stack is its guard.
        let mut at = stacks.start;
        while at < stacks.end {
            regions.push((at + P..at + size, Kind::Data));
            at += size;
        }
    }
    regions.extend(
        real.iter()
            .map(|f| (f.base()..f.base() + REDISTRIBUTOR, Kind::Device)),
    );
    // The one that is used, which needn't be the tree's.
    let console = console::base().into_iter();
    regions.extend(console.map(|base| (base & !(P - 1)..(base & !(P - 1)) + P, Kind::Device)));
    regions
}

struct Pool(TablePool);

impl Tables for Pool {
    fn alloc(&mut self) -> Option<usize> {
        self.alloc_contiguous(1)
    }
    fn alloc_contiguous(&mut self, count: usize) -> Option<usize> {
        self.0.alloc(count).map(|at| at as usize)
    }
    fn entry(&mut self, table: usize, index: usize) -> &mut u64 {
        self.0.entry(table as u64, index)
    }
}
