// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The stolen-time structures of paravirtualized time (Arm DEN 0057, 3.2.2):
//! one per CPU of Linux, real cores first, in a page that Linux may read. A CPU
//! learns where its own is by the call PV_TIME_ST.
//!
//! For a vCPU stolen time is what telemetry counts as
//! [`crate::telemetry::Vcpu::steal_ticks`], brought up to date with each timer
//! interrupt that the vCPU gets; for a real core what it counts as
//! [`crate::telemetry::Core::stolen_ticks`].

use core::sync::atomic::{AtomicU32, AtomicU64};

/// One CPU's stolen time. 64 bytes, of which the standard defines 16.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct StolenTime {
    /// Revision of the structure: 0.
    pub revision: AtomicU32,
    /// Attributes: 0.
    pub attributes: AtomicU32,
    /// Nanoseconds in which the CPU could have run and others had its core.
    pub stolen_ns: AtomicU64,
}

/// Index of the first vCPU's structure; that of core `n` is `n`.
pub const FIRST_VCPU: usize = crate::MAX_CORES;
/// How many structures there are.
pub const COUNT: usize = crate::MAX_CORES + crate::MAX_VCPUS;

const _: () = {
    assert!(size_of::<StolenTime>() == 64);
    assert!(core::mem::offset_of!(StolenTime, stolen_ns) == 8);
    assert!(COUNT * size_of::<StolenTime>() <= crate::PAGE);
};
