// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lab: a whole SmartNIC in QEMU, from Debian packages to a command's
//! exit status.
//!
//! ```no_run
//! use taichi_lab::{Machine, Streams, guest};
//!
//! let machine = Machine { vcpus: 3, dp: "3".parse()?, ..Machine::default() };
//! let command = ["cat", "/sys/devices/system/cpu/online"].map(String::from);
//! let outcome = guest::run(&machine, &command, Streams::Captured)?;
//! assert_eq!(outcome.text(), "0-6\n");
//! # anyhow::Ok(())
//! ```
//!
//! - [`machine`]: describes a guest; [`guest`] runs it
//! - [`build`]: the firmware and what else runs in a guest
//! - [`driver`]: the module that holds locks, built against a kernel's [`headers`]
//! - [`components`]: what is installed, into the [`cache`] and nowhere else
//! - [`check`]: all tests
//! - [`stress`]: scenarios, short in tests and long in stress runs
//! - [`demo`], [`bench`]: what the lab is for
#![forbid(unsafe_code)]

pub mod apt;
pub mod bench;
pub mod build;
pub mod cache;
pub mod check;
pub mod components;
pub mod cpio;
pub mod debs;
pub mod demo;
pub mod driver;
pub mod guest;
pub mod headers;
pub mod initramfs;
pub mod kernel;
pub mod machine;
pub mod progress;
pub mod stress;
pub mod tools;

pub use cache::Cache;
pub use guest::{Ending, Outcome, Streams};
pub use kernel::Kernel;
pub use machine::{Cores, Machine};
