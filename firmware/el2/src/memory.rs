// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The firmware's own memory: where its parts are, its heap, its translation
//! tables.
//!
//! The loader puts the image anywhere in RAM, at 2 MiB alignment, and leaves
//! [`image`] bytes free there (the size in the Image header). `image.ld` lays
//! it out; its symbols are read here and nowhere else.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

/// Makes a function that gives the address range between two linker symbols.
macro_rules! region {
    ($(#[$doc:meta])* $name:ident, $start:ident, $end:ident) => {
        $(#[$doc])*
        pub fn $name() -> Range<u64> {
            unsafe extern "C" {
                safe static $start: u8;
                safe static $end: u8;
            }
            (&raw const $start as u64)..(&raw const $end as u64)
        }
    };
}

region!(
    /// All that the loader reserved.
    image, __image_start, __image_end);
region!(
    /// What Linux may not touch: everything but the tree area.
    reserved, __image_start, __reserved_end);
region!(
    /// Instructions.
    text, __image_start, __text_end);
region!(
    /// Constants.
    rodata, __text_end, __rodata_end);
region!(
    /// Data, zeroed data, heap, tables.
    data, __rodata_end, __data_end);
region!(
    /// Stacks, one per core, each above a guard page.
    stacks, __stacks_start, __stacks_end);
region!(
    /// Stacks for faults, a page per core, each above a guard page.
    fault_stacks, __fault_stacks_start, __fault_stack_top);
region!(
    /// The stolen-time structures.
    stolen, __stolen_start, __stolen_end);
region!(
    /// The telemetry window.
    telemetry, __telemetry_start, __telemetry_end);
region!(
    /// The last run's epitaph, or this one's: the window's last pages, which no
    /// boot clears.
    stone, __stone_start, __telemetry_end);
region!(
    /// Addresses of emulated frames; the RAM behind them is not used.
    frames, __frames_start, __frames_end);
region!(
    /// Where the device tree for Linux is put; RAM that Linux keeps.
    tree_area, __reserved_end, __image_end);
region!(
    /// Where the heap grows.
    heap, __heap_start, __heap_end);
region!(
    /// The pool of translation tables.
    tables, __tables_start, __tables_end);
region!(
    /// The ELF note with the build id.
    build_id_note, __build_id_start, __build_id_end);

/// Bytes of a core's stack and its guard page.
pub const STACK: u64 = 0x8000;
/// Bytes of a page, and of a guard.
pub const PAGE: u64 = 4096;
/// Bytes of a core's fault stack and its guard page.
pub const FAULT_STACK: u64 = 2 * PAGE;

/// Whose stack ends in a guard page that has this address.
pub(crate) fn guarded(at: u64) -> Option<usize> {
    [(stacks(), STACK), (fault_stacks(), FAULT_STACK)]
        .into_iter()
        .filter(|(stacks, _)| stacks.contains(&at))
        .map(|(stacks, size)| ((at - stacks.start) / size, (at - stacks.start) % size))
        .find_map(|(core, offset)| (offset < PAGE).then_some(core as usize))
}

/// The first 8 bytes of the build id that the linker made.
pub fn build_id() -> u64 {
    let note = build_id_note();
    // An ELF note: 12 bytes of header, "GNU\0", then the id.
    if note.end - note.start < 24 {
        return 0;
    }
    // SAFETY: in the image, constant, and checked for length.
    u64::from_be(unsafe { ptr::read_unaligned((note.start + 16) as *const u64) })
}

/// A heap that only grows: all of it is used at boot, by the boot core.
struct Heap {
    used: UnsafeCell<u64>,
    sealed: AtomicBool,
}

// SAFETY: just the boot core allocates, and before it starts any other it
// seals the heap.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap {
    used: UnsafeCell::new(0),
    sealed: AtomicBool::new(false),
};

/// From here on an allocation is a panic.
pub(crate) fn seal_heap() {
    HEAP.sealed.store(true, Ordering::Relaxed);
}

// SAFETY: hands out each byte of the heap region at most once, aligned.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.sealed.load(Ordering::Relaxed) {
            return ptr::null_mut();
        }
        let region = heap();
        // SAFETY: one core, no interrupts: no second reference.
        let used = unsafe { &mut *self.used.get() };
        let start = (region.start + *used).next_multiple_of(layout.align() as u64);
        let end = start.saturating_add(layout.size() as u64);
        if end > region.end {
            return ptr::null_mut();
        }
        *used = end - region.start;
        start as *mut u8
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

/// The pool of 4 KiB pages for translation tables.
pub struct TablePool {
    used: usize,
}

impl TablePool {
    /// The pool, once.
    ///
    /// # Panics
    /// When called again.
    pub fn take() -> Self {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let first = !TAKEN.swap(true, Ordering::Relaxed);
        assert!(first, "the table pool is taken");
        Self { used: 0 }
    }

    /// `count` zeroed tables in a row, at an address aligned to their size.
    pub fn alloc(&mut self, count: usize) -> Option<u64> {
        let region = tables();
        let first = self.used.next_multiple_of(count.next_power_of_two());
        let end = first.checked_add(count)?;
        if end as u64 * PAGE > region.end - region.start {
            return None;
        }
        self.used = end;
        Some(region.start + first as u64 * PAGE)
    }

    /// One entry of a table that came from this pool.
    ///
    /// # Panics
    /// For an address or index that is not in one.
    pub fn entry(&mut self, table: u64, index: usize) -> &mut u64 {
        let region = tables();
        let at = table + index as u64 * 8;
        assert!(
            region.contains(&at) && table.is_multiple_of(8),
            "not a table"
        );
        // SAFETY: in the pool's region, which is zeroed and has no other
        // owner; `&mut self` makes this the only reference.
        unsafe { &mut *(at as *mut u64) }
    }
}

/// Copies the device tree for Linux to where it stays; gives its address, or
/// `None` if it doesn't fit.
pub fn place_tree(tree: &[u8]) -> Option<u64> {
    let area = tree_area();
    if tree.len() as u64 > area.end - area.start {
        return None;
    }
    // SAFETY: the area is ours until Linux starts, big enough, and no Rust
    // object lives there.
    unsafe { ptr::copy_nonoverlapping(tree.as_ptr(), area.start as *mut u8, tree.len()) };
    clean(area.start..area.start + tree.len() as u64);
    Some(area.start)
}

/// Bytes of the largest device tree that [`place_tree`] takes.
pub fn tree_room() -> usize {
    let area = tree_area();
    (area.end - area.start) as usize
}

/// Writes a range back to memory, for readers with their caches off.
pub fn clean(range: Range<u64>) {
    for at in lines(range) {
        // SAFETY: cleaning changes no value.
        unsafe { core::arch::asm!("dc cvac, {}", in(reg) at, options(nostack)) };
    }
    crate::sysreg::dsb_sy();
}

/// Writes a range back to memory and takes it out of the caches, before it is
/// used with other attributes.
pub(crate) fn clean_and_invalidate(range: Range<u64>) {
    for at in lines(range) {
        // SAFETY: what is dirty is written back first: no value changes.
        unsafe { core::arch::asm!("dc civac, {}", in(reg) at, options(nostack)) };
    }
    crate::sysreg::dsb_sy();
}

/// The addresses of a range's cache lines.
fn lines(range: Range<u64>) -> impl Iterator<Item = u64> {
    // CTR_EL0.DminLine: log2 of the words in the smallest line.
    let line = 4u64 << ((crate::read_sysreg!("ctr_el0") >> 16) & 0xf);
    (range.start & !(line - 1)..range.end).step_by(line as usize)
}
