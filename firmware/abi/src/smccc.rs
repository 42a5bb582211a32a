// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls that the firmware answers itself, by HVC, in the range that SMCCC
//! (Arm DEN 0028) gives to vendor-specific hypervisor services.

/// Returns [`crate::VERSION`] and does nothing else: the null trap.
pub const VERSION: u32 = 0xc600_0000;
/// Vendor hypervisor UID query (SMCCC "Call UID Query").
pub const UID: u32 = 0x8600_ff01;
/// The UID, as SMCCC returns it in w0-w3.
pub const UID_WORDS: [u32; 4] = [0x5441_4943, 0x4849_0001, 0x8f3e_52b7, 0x1c9d_6a04];
