// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The control page: commands to the firmware, for accelerators and root.

use std::sync::atomic::AtomicU32;

use taichi_abi::control::{PARK, PROBE};

use crate::raw::MappingMut;
use crate::source::{Error, Source};

/// A view of the control page.
#[derive(Debug)]
pub struct Control {
    mapping: MappingMut,
}

impl Control {
    /// Maps the page; `None` without the firmware.
    ///
    /// # Errors
    /// The firmware is there and its page can't be mapped (not root?).
    pub fn open() -> Result<Option<Self>, Error> {
        Self::open_from(&Source::default())
    }

    /// As [`Control::open`], from other files.
    ///
    /// # Errors
    /// As there.
    pub fn open_from(source: &Source) -> Result<Option<Self>, Error> {
        let Some(windows) = source.windows()? else {
            return Ok(None);
        };
        let window = windows.control;
        let mapping = source.map_mut("control", window)?;
        if mapping.at::<AtomicU32>(PROBE).is_none() {
            return Err(Error::Foreign {
                window: "control",
                base: window.base,
                found: 0,
            });
        }
        Ok(Some(Self { mapping }))
    }

    /// Parks or lends again: whether DP cores are kept for their own Linux.
    pub fn park(&self, parked: bool) {
        let stored = self.mapping.store_device(PARK, parked.into());
        debug_assert!(stored.is_some());
    }

    /// Says that work for this core is on its way: the firmware takes the core
    /// back if it is lent, and does nothing if it isn't.
    #[inline]
    pub fn probe(&self, core: u32) {
        // `open_from` has seen that the register lies inside the page.
        let stored = self.mapping.store_device(PROBE, core);
        debug_assert!(stored.is_some());
    }
}
