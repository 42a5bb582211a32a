// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The control page: for root, and for an accelerator's driver.
//!
//! No memory is behind it; stores are commands to EL2. A value out of range is
//! counted and ignored. Loads give 0.

/// Store a core number (32 bit): work for this core is on its way. Does
/// nothing where the core is native, and leaves nothing behind.
pub const PROBE: usize = 0x000;
