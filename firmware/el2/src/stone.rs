// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The epitaph in RAM (`taichi_abi::epitaph`): written by a run that dies,
//! found by the next, which leaves it where it is for Linux to read.

use crate::memory;
use core::fmt::{self, Write};
use core::slice;
use core::sync::atomic::Ordering::Relaxed;
use taichi_abi::epitaph::{self, BYTES, Epitaph, Header, MAGIC, Sum, TEXT_MAX, TEXT_OFFSET};

/// Writes to the stone. What it knows is in the stone's header, so that a
/// fault in the midst of it loses nothing.
pub(crate) struct Stone;

impl Write for Stone {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let (mut used, mut sum) = used();
        for &byte in s.as_bytes() {
            if used == TEXT_MAX {
                break;
            }
            // SAFETY: in the stone's text, by the line above; nobody holds a
            // reference to it while it is written, see `begin`.
            unsafe { ((start() + TEXT_OFFSET + used) as *mut u8).write_volatile(byte) };
            (used, sum) = (used + 1, sum.and(byte));
        }
        header().text.store(word(used, sum), Relaxed);
        Ok(())
    }
}

/// An empty epitaph in the place of what is there. From here on the machine
/// dies, and nothing but this module touches the stone.
pub(crate) fn begin() {
    let header = header();
    header.text.store(word(0, Sum::EMPTY), Relaxed);
    header.age.store(0, Relaxed);
    header.magic.store(MAGIC, Relaxed);
}

/// Sees to it that a reset loses nothing: before `boot::install` the stone is
/// cacheable.
pub(crate) fn keep() {
    memory::clean(memory::stone());
}

/// What has been written.
pub(crate) fn text() -> &'static str {
    epitaph::read(area()).map_or("", |epitaph| epitaph.text)
}

/// For the boot core, before any other runs: the epitaph that an earlier run
/// left, a boot older from now on. What is no epitaph is erased.
pub fn found() -> Option<Epitaph<'static>> {
    let header = header();
    if epitaph::read(area()).is_none() {
        // SAFETY: the stone is ours, and no reference to it is alive.
        unsafe { (start() as *mut u8).write_bytes(0, BYTES) };
        return None;
    }
    header
        .age
        .store(header.age.load(Relaxed).saturating_add(1), Relaxed);
    epitaph::read(area())
}

fn start() -> usize {
    memory::stone().start as usize
}

fn header() -> &'static Header {
    // SAFETY: the stone starts with it; any bits are valid, and its fields are
    // atomics.
    unsafe { &*(start() as *const Header) }
}

fn area() -> &'static [u8] {
    // SAFETY: mapped, and `BYTES` long, as `image.ld` asserts. Who writes there
    // (`found` before it reads, a core that dies) uses no reference from here
    // any more.
    unsafe { slice::from_raw_parts(start() as *const u8, BYTES) }
}

/// Bytes of text so far, and their sum.
fn used() -> (usize, Sum) {
    let word = header().text.load(Relaxed);
    (
        (word as u32 as usize).min(TEXT_MAX),
        Sum((word >> 32) as u32),
    )
}

fn word(used: usize, sum: Sum) -> u64 {
    used as u64 | u64::from(sum.0) << 32
}
