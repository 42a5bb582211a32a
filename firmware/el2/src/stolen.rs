// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The page of stolen-time structures, EL2's side: cacheable here as in Linux.

use crate::memory;
use taichi_abi::stolen::{COUNT, StolenTime};

/// One CPU's structure, modulo their number.
pub fn structure(index: usize) -> &'static StolenTime {
    // SAFETY: in the page, by the ABI's assertion; all-zero is valid, and its
    // fields are atomics.
    unsafe { &*(address(index) as *const StolenTime) }
}

/// Its physical address.
pub fn address(index: usize) -> u64 {
    memory::stolen().start + (index % COUNT * size_of::<StolenTime>()) as u64
}
