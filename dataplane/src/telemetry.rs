// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the firmware counts, read-only.

use std::mem::offset_of;
use std::path::Path;
use std::sync::atomic::AtomicU32;

use taichi_abi::epitaph;
use taichi_abi::telemetry::{self as layout, Core, CoreState, Header, Vcpu};
use taichi_abi::window::Window;

use crate::raw::{Mapping, Shared};
use crate::source::{Error, Source};

const NAME: &str = "telemetry";

/// The telemetry window, checked when it was opened.
///
/// What it returns are copies of the ABI crate's structures. Counters change
/// all the time and are not consistent with one another.
#[derive(Debug)]
pub struct Telemetry {
    mapping: Mapping,
    cores: Blocks,
    vcpus: Blocks,
}

/// Where the blocks of one kind are.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    offset: usize,
    count: usize,
}

impl Telemetry {
    /// Maps the window; `None` without the firmware.
    ///
    /// # Errors
    /// The firmware is there and its window can't be mapped (not root?) or
    /// isn't what this version knows.
    pub fn open() -> Result<Option<Self>, Error> {
        Self::open_from(&Source::default())
    }

    /// As [`Telemetry::open`], from other files.
    ///
    /// # Errors
    /// As there.
    pub fn open_from(source: &Source) -> Result<Option<Self>, Error> {
        let Some(windows) = source.windows()? else {
            return Ok(None);
        };
        Self::map(source, windows.telemetry).map(Some)
    }

    pub(crate) fn map(source: &Source, window: Window) -> Result<Self, Error> {
        let foreign = |found| Error::Foreign {
            window: NAME,
            base: window.base,
            found,
        };
        let mapping = source.map(NAME, window)?;
        let header: Header = mapping.copy(0).ok_or(foreign(0))?;
        let magic = header.magic.into_inner();
        if magic != layout::MAGIC {
            return Err(foreign(magic));
        }
        let blocks = |offset: AtomicU32, count: AtomicU32| Blocks {
            offset: offset.into_inner() as usize,
            count: count.into_inner() as usize,
        };
        let cores = blocks(header.core_offset, header.cores);
        let vcpus = blocks(header.vcpu_offset, header.vcpus);
        if !mapping.holds::<Core>(cores.offset, cores.count)
            || !mapping.holds::<Vcpu>(vcpus.offset, vcpus.count)
        {
            return Err(foreign(magic));
        }
        Ok(Self {
            mapping,
            cores,
            vcpus,
        })
    }

    /// Opens a copy of the window in a file, such as one made by `dd` from
    /// `/dev/mem`.
    ///
    /// # Errors
    /// It can't be mapped, or is no such copy.
    pub fn open_copy(path: &Path) -> Result<Self, Error> {
        let source = Source {
            memory: path.into(),
            ..Source::default()
        };
        let size = path.metadata().map_err(|source| Error::File {
            path: path.into(),
            source,
        })?;
        let window = Window {
            base: 0,
            size: size.len(),
        };
        Self::map(&source, window)
    }

    /// The epitaph that a run before this one left, and how many boots ago.
    pub fn epitaph(&self) -> Option<(u32, String)> {
        let start = self.header().epitaph_offset.into_inner() as usize;
        let words = (0..epitaph::BYTES / 8).map(|n| self.mapping.load_u64(start + n * 8));
        let words: Option<Vec<u64>> = words.collect();
        let bytes: Vec<u8> = words?.into_iter().flat_map(u64::to_le_bytes).collect();
        epitaph::read(&bytes).map(|found| (found.age, found.text.to_owned()))
    }

    /// A copy of the window's header.
    pub fn header(&self) -> Header {
        self.mapping
            .copy(0)
            .expect("fits: checked when it was opened")
    }

    /// A copy of every real core's counters, by core number.
    pub fn cores(&self) -> Vec<Core> {
        self.copies(self.cores)
    }

    /// A copy of every vCPU's counters, by vCPU number.
    pub fn vcpus(&self) -> Vec<Vcpu> {
        self.copies(self.vcpus)
    }

    fn copies<T: Shared>(&self, blocks: Blocks) -> Vec<T> {
        (0..blocks.count)
            .filter_map(|i| self.mapping.copy(blocks.offset + i * size_of::<T>()))
            .collect()
    }

    /// Whether a vCPU runs on this core now: the P/V word of an accelerator.
    /// `false` for a core that isn't there.
    #[inline]
    pub fn is_lent(&self, core: usize) -> bool {
        let word = self.cores.offset + core * size_of::<Core>() + offset_of!(Core, state);
        core < self.cores.count
            && self
                .mapping
                .load_u64(word)
                .is_some_and(|w| w & 0xff == CoreState::Lent as u64)
    }

    /// Whether some vCPU could run and has no core.
    #[inline]
    pub fn wanted(&self) -> bool {
        self.mapping.load_u32(offset_of!(Header, ready)) != Some(0)
    }
}
