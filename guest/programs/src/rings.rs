// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Descriptor rings in shared memory: one producer (the accelerator), one
//! consumer per ring (the forwarder of a DP core).
//!
//! The file is 64-bit words, native endian: a header page, then for each ring a
//! head and a tail, in cache lines of their own, and the slots. Heads and tails
//! count forever; a slot's index is the count modulo the number of slots.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use anyhow::{Context, Result, bail, ensure};
use taichi_dataplane::raw::MappingMut;

const MAGIC: u64 = u64::from_ne_bytes(*b"nic-ring");
/// Words of the header page, and where its fields are.
const HEADER: usize = 512;
const AT_MAGIC: usize = 0;
const AT_RINGS: usize = 1;
const AT_SLOTS: usize = 2;
const AT_PHASE: usize = 8;
const AT_ATTACHED: usize = 16;
/// Words of a ring before its slots: head at 0, tail at `TAIL`.
const RING: usize = 16;
const TAIL: usize = 8;
/// Words of a slot: arrival, sequence number.
const SLOT: usize = 2;

/// What everybody is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum Phase {
    /// Wait for the start.
    Setup = 0,
    /// Packets arrive.
    Run = 1,
    /// No more packets arrive; those in flight are still written.
    Stop = 2,
    /// All descriptors are written: consumers empty their rings and leave.
    Drain = 3,
}

/// A packet's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// When the packet reached the accelerator: ticks of the system counter.
    pub arrival: u64,
    /// Counts the descriptors of a ring, from 0.
    pub sequence: u64,
}

/// All rings of a modelled SmartNIC.
#[derive(Debug)]
pub struct Rings {
    map: MappingMut,
    rings: usize,
    slots: usize,
}

impl Rings {
    /// Makes the file; `slots` is a power of two.
    ///
    /// # Errors
    /// The file can't be made or mapped.
    pub fn create(path: &Path, rings: usize, slots: usize) -> Result<Self> {
        ensure!(
            slots.is_power_of_two() && rings > 0,
            "{rings} rings of {slots} slots"
        );
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .with_context(|| path.display().to_string())?;
        let words = HEADER + rings * (RING + SLOT * slots);
        file.set_len(words as u64 * 8)
            .with_context(|| path.display().to_string())?;
        let all = Self {
            map: map(path, &file, words)?,
            rings,
            slots,
        };
        // Stores, so that the pages are there before anybody measures.
        for word in all.words(0, words) {
            word.store(0, Relaxed);
        }
        all.header(AT_RINGS).store(rings as u64, Relaxed);
        all.header(AT_SLOTS).store(slots as u64, Relaxed);
        all.header(AT_MAGIC).store(MAGIC, Release);
        Ok(all)
    }

    /// Opens what another process has made.
    ///
    /// # Errors
    /// The file can't be mapped or is something else.
    pub fn attach(path: &Path) -> Result<Self> {
        let name = || path.display().to_string();
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .with_context(name)?;
        let bytes = file.metadata().with_context(name)?.len();
        let words = usize::try_from(bytes / 8).with_context(name)?;
        ensure!(words >= HEADER, "{}: too short for rings", name());
        let mut all = Self {
            map: map(path, &file, words)?,
            rings: 0,
            slots: 0,
        };
        let number = |at| usize::try_from(all.header(at).load(Acquire)).unwrap_or(usize::MAX);
        let (rings, slots) = (number(AT_RINGS), number(AT_SLOTS));
        let need = slots
            .checked_mul(SLOT)
            .and_then(|n| n.checked_add(RING)?.checked_mul(rings)?.checked_add(HEADER));
        if all.header(AT_MAGIC).load(Acquire) != MAGIC || need != Some(words) {
            bail!("{}: not a file of rings", name());
        }
        (all.rings, all.slots) = (rings, slots);
        Ok(all)
    }

    /// How many rings.
    pub fn count(&self) -> usize {
        self.rings
    }

    /// A ring by number.
    ///
    /// # Errors
    /// There is none with this number.
    pub fn ring(&self, number: usize) -> Result<Ring<'_>> {
        ensure!(
            number < self.rings,
            "ring {number}: there are {}",
            self.rings
        );
        let words = RING + SLOT * self.slots;
        let (control, slots) = self.words(HEADER + number * words, words).split_at(RING);
        Ok(Ring {
            head: &control[0],
            tail: &control[TAIL],
            slots,
            mask: self.slots as u64 - 1,
        })
    }

    /// What everybody is to do now.
    #[inline]
    pub fn phase(&self) -> Phase {
        match self.header(AT_PHASE).load(Acquire) {
            0 => Phase::Setup,
            1 => Phase::Run,
            2 => Phase::Stop,
            _ => Phase::Drain,
        }
    }

    /// Tells everybody what to do.
    pub fn set_phase(&self, phase: Phase) {
        self.header(AT_PHASE).store(phase as u64, Release);
    }

    /// Says that one more program is ready for the start.
    pub fn report_ready(&self) {
        self.header(AT_ATTACHED).fetch_add(1, AcqRel);
    }

    /// Programs that are ready for the start.
    pub fn ready(&self) -> u64 {
        self.header(AT_ATTACHED).load(Acquire)
    }

    #[inline]
    fn header(&self, word: usize) -> &AtomicU64 {
        self.map.at(word * 8).expect("the header page is mapped")
    }

    fn words(&self, first: usize, count: usize) -> &[AtomicU64] {
        self.map
            .slice(first * 8, count)
            .expect("the length was checked when the file was opened")
    }
}

fn map(path: &Path, file: &File, words: usize) -> Result<MappingMut> {
    MappingMut::new(file, 0, words * 8).with_context(|| path.display().to_string())
}

/// One ring. Only one thread may put, only one may take.
#[derive(Clone, Copy, Debug)]
pub struct Ring<'a> {
    head: &'a AtomicU64,
    tail: &'a AtomicU64,
    slots: &'a [AtomicU64],
    mask: u64,
}

impl Ring<'_> {
    /// Writes a descriptor; its sequence number follows from the ring's head.
    /// `false` if the ring is full: the packet is lost.
    #[inline]
    pub fn put(&self, arrival: u64) -> bool {
        let head = self.head.load(Relaxed);
        if head - self.tail.load(Acquire) > self.mask {
            return false;
        }
        let slot = (head & self.mask) as usize * SLOT;
        self.slots[slot].store(arrival, Relaxed);
        self.slots[slot + 1].store(head, Relaxed);
        self.head.store(head + 1, Release);
        true
    }

    /// Takes the oldest descriptor.
    #[inline]
    pub fn take(&self) -> Option<Descriptor> {
        let tail = self.tail.load(Relaxed);
        if tail == self.head.load(Acquire) {
            return None;
        }
        let slot = (tail & self.mask) as usize * SLOT;
        let arrival = self.slots[slot].load(Relaxed);
        let sequence = self.slots[slot + 1].load(Relaxed);
        self.tail.store(tail + 1, Release);
        Some(Descriptor { arrival, sequence })
    }

    /// Whether there is nothing to take.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.tail.load(Acquire) == self.head.load(Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_come_out_in_order_and_a_full_ring_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rings");
        let producer = Rings::create(&path, 2, 4).unwrap();
        let consumer = Rings::attach(&path).unwrap();
        assert_eq!(consumer.count(), 2);
        let (put, take) = (producer.ring(1).unwrap(), consumer.ring(1).unwrap());
        for turn in 0..3 {
            assert!(take.is_empty() && take.take().is_none());
            assert!((0..4).all(|n| put.put(100 * turn + n)));
            assert!(!put.put(999), "full");
            for n in 0..4 {
                let descriptor = Descriptor {
                    arrival: 100 * turn + n,
                    sequence: 4 * turn + n,
                };
                assert_eq!(take.take(), Some(descriptor));
            }
        }
        assert!(consumer.ring(0).unwrap().is_empty(), "the other ring");
        assert!(consumer.ring(2).is_err());
    }

    #[test]
    fn two_threads_lose_and_reorder_nothing() {
        const N: u64 = 100_000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rings");
        let producer = Rings::create(&path, 1, 64).unwrap();
        let consumer = Rings::attach(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let ring = consumer.ring(0).unwrap();
            let mut next = 0;
            while next < N {
                match ring.take() {
                    Some(d) => {
                        assert_eq!((d.sequence, d.arrival), (next, next * 3));
                        next += 1;
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
        let ring = producer.ring(0).unwrap();
        for n in 0..N {
            while !ring.put(n * 3) {
                std::thread::yield_now();
            }
        }
        thread.join().unwrap();
    }

    #[test]
    fn phases_and_foreign_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rings");
        let rings = Rings::create(&path, 1, 4).unwrap();
        let other = Rings::attach(&path).unwrap();
        other.report_ready();
        assert_eq!(rings.ready(), 1);
        for phase in [Phase::Setup, Phase::Run, Phase::Stop, Phase::Drain] {
            rings.set_phase(phase);
            assert_eq!(other.phase(), phase);
        }
        std::fs::write(&path, vec![1; 10_000]).unwrap();
        assert!(Rings::attach(&path).is_err());
        std::fs::write(&path, b"short").unwrap();
        assert!(Rings::attach(&path).is_err());
    }
}
