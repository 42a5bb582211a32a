// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the loader's jump to Rust with the MMU on, and the same for
//! secondaries.
//!
//! The image is an arm64 Linux `Image` to its loader: MMU off, x0 = device
//! tree. Entry relocates it, zeroes its data, and turns the MMU on with a
//! coarse map (the gibibyte we are in is memory, all else device), because
//! Rust code with atomics needs cacheable memory. [`install`] replaces that
//! map with the real one, W^X and with guard pages.

use crate::context::{Context, Controls};
use crate::memory::{self, PAGE, TablePool};
use crate::percore::Core;
use crate::sve::Place;
use crate::sysreg::isb;
use crate::{fault, features, gic, read_sysreg, smc, timer, write_sysreg};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use taichi_abi::MAX_CORES;
use taichi_machine::psci;

global_asm!(
    r#"
    .section .text.header, "ax"
    .global _start
    _start:
        b taichi_start          // code0
        .long 0                 // code1
        .quad 0                 // text_offset
        .long __image_size      // image_size
        .long 0
        .quad 0xa               // little-endian, 4 KiB pages, anywhere
        .quad 0, 0, 0
        .ascii "ARM\x64"
        .long 0

    .section .text.taichi_start, "ax"
    taichi_start:
        // The boot protocol promises neither (Linux sets them itself).
        msr spsel, #1
        msr daifset, #0xf
        mov x19, x0
        adrp x20, __image_start
        add x20, x20, :lo12:__image_start
        // What follows is written with the MMU off, so past the caches, and
        // read through them later: no line of ours may be in them, not even a
        // clean one.
        mrs x0, ctr_el0
        ubfx x0, x0, #16, #4
        mov x1, #4
        lsl x1, x1, x0
        adrp x2, __image_end
        add x2, x2, :lo12:__image_end
        mov x0, x20
    0:  dc civac, x0
        add x0, x0, x1
        cmp x0, x2
        b.lo 0b
        dsb sy
        // Apply R_AARCH64_RELATIVE (1027) relocations.
        adrp x0, __rela_start
        add x0, x0, :lo12:__rela_start
        adrp x1, __rela_end
        add x1, x1, :lo12:__rela_end
    1:  cmp x0, x1
        b.hs 2f
        ldp x2, x3, [x0], #16
        ldr x4, [x0], #8
        cmp w3, #1027
        b.ne 1b
        add x4, x4, x20
        str x4, [x20, x2]
        b 1b
    2:  adrp x0, __bss_start
        add x0, x0, :lo12:__bss_start
        adrp x1, __bss_end
        add x1, x1, :lo12:__bss_end
    3:  stp xzr, xzr, [x0], #16
        cmp x0, x1
        b.lo 3b
        // The last core's stack, for now without its Core: a deep tree may
        // need more, and below it are the others', which nobody uses yet.
        adrp x0, __stacks_end
        add x0, x0, :lo12:__stacks_end
        sub x0, x0, #16
        mov sp, x0
        mov x0, x19
        mov x1, x20
        mov x29, xzr
        mov x30, xzr
        bl taichi_start_rust
        b .

    // A core that PSCI started: x0 = its Core, MMU off.
    .global taichi_secondary
    taichi_secondary:
        msr spsel, #1
        msr daifset, #0xf
        mov x19, x0
        // Before the registers whose meaning E2H changes.
        mov x1, #{hcr}
        msr hcr_el2, x1
        isb
        adrp x1, {regime}
        add x1, x1, :lo12:{regime}
        ldp x2, x3, [x1]
        ldp x4, x5, [x1, #16]
        msr mair_el2, x2
        msr tcr_el2, x3
        msr ttbr0_el2, x4
        isb
        tlbi alle2
        tlbi vmalls12e1
        ic iallu
        dsb sy
        isb
        msr sctlr_el2, x5
        isb
        ldr x1, [x19, #{stack_top}]
        mov sp, x1
        mov x0, x19
        mov x29, xzr
        mov x30, xzr
        bl taichi_secondary_rust
        b .
    "#,
    stack_top = const core::mem::offset_of!(Core, stack_top),
    regime = sym REGIME,
    hcr = const HCR_EL2_ONLY,
);

unsafe extern "C" {
    safe static taichi_secondary: u8;
    fn taichi_boot(loaded: Loaded) -> !;
}

/// What the loader left.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Loaded {
    /// Where x0 pointed.
    tree: u64,
    /// The exception level that we were started at, 1 or 2.
    pub level: u8,
}

/// The largest tree that Linux accepts (Documentation/arch/arm64/booting).
const TREE_MAX: u64 = 2 << 20;
const FDT_MAGIC: u32 = 0xd00d_feed;

impl Loaded {
    /// The device tree's bytes; `None` if x0 pointed to none.
    pub fn tree(&self) -> Option<&'static [u8]> {
        let own = memory::image();
        if self.tree == 0 || !self.tree.is_multiple_of(8) || own.contains(&self.tree) {
            return None;
        }
        // SAFETY: the loader promises a tree here; a wrong address that is
        // mapped gives other bytes, which are checked, one that is not faults.
        let word = |i: u64| unsafe { core::ptr::read_volatile((self.tree + 4 * i) as *const u32) };
        let size = u64::from(u32::from_be(word(1)));
        if u32::from_be(word(0)) != FDT_MAGIC || size > TREE_MAX {
            return None;
        }
        if self.tree < own.start && self.tree + size > own.start {
            return None;
        }
        // SAFETY: not the firmware's own memory, and Linux, which owns it,
        // doesn't run yet.
        Some(unsafe { core::slice::from_raw_parts(self.tree as *const u8, size as usize) })
    }

    /// Where the tree is.
    pub fn tree_address(&self) -> u64 {
        self.tree
    }
}

/// EL2's translation regime, for secondaries that read it with the MMU off.
#[repr(C)]
pub struct Regime {
    mair: u64,
    tcr: u64,
    ttbr0: u64,
    sctlr: u64,
    vtcr: u64,
    vttbr: u64,
}

impl Regime {
    /// From the values of MAIR_EL2, TCR_EL2, TTBR0_EL2, VTCR_EL2, and VTTBR_EL2
    /// with the one VMID.
    pub const fn new(mair: u64, tcr: u64, ttbr0: u64, vtcr: u64, vttbr: u64) -> Self {
        Self {
            mair,
            tcr,
            ttbr0,
            sctlr: SCTLR,
            vtcr,
            vttbr,
        }
    }
}

#[repr(transparent)]
struct Shared<T>(UnsafeCell<T>);
// SAFETY: written by the boot core before it starts any other.
unsafe impl<T> Sync for Shared<T> {}

static REGIME: Shared<Regime> = Shared(UnsafeCell::new(Regime::new(0, 0, 0, 0, 0)));

/// One `Core` per real core, each used by that core alone once it runs.
static CORES: [Shared<Core>; MAX_CORES] =
    [const { Shared(UnsafeCell::new(Core::new(0))) }; MAX_CORES];

/// The native context of each.
static NATIVE: [Shared<Context>; MAX_CORES] = [const {
    Shared(UnsafeCell::new(Context::new(
        Controls::CP,
        Place::native(0),
    )))
}; MAX_CORES];

/// SCTLR_EL2: RES1 bits, WXN, I, SA, C, M.
const SCTLR: u64 = 0x30c5_0830 | 1 << 19 | 1 << 12 | 1 << 3 | 1 << 2 | 1;
/// The coarse map has our gibibyte writable and executable.
const SCTLR_EARLY: u64 = SCTLR & !(1 << 19);

// Attribute indices of the coarse map, as in `EARLY_MAIR`.
const EARLY_MAIR: u64 = 0x04_ff;
const EARLY_NORMAL: u64 = 0x741; // AF, inner shareable, AP[1] RES1, AttrIdx 0, block
const EARLY_DEVICE: u64 = 1 << 54 | 0x645; // XN, AF, AP[1] RES1, AttrIdx 1, block
/// HCR_EL2 while no context is loaded: E2H and TGE are 0 whatever the loader
/// left there, because they change what TCR_EL2, CPTR_EL2 and TLBIs mean.
const HCR_EL2_ONLY: u64 = crate::sysreg::hcr::RW;

#[repr(C, align(4096))]
struct EarlyTables([u64; 512 * 3]);
static EARLY: Shared<EarlyTables> = Shared(UnsafeCell::new(EarlyTables([0; 512 * 3])));

/// With the MMU off: no atomics, nothing unaligned.
#[unsafe(no_mangle)]
extern "C" fn taichi_start_rust(tree: u64, base: u64) -> ! {
    let level = (read_sysreg!("currentel") >> 2) as u8 & 3;
    if level == 2 {
        // SAFETY: the first code of the boot core, with the MMU off.
        unsafe { early_mmu(base) };
    }
    // SAFETY: defined by `handlers!` in the binary.
    unsafe { taichi_boot(Loaded { tree, level }) }
}

/// # Safety
/// Once, on the boot core, at EL2 with the MMU off.
unsafe fn early_mmu(base: u64) {
    // SAFETY: nobody else refers to it yet.
    let tables = unsafe { &mut (*EARLY.0.get()).0 };
    let address = tables.as_ptr() as u64;
    let (root, low, ours) = (0, 512, 1024);
    // The first 512 GiB, and the 512 GiB that we are in, if it is another.
    tables[root] = (address + 4096) | 3;
    for i in 0..512u64 {
        tables[low + i as usize] = i << 30 | EARLY_DEVICE;
    }
    let top = base >> 39;
    let mut mine = low;
    if top != 0 {
        tables[root + top as usize % 512] = (address + 8192) | 3;
        for i in 0..512u64 {
            tables[ours + i as usize] = top << 39 | i << 30 | EARLY_DEVICE;
        }
        mine = ours;
    }
    // One gibibyte, or two where the image lies across their border.
    for gib in base >> 30..=(memory::image().end - 1) >> 30 {
        if gib >> 9 == top {
            tables[mine + gib as usize % 512] = gib << 30 | EARLY_NORMAL;
        }
    }
    let pa_range = (read_sysreg!("id_aa64mmfr0_el1") & 0xf).min(5);
    // 48 bits, 4 KiB granule, write-back, inner shareable; RES1 bits 31 and 23.
    let tcr = 1 << 31 | 1 << 23 | pa_range << 16 | 0b11 << 12 | 0b01 << 10 | 0b01 << 8 | 16;
    // SAFETY: an identity map of all that this code uses; nothing of it is in
    // the caches (see `taichi_start`), so that they agree with memory.
    unsafe {
        write_sysreg!("hcr_el2", HCR_EL2_ONLY);
        isb();
        // The fault path's, until it has an index.
        write_sysreg!("tpidr_el2", 0u64);
        write_sysreg!("vbar_el2", &raw const crate::vectors::taichi_vectors as u64);
        write_sysreg!("mair_el2", EARLY_MAIR);
        write_sysreg!("tcr_el2", tcr);
        write_sysreg!("ttbr0_el2", address);
        asm!("isb", "tlbi alle2", "dsb sy", "isb", options(nostack));
        write_sysreg!("sctlr_el2", SCTLR_EARLY);
    }
    isb();
}

/// Replaces the coarse map by `regime` on this core, and remembers it for the
/// others.
///
/// # Panics
/// If the tables don't come from the pool.
pub fn install(regime: Regime, _pool: TablePool) {
    let pool = memory::tables();
    assert!(pool.contains(&regime.ttbr0) && pool.contains(&(regime.vttbr & 0xffff_ffff_f000)));
    // SAFETY: the boot core alone runs. The tables map all that EL2 uses, by
    // the plan in `image::plan`; a mistake there faults at once.
    unsafe {
        let saved = &mut *REGIME.0.get();
        *saved = regime;
        let start = REGIME.0.get() as u64;
        memory::clean(start..start + size_of::<Regime>() as u64);
        memory::clean(memory::tables());
        // Cacheable until now, not cacheable from here on.
        memory::clean_and_invalidate(memory::telemetry());
        for core in &CORES {
            let start = core.0.get() as u64;
            memory::clean(start..start + size_of::<Core>() as u64);
        }
        asm!(
            "msr sctlr_el2, {off}", "isb",
            "msr mair_el2, {mair}", "msr tcr_el2, {tcr}", "msr ttbr0_el2, {ttbr0}",
            "isb", "tlbi alle2", "tlbi vmalls12e1", "dsb sy", "isb",
            "msr sctlr_el2, {on}", "isb",
            off = in(reg) SCTLR_EARLY & !1,
            mair = in(reg) saved.mair, tcr = in(reg) saved.tcr, ttbr0 = in(reg) saved.ttbr0,
            on = in(reg) SCTLR, options(nostack));
    }
}

/// VTCR_EL2 and VTTBR_EL2 of all cores; 0 before [`install`].
pub(crate) fn stage2() -> (u64, u64) {
    // SAFETY: written by `install` alone, before any other core runs.
    let regime = unsafe { &*REGIME.0.get() };
    (regime.vtcr, regime.vttbr)
}

/// This core's registers, from reset values to what the firmware relies on.
fn init_core() {
    // SAFETY: EL2's own controls; what EL1 gets is confined by stage 2.
    unsafe {
        let regime = &*REGIME.0.get();
        write_sysreg!("vbar_el2", &raw const crate::vectors::taichi_vectors as u64);
        write_sysreg!("vtcr_el2", regime.vtcr);
        write_sysreg!("vttbr_el2", regime.vttbr);
        write_sysreg!("cptr_el2", features::cptr());
        write_sysreg!("hstr_el2", 0u64);
        write_sysreg!("cntvoff_el2", 0u64);
        write_sysreg!("vpidr_el2", read_sysreg!("midr_el1"));
        asm!("isb", "tlbi vmalls12e1", "dsb sy", "isb", options(nostack));
    }
    features::init_core();
    timer::init();
    gic::init_common();
}

/// Which cores have their block and native context in use: those that execute
/// or are being started.
static ON: [AtomicBool; MAX_CORES] = [const { AtomicBool::new(false) }; MAX_CORES];

/// Prepares `count` cores; `boot_core` is the one that runs now. Once.
pub fn prepare_cores(count: usize, boot_core: usize) -> &'static mut Core {
    if ON.iter().any(|on| on.load(Acquire)) {
        fault::die("cores are prepared a second time");
    }
    ON[boot_core].store(true, Release);
    for (id, (core, native)) in CORES.iter().zip(&NATIVE).enumerate().take(count) {
        let stack_top = memory::stacks().start + (id as u64 + 1) * memory::STACK - 16;
        // SAFETY: no other core runs, and nobody refers to the block yet. The
        // slot at the top of the stack is above the boot core's own frames.
        unsafe {
            (*native.0.get()).vectors = Place::native(id);
            (*core.0.get()).pin(id, stack_top, native.0.get());
            *(stack_top as *mut u64) = core.0.get() as u64;
            let start = core.0.get() as u64;
            memory::clean(start..start + size_of::<Core>() as u64);
            memory::clean(stack_top..stack_top + 16);
        }
    }
    memory::seal_heap();
    // SAFETY: this is the boot core, whose block it is, and `ON` is checked
    // above: it happens once.
    let core = unsafe { &mut *CORES[boot_core].0.get() };
    set_index(core.id());
    init_core();
    core
}

/// The fault path finds its stack and its trace ring by TPIDR_EL2.
fn set_index(id: usize) {
    // SAFETY: EL2's own register.
    unsafe { write_sysreg!("tpidr_el2", id as u64) };
}

/// PSCI CPU_ON below us, so that the core enters Linux under us: it comes to
/// `secondary`. Gives PSCI's answer.
pub fn start_core(id: usize, mpidr: u64, entry: u64, argument: u64, controls: Controls) -> i64 {
    let (Some(core), Some(native), Some(on)) = (CORES.get(id), NATIVE.get(id), ON.get(id)) else {
        return psci::INVALID_PARAMETERS;
    };
    if on.swap(true, AcqRel) {
        return psci::ALREADY_ON;
    }
    // SAFETY: nobody uses its context: `ON` was clear, and is set for us. (The
    // core reads block and context with its MMU on.)
    unsafe { (*native.0.get()).reset(controls, mpidr, entry, argument) };
    let answer = smc::psci(
        smc::CPU_ON,
        mpidr,
        &raw const taichi_secondary as u64,
        core.0.get() as u64,
    );
    if answer != psci::SUCCESS {
        on.store(false, Release);
    }
    answer
}

/// PSCI CPU_OFF below us; gives PSCI's answer if it was denied (a Trusted OS may
/// live here).
pub fn stop_core(core: &mut Core) -> i64 {
    let on = &ON[core.id() % MAX_CORES];
    on.store(false, Release);
    let denied = smc::psci(smc::CPU_OFF, 0, 0, 0);
    if on.swap(true, AcqRel) {
        fault::die("CPU_OFF was denied, and another core starts this one");
    }
    denied
}

/// Waits until an interrupt is pending for this core.
#[inline]
pub fn wait_for_interrupt() {
    // SAFETY: waits.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

#[unsafe(no_mangle)]
extern "C" fn taichi_secondary_rust(core: &'static mut Core) -> ! {
    set_index(core.id());
    init_core();
    // SAFETY: defined by `handlers!` in the binary.
    unsafe { taichi_core_up(core) }
}

#[allow(improper_ctypes, reason = "Rust on both sides")]
unsafe extern "C" {
    fn taichi_core_up(core: *mut Core) -> !;
}

/// Gives the machine to a kernel as if the firmware had never been there: MMU
/// off, x0 = tree, at the level that we were started at.
pub fn chainload(kernel: u64, tree: u64) -> ! {
    let level = read_sysreg!("currentel") >> 2 & 3;
    memory::clean(memory::tree_area());
    // SAFETY: leaves this program for good; the kernel is where the loader put
    // it, and its header was checked. One piece of assembly: with the caches
    // off the stack is not what it was, so the compiler may not reload from it.
    unsafe {
        asm!(
            "cmp {level}, #2", "b.ne 1f",
            "msr sctlr_el2, {off}", "isb", "tlbi alle2",
            "1: ic iallu", "dsb sy", "isb", "br {kernel}",
            level = in(reg) level, off = in(reg) SCTLR_EARLY & !(1 << 12 | 1 << 2 | 1),
            kernel = in(reg) kernel, in("x0") tree,
            in("x1") 0u64, in("x2") 0u64, in("x3") 0u64, options(noreturn));
    }
}

const _: () = assert!(PAGE == taichi_abi::PAGE as u64);
