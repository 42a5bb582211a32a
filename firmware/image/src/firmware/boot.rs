// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the loader to Linux. Whatever goes wrong on the way is said on the
//! console, and Linux is started as if the firmware weren't there, wherever
//! there is a kernel to start.

use super::crash::Crash;
use super::hot::HOT;
use super::machine::{self, CoreShared, Frames, Machine, Pages};
use super::watch::Seen;
use super::{plan, sgi};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::array;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;
use spin::mutex::SpinMutex;
use taichi_abi::{MAX_CORES, telemetry};
use taichi_el2::boot::Loaded;
use taichi_el2::context::Controls;
use taichi_el2::mmio::Frame;
use taichi_el2::percore::Core;
use taichi_el2::{
    boot as el2, console, fault, features, gic, memory, read_sysreg, say, shared, smc, stone, timer,
};
use taichi_machine::affinity::Mpidr;
use taichi_machine::config::{self, Config, Console};
use taichi_machine::image::ImageHeader;
use taichi_machine::irouter::Router;
use taichi_machine::its;
use taichi_machine::platform::{Conduit, Loader, Platform};
use taichi_machine::psci::{CpuId, Psci};
use taichi_machine::redist::VirtualRedistributor;
use taichi_machine::sgi_page;
use taichi_machine::smccc::{Nanoseconds, Smccc};
use taichi_machine::tree;
use taichi_sched::{Params, Role, Scheduler};

/// GICR_TYPER, from RD_base.
const TYPER: u64 = 8;

/// The boot core arrives from the loader.
pub fn boot(loaded: Loaded) -> ! {
    let Some(blob) = loaded.tree() else {
        // Nothing is known of the machine, not even where to print.
        smc::halt()
    };
    let loader = Loader::discover(blob);
    console::set(loader.console.unwrap_or(0));
    match start(&loaded, blob, &loader) {
        Ok(core) => core.enter_native(),
        Err(reason) => without_us(&loaded, blob, &loader, &reason),
    }
}

/// Starts Linux bare, because of `reason`.
fn without_us(loaded: &Loaded, blob: &[u8], loader: &Loader, reason: &str) -> ! {
    say!("{reason}");
    let Some(kernel) = kernel(loader).ok() else {
        say!("there is no kernel to start either; halted");
        smc::halt()
    };
    say!("starting Linux without the firmware, without vCPUs");
    let cleaned = tree::edit(blob, &tree::Edits::default()).ok();
    let tree = cleaned
        .and_then(|t| memory::place_tree(&t))
        .unwrap_or(loaded.tree_address());
    el2::chainload(kernel, tree)
}

/// The kernel's first instruction.
fn kernel(loader: &Loader) -> Result<u64, String> {
    let range = loader.kernel.clone().ok_or(
        "no kernel: /chosen has no module node that is compatible with \"multiboot,kernel\" \
         (QEMU: -device guest-loader,addr=…,kernel=…; U-Boot: fdt set)",
    )?;
    let header = Frame::new(range.start, 64)
        .ok_or_else(|| alloc::format!("the kernel at {:#x} overlaps the firmware", range.start))?;
    let mut bytes = [0; 64];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = header.read(i as u64, 1) as u8;
    }
    let image = ImageHeader::parse(&bytes).map_err(|e| alloc::format!("the kernel: {e}"))?;
    if !image.may_load_at(range.start) {
        return Err(alloc::format!(
            "the kernel is at {:#x}; it must be {:#x} bytes above a multiple of 2 MiB",
            range.start,
            image.text_offset
        ));
    }
    let end = range.start.saturating_add(image.image_size);
    let own = memory::image();
    if range.start < own.end && end > own.start {
        return Err(alloc::format!(
            "the kernel at {:#x} overlaps the firmware",
            range.start
        ));
    }
    Ok(range.start)
}

/// Prepares everything; gives the boot core, ready to enter Linux.
fn start(loaded: &Loaded, blob: &[u8], loader: &Loader) -> Result<&'static mut Core, String> {
    if loaded.level != 2 {
        return Err(
            "started at EL1: the firmware needs EL2 (QEMU: virtualization=on; on a \
                    board: a loader that enters the kernel at EL2)"
                .into(),
        );
    }
    let platform = Platform::discover(blob).map_err(|e| e.to_string())?;
    let config =
        config::parse(platform.options.as_deref().unwrap_or("")).map_err(|e| e.to_string())?;
    match config.console {
        Console::Tree => {}
        Console::None => console::set(0),
        Console::Pl011(base) => console::set(base),
    }
    if let Some(epitaph) = stone::found().filter(|epitaph| epitaph.age == 1) {
        say!("the last run died: {}", epitaph.reason());
    }
    #[cfg(feature = "faults")]
    say!("built for tests: a guest can make this firmware die");
    let kernel = kernel(loader)?;
    check_machine(&platform, &config)?;
    check_heap(blob)?;
    let boot_mpidr = Mpidr::new(read_sysreg!("mpidr_el1"));
    let boot_core = platform
        .core_index(boot_mpidr)
        .ok_or("the boot core has no cpu node in the device tree")?;
    config
        .check(platform.cores.len(), boot_core)
        .map_err(|e| e.to_string())?;

    let vcpus = platform.vcpu_names(usize::from(config.vcpus));
    let redistributors = redistributors(&platform)?;
    let plan = plan::plan(&platform, &vcpus, &redistributors)?;
    let edits = plan.edits(&vcpus);
    let tree = tree::edit(blob, &edits).map_err(|e| e.to_string())?;
    let size = tree.len();
    let tree = memory::place_tree(&tree).ok_or_else(|| {
        alloc::format!(
            "the tree for Linux has {size} bytes, more than {}",
            memory::tree_room()
        )
    })?;
    // Everything that can fail has been done.
    let pages = plan.pages;
    plan.install();
    publish(&platform, &config, &vcpus);
    HOT.doorbell_hpfar.store(pages.doorbell >> 12 << 4, Relaxed);
    HOT.core_cluster
        .store(sgi::cluster_of(&platform.cores), Relaxed);
    machine::set(machine(
        &platform,
        &config,
        &vcpus,
        redistributors,
        pages,
        boot_core,
    ));
    hide_features();
    let core = el2::prepare_cores(platform.cores.len(), boot_core);
    core.native()
        .reset(controls(boot_core), boot_mpidr.value(), kernel, tree);
    say!(
        "build {:016x}: {} cores, {} vCPUs, DP cores {}; Linux at {kernel:#x}",
        memory::build_id(),
        platform.cores.len(),
        vcpus.len(),
        config.dp
    );
    enter(core);
    Ok(core)
}

/// Decides what Linux sees of its cores, and says what it doesn't.
fn hide_features() {
    let mut hidden = String::new();
    for (register, name) in features::detect() {
        let name = match (name, register.name()) {
            (Some(name), _) => name.into(),
            (None, Some(register)) => alloc::format!("more in {register}"),
            (None, None) => alloc::format!("more in ID register {}", register.number()),
        };
        if !hidden.contains(&name) {
            let comma = if hidden.is_empty() { "" } else { ", " };
            hidden.push_str(comma);
            hidden.push_str(&name);
        }
    }
    if !hidden.is_empty() {
        say!("hidden from Linux on all CPUs: {hidden}");
    }
}

/// What this firmware can't serve yet, or ever.
fn check_machine(platform: &Platform, config: &Config) -> Result<(), String> {
    if platform.conduit != Conduit::Smc {
        return Err("PSCI by HVC: another hypervisor owns EL2, or no firmware owns EL3".into());
    }
    if gic::list_registers() < taichi_machine::list_registers::COUNT {
        return Err("the GIC's virtual interface has fewer than 4 list registers".into());
    }
    if config.vcpus > 0 {
        let frames = platform.gic.its.iter();
        let typers = frames.map(|its| Some(Frame::new(its.start, 0x10000)?.read(8, 8)));
        its::check(typers).map_err(|refusal| refusal.to_string())?;
    }
    Ok(())
}

/// Whether the heap, which never shrinks, can hold what editing the tree takes.
fn check_heap(blob: &[u8]) -> Result<(), String> {
    let word = |at: usize| {
        let bytes = blob.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_be_bytes) as u64
    };
    // size_dt_struct and size_dt_strings of the header.
    let packed = word(36) + word(32);
    let heap = memory::heap();
    if packed * 45 > heap.end - heap.start {
        return Err(alloc::format!(
            "the device tree ({packed} bytes) is too large to edit"
        ));
    }
    Ok(())
}

/// Bytes from one redistributor to the next: four frames where the GIC has
/// virtual LPIs (GICR_TYPER.VLPIS), else two.
pub fn stride(platform: &Platform) -> u64 {
    const VLPIS: u64 = 1 << 1;
    let first = platform.gic.redistributors.first();
    let frame = first.and_then(|region| Frame::new(region.start, 0x1_0000));
    let typer = frame.map_or(0, |frame| frame.read(TYPER, 8));
    let default = if typer & VLPIS != 0 {
        0x4_0000
    } else {
        0x2_0000
    };
    platform.gic.stride.unwrap_or(default)
}

/// Each core's RD_base and SGI_base frames, by the affinity in GICR_TYPER.
fn redistributors(platform: &Platform) -> Result<Vec<Frame>, String> {
    let stride = stride(platform);
    let mut frames: Vec<Option<Frame>> = alloc::vec![None; platform.cores.len()];
    for region in &platform.gic.redistributors {
        let mut base = region.start;
        while base + stride <= region.end {
            let Some(frame) = Frame::new(base, stride) else {
                break;
            };
            let typer = frame.read(TYPER, 8);
            let core = platform
                .cores
                .iter()
                .position(|c| u64::from(c.packed()) == typer >> 32);
            if let Some(core) = core {
                frames[core] = Some(frame);
            }
            if typer & 1 << 4 != 0 {
                break;
            }
            base += stride;
        }
    }
    let all: Option<Vec<Frame>> = frames.into_iter().collect();
    all.ok_or("a core has no redistributor in the GIC's regions".into())
}

fn controls(core: usize) -> Controls {
    if machine::machine().is_cp(core) {
        Controls::CP
    } else {
        Controls::DP
    }
}

/// Fills the telemetry window's constant part.
fn publish(platform: &Platform, config: &Config, vcpus: &[Mpidr]) {
    let header = shared::header();
    header.version.store(taichi_abi::VERSION, Relaxed);
    header.cores.store(platform.cores.len() as u32, Relaxed);
    header.vcpus.store(vcpus.len() as u32, Relaxed);
    header.frequency.store(timer::frequency(), Relaxed);
    header
        .core_offset
        .store(telemetry::CORE_OFFSET as u32, Relaxed);
    header
        .vcpu_offset
        .store(telemetry::VCPU_OFFSET as u32, Relaxed);
    header
        .trace_offset
        .store(telemetry::TRACE_OFFSET as u32, Relaxed);
    header
        .trace_records
        .store(taichi_abi::trace::RECORDS as u32, Relaxed);
    header.build.store(memory::build_id(), Relaxed);
    header.dp_cores.store(u64::from(config.dp.0), Relaxed);
    let epitaph = memory::stone().start - memory::telemetry().start;
    header.epitaph_offset.store(epitaph as u32, Relaxed);
    for (id, mpidr) in platform.cores.iter().enumerate() {
        shared::core(id).mpidr.store(mpidr.value(), Relaxed);
        shared::core(id)
            .state
            .store(telemetry::CoreState::Off as u64, Relaxed);
    }
    for (id, mpidr) in vcpus.iter().enumerate() {
        shared::vcpu(id).mpidr.store(mpidr.value(), Relaxed);
    }
    taichi_el2::sysreg::dsb_sy();
    header.magic.store(telemetry::MAGIC, Relaxed);
}

fn machine(
    platform: &Platform,
    config: &Config,
    vcpus: &[Mpidr],
    redistributors: Vec<Frame>,
    pages: Pages,
    boot_core: usize,
) -> Machine {
    let cores = &platform.cores;
    let roles: Vec<Role> = (0..cores.len())
        .map(|c| {
            if config.dp.contains(c) {
                Role::Dp
            } else {
                Role::Cp
            }
        })
        .collect();
    let ticks = |ns: u64| (u128::from(ns) * u128::from(timer::frequency()) / 1_000_000_000) as u64;
    let params = Params {
        slice: ticks(config.slice_ns),
        patience: ticks(config.patience_ns),
        forced_slice: ticks(config.patience_ns / 4),
        look: ticks(config.look_ns),
        rescue: ticks(10 * config.look_ns),
    };
    let mut sched = Scheduler::new(params, &roles, vcpus.len());
    if !vcpus.is_empty() {
        sched = sched.watched_by(boot_core);
    }
    *HOT.sched.lock() = sched;
    let mut psci = Psci::new(cores, vcpus, boot_core);
    let below = smc::Below::ask();
    psci.below = below.psci;
    psci.extended_state = below.extended_state;
    psci.firmware = memory::reserved();
    Machine {
        cores: cores.len(),
        vcpus: vcpus.len(),
        boot_core,
        dp: config.dp,
        spin: config.spin,
        core: array::from_fn(|i| {
            let mpidr = cores.get(i).copied().unwrap_or_default();
            CoreShared {
                mpidr,
                kick: sgi::kick_value(mpidr),
                redistributor: redistributors.get(i).copied().unwrap_or(redistributors[0]),
            }
        }),
        vcpu: array::from_fn(|i| vcpus.get(i).copied().unwrap_or_default()),
        vcpu_cluster: sgi::cluster_of(vcpus),
        psci: SpinMutex::new(psci),
        frames: SpinMutex::new(Frames {
            redistributors: virtual_redistributors(vcpus, redistributors[boot_core]),
            router: Router::new(),
        }),
        pages,
        distributor: Frame::new(
            platform.gic.distributor.start,
            platform.gic.distributor.end - platform.gic.distributor.start,
        )
        .unwrap_or(redistributors[0]),
        crash: Crash::new(),
        seen: [const { Seen::nothing() }; MAX_CORES],
        bad_looks: AtomicU32::new(0),
        smccc: Smccc { below: below.smccc },
        nanoseconds: Nanoseconds::new(timer::frequency()),
    }
}

/// One redistributor per vCPU, with the boot core's processor number.
fn virtual_redistributors(
    vcpus: &[Mpidr],
    boot: Frame,
) -> [VirtualRedistributor; taichi_abi::MAX_VCPUS] {
    const IIDR: u64 = 4;
    let typer = boot.read(TYPER, 8);
    let iidr = boot.read32(IIDR);
    array::from_fn(|i| {
        let mpidr = vcpus.get(i).copied().unwrap_or_default();
        VirtualRedistributor::new(mpidr, typer, iidr, i + 1 == vcpus.len())
    })
}

/// A core that PSCI started arrives.
pub fn core_up(core: &'static mut Core) -> ! {
    enter(core);
    machine::machine()
        .psci
        .lock()
        .started(CpuId::Core(core.id()));
    core.enter_native()
}

/// What every core does before it enters Linux.
fn enter(core: &mut Core) {
    let m = machine::machine();
    let id = core.id();
    if m.is_cp(id) {
        gic::init_cp();
    }
    own_interrupts(&m.core[id].redistributor);
    let mut sched = HOT.sched.lock();
    if sched.core_on(id).is_err() {
        fault::die("a core came up that is up already");
    }
    let deadline = sched.deadline(id);
    drop(sched);
    shared::core(id)
        .state
        .store(telemetry::CoreState::Native as u64, Relaxed);
    timer::set_deadline(deadline);
}

/// Seconds that a redistributor may take to wake up; Linux waits for one.
const WAKE_UP: u64 = 1;

/// Whether a test wants a redistributor that doesn't wake up.
fn is_kept_asleep() -> bool {
    #[cfg(feature = "faults")]
    return super::faults::is_kept_asleep();
    #[cfg(not(feature = "faults"))]
    false
}

/// Enables EL2's own interrupts in a core's redistributor (GICR_WAKER,
/// GICR_IGROUPR0, GICR_IPRIORITYR<n>, GICR_ICFGR1, GICR_ISENABLER0; Arm IHI 0069,
/// 12.11).
fn own_interrupts(frame: &Frame) {
    const WAKER: u64 = 0x14;
    const SGI_BASE: u64 = 0x1_0000;
    const IGROUPR0: u64 = SGI_BASE + 0x80;
    const ISENABLER0: u64 = SGI_BASE + 0x100;
    const IPRIORITYR: u64 = SGI_BASE + 0x400;
    const ICFGR1: u64 = SGI_BASE + 0xc04;
    const OWN: [u32; 3] = [gic::KICK, gic::MAINTENANCE, gic::HYP_TIMER];
    let sleep = 1 << 1;
    let asleep = 1 << 2;
    frame.write32(WAKER, frame.read32(WAKER) & !sleep);
    let end = timer::now() + WAKE_UP * timer::frequency();
    while frame.read32(WAKER) & asleep != 0 || is_kept_asleep() {
        if timer::now() > end {
            fault::die(
                "the redistributor of this core doesn't wake up (GICR_WAKER.ChildrenAsleep): \
                 Linux couldn't use the core either; take it out of the device tree",
            );
        }
    }
    let bits = OWN.iter().fold(0, |bits, intid| bits | 1 << intid);
    frame.write32(IGROUPR0, frame.read32(IGROUPR0) | bits);
    for intid in OWN {
        frame.write(IPRIORITYR + u64::from(intid), 1, u64::from(gic::PRIORITY));
    }
    frame.write32(ICFGR1, frame.read32(ICFGR1) & !sgi_page::CONFIG);
    frame.write32(ISENABLER0, bits);
}
