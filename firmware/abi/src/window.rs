// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the shared pages are.
//!
//! The firmware adds a node to the device tree that it hands to Linux:
//!
//! ```dts
//! taichi@… {
//!     compatible = "taichi,window-1";
//!     reg = <doorbell>, <control>, <telemetry>;     // 64-bit address, 64-bit size each
//!     reg-names = "doorbell", "control", "telemetry";
//! };
//! ```
//!
//! User space reads `reg` in `/sys/firmware/devicetree/base/taichi/reg`
//! ([`REG_FILE`]): three pairs of big-endian 64-bit numbers.

/// Name of the node, a child of the root, without a unit address.
pub const NODE: &str = "taichi";
/// Value of the node's `compatible`.
pub const COMPATIBLE: &str = "taichi,window-1";
/// The file in which user space finds the addresses.
pub const REG_FILE: &str = "/sys/firmware/devicetree/base/taichi/reg";
/// Values of `reg-names`, in the order of `reg`.
pub const REG_NAMES: [&str; 3] = ["doorbell", "control", "telemetry"];

/// Address and size of one window, in bytes of (guest-)physical address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First byte; aligned to a page.
    pub base: u64,
    /// Bytes; a multiple of a page.
    pub size: u64,
}

/// The three windows, in the order of `reg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// One page; see [`crate::doorbell`].
    pub doorbell: Window,
    /// One page; see [`crate::control`].
    pub control: Window,
    /// See [`crate::telemetry`].
    pub telemetry: Window,
}

/// Bytes of the `reg` property.
pub const REG_BYTES: usize = 48;

impl Windows {
    /// The value of the node's `reg` property.
    pub fn to_reg(&self) -> [u8; REG_BYTES] {
        let mut out = [0; REG_BYTES];
        let all = [self.doorbell, self.control, self.telemetry];
        for (chunk, w) in out.chunks_exact_mut(16).zip(all) {
            chunk[..8].copy_from_slice(&w.base.to_be_bytes());
            chunk[8..].copy_from_slice(&w.size.to_be_bytes());
        }
        out
    }

    /// Reads a `reg` property; `None` if it has another length.
    pub fn from_reg(reg: &[u8]) -> Option<Self> {
        let reg: &[u8; REG_BYTES] = reg.try_into().ok()?;
        let word = |i: usize| {
            let mut b = [0; 8];
            b.copy_from_slice(&reg[i * 8..i * 8 + 8]);
            u64::from_be_bytes(b)
        };
        let window = |i: usize| Window {
            base: word(2 * i),
            size: word(2 * i + 1),
        };
        Some(Self {
            doorbell: window(0),
            control: window(1),
            telemetry: window(2),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reg_round_trips_and_wrong_lengths_are_refused() {
        let w = |base| Window { base, size: 0x1000 };
        let all = Windows {
            doorbell: w(0x1000),
            control: w(0x2000),
            telemetry: w(1 << 40),
        };
        assert_eq!(Windows::from_reg(&all.to_reg()), Some(all));
        assert_eq!(Windows::from_reg(&all.to_reg()[..47]), None);
        assert_eq!(Windows::from_reg(&[]), None);
    }
}
