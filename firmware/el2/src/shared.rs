// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The telemetry window, EL2's side: counters and the trace.
//!
//! Each core writes its own block and ring, and whoever holds the scheduler's
//! lock the vCPUs' blocks. The memory is Normal Non-cacheable here, because
//! Linux maps it uncached; so there are loads and stores, no read-modify-write.

use crate::memory;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use taichi_abi::telemetry::{self as abi, Core, Header, Vcpu};
use taichi_abi::trace::{Event, RECORDS, Ring};
use taichi_abi::{MAX_CORES, MAX_VCPUS};

/// The header.
#[inline]
pub fn header() -> &'static Header {
    // SAFETY: the window starts with it; all-zero is valid, and its fields are
    // atomics.
    unsafe { &*(memory::telemetry().start as *const Header) }
}

/// One core's block, modulo their number.
#[inline]
pub fn core(id: usize) -> &'static Core {
    // SAFETY: in the window, whose layout the ABI crate asserts; atomics.
    unsafe { &*at::<Core>(abi::CORE_OFFSET, id % MAX_CORES) }
}

/// One vCPU's block, modulo their number.
#[inline]
pub fn vcpu(id: usize) -> &'static Vcpu {
    // SAFETY: as for `core`.
    unsafe { &*at::<Vcpu>(abi::VCPU_OFFSET, id % MAX_VCPUS) }
}

/// One core's trace ring.
#[inline]
pub fn ring(id: usize) -> &'static Ring {
    // SAFETY: as for `core`.
    unsafe { &*at::<Ring>(abi::TRACE_OFFSET, id % MAX_CORES) }
}

#[inline]
fn at<T>(offset: usize, index: usize) -> *const T {
    (memory::telemetry().start as usize + offset + index * size_of::<T>()) as *const T
}

const _: () = assert!(
    abi::SIZE + taichi_abi::epitaph::BYTES <= 0x40000,
    "image.ld reserves too little for telemetry and the epitaph"
);

/// Adds to a counter that only this core writes.
#[inline]
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Records an event in a ring, which belongs to the core that calls.
#[inline]
pub(crate) fn record(ring: &Ring, now: u64, event: Event, vcpu: Option<usize>, argument: u64) {
    let head = ring.head.load(Relaxed);
    let record = &ring.records[head as usize % RECORDS];
    let vcpu = vcpu.map_or(0xff, |v| v as u64);
    record.ticks.store(now, Relaxed);
    record
        .word
        .store(event as u64 | vcpu << 8 | argument << 16, Relaxed);
    ring.head.store(head.wrapping_add(1), Relaxed);
}
