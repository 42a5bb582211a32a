// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the firmware's windows are, and how they are mapped.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::OFlags;
use taichi_abi::window::{self, Window, Windows};

use crate::raw::{Mapping, MappingMut};

/// Why the firmware's windows can't be used, although it is there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file can't be read or opened.
    #[error("{path}: {source}{}", advice(source))]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A window can't be mapped.
    #[error(
        "cannot map the {window} window at {base:#x} from {path}: {source}{}",
        advice(source)
    )]
    Map {
        /// `doorbell`, `control` or `telemetry`.
        window: &'static str,
        /// Its address.
        base: u64,
        /// The file that it was mapped from.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The device tree's property has another length than this version's.
    #[error(
        "{path}: {length} bytes where {} were expected; is this library older than the firmware?",
        window::REG_BYTES
    )]
    Reg {
        /// Which file.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// A window doesn't start with its magic number, or is too small.
    #[error("the {window} window at {base:#x} is not one of Tai Chi's: found {found:#x}")]
    Foreign {
        /// `doorbell` or `telemetry`.
        window: &'static str,
        /// Its address.
        base: u64,
        /// What stands in place of the magic number; 0 where the window is too small.
        found: u64,
    },
}

/// What the user can do about a refusal.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            " (run as root; where the kernel has STRICT_DEVMEM and still refuses, boot with iomem=relaxed)"
        }
        io::ErrorKind::NotFound => " (the kernel needs CONFIG_DEVMEM, and /dev a devtmpfs)",
        _ => "",
    }
}

/// The two files through which the firmware is found. Tests put their own.
#[derive(Clone, Debug)]
pub struct Source {
    /// Holds the `reg` property with the windows' addresses
    /// ([`window::REG_FILE`]). Where it is missing there is no firmware.
    pub reg: PathBuf,
    /// Physical memory, by address: `/dev/mem`.
    pub memory: PathBuf,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            reg: window::REG_FILE.into(),
            memory: "/dev/mem".into(),
        }
    }
}

impl Source {
    /// The windows' addresses; `None` without the firmware.
    ///
    /// # Errors
    /// The property is there and can't be read or has another length.
    pub fn windows(&self) -> Result<Option<Windows>, Error> {
        let reg = match fs::read(&self.reg) {
            Ok(reg) => reg,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::File {
                    path: self.reg.clone(),
                    source,
                });
            }
        };
        Windows::from_reg(&reg).map(Some).ok_or_else(|| Error::Reg {
            path: self.reg.clone(),
            length: reg.len(),
        })
    }

    /// Maps a window for loads.
    pub(crate) fn map(&self, name: &'static str, window: Window) -> Result<Mapping, Error> {
        let file = self.open(OpenOptions::new().read(true))?;
        let len = self.length(name, window)?;
        Mapping::new(&file, window.base, len).map_err(|source| self.unmapped(name, window, source))
    }

    /// Maps a window for loads and stores.
    pub(crate) fn map_mut(&self, name: &'static str, window: Window) -> Result<MappingMut, Error> {
        let file = self.open(OpenOptions::new().read(true).write(true))?;
        let len = self.length(name, window)?;
        MappingMut::new(&file, window.base, len)
            .map_err(|source| self.unmapped(name, window, source))
    }

    /// O_SYNC makes /dev/mem map Device memory on arm64: no speculative load
    /// rings the doorbell, none is merged or repeated.
    fn open(&self, options: &mut OpenOptions) -> Result<File, Error> {
        options
            .custom_flags(OFlags::SYNC.bits().cast_signed())
            .open(&self.memory)
            .map_err(|source| Error::File {
                path: self.memory.clone(),
                source,
            })
    }

    fn length(&self, name: &'static str, window: Window) -> Result<usize, Error> {
        usize::try_from(window.size)
            .map_err(|error| self.unmapped(name, window, io::Error::other(error)))
    }

    fn unmapped(&self, window: &'static str, at: Window, source: io::Error) -> Error {
        Error::Map {
            window,
            base: at.base,
            path: self.memory.clone(),
            source,
        }
    }
}
