// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lab: a whole SmartNIC in QEMU, from packages to reports.
#![forbid(unsafe_code)]

pub mod bench;
pub mod demo;
