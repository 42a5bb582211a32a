// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests to a block device, one at a time, past Linux's cache, with checked
//! contents.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use memmap2::MmapMut;

/// Bytes of a request.
pub const BLOCK: usize = 4096;

/// A run of a disk's blocks that nobody else writes.
#[derive(Debug)]
pub struct Disk {
    file: File,
    first: u64,
    /// How often each block was written.
    writes: Vec<u64>,
    /// A page, as requests past the cache need one.
    buffer: MmapMut,
    random: fastrand::Rng,
}

impl Disk {
    /// `blocks` blocks from number `first` on. `seed` decides which are asked for
    /// when.
    ///
    /// # Errors
    /// The device can't be opened.
    pub fn open(path: &Path, first: u64, blocks: usize, seed: u64) -> Result<Self> {
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(path);
        Ok(Self {
            file: options.with_context(|| path.display().to_string())?,
            first,
            writes: vec![0; blocks],
            buffer: MmapMut::map_anon(BLOCK).context("a page of memory")?,
            random: fastrand::Rng::with_seed(seed),
        })
    }

    /// One request: writes a block, or reads one that was written and compares.
    ///
    /// # Errors
    /// The device refuses, or a block isn't what was written last.
    pub fn request(&mut self) -> Result<()> {
        let n = self.random.usize(..self.writes.len());
        let block = self.first + n as u64;
        let at = block * BLOCK as u64;
        if self.writes[n] == 0 || self.random.bool() {
            self.writes[n] += 1;
            fill(&mut self.buffer, block, self.writes[n]);
            let written = self.file.write_all_at(&self.buffer, at);
            return written.with_context(|| format!("writing block {block}"));
        }
        self.buffer.fill(0);
        let read = self.file.read_exact_at(&mut self.buffer, at);
        read.with_context(|| format!("reading block {block}"))?;
        let mut expected = [0; BLOCK];
        fill(&mut expected, block, self.writes[n]);
        let wrong = self.buffer.iter().zip(&expected).position(|(a, b)| a != b);
        ensure!(
            wrong.is_none(),
            "block {block}, written {} times, is wrong from byte {wrong:?}",
            self.writes[n]
        );
        Ok(())
    }
}

/// What block `block` holds after so many writes.
fn fill(bytes: &mut [u8], block: u64, writes: u64) {
    let mut pattern = fastrand::Rng::with_seed(block << 32 ^ writes);
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&pattern.u64(..).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_asked_for() {
        // Not /tmp, which may be a file system without O_DIRECT.
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        file.as_file().set_len(16 * BLOCK as u64).unwrap();
        let mut disk = Disk::open(file.path(), 8, 8, 1).unwrap();
        for _ in 0..200 {
            disk.request().unwrap();
        }
        assert!(disk.writes.iter().all(|n| *n > 0));
        for block in 8..16 {
            let at = block * BLOCK as u64 + 5;
            file.as_file().write_all_at(b"x", at).unwrap();
        }
        // Of eight first looks at a block one is no write, with this seed.
        let wrong = (0..100).find_map(|_| disk.request().err()).unwrap();
        assert!(wrong.to_string().contains("is wrong from byte"), "{wrong}");
    }
}
