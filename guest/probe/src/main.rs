// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The probe: a guest without an operating system that attacks the firmware
//! from below.
//!
//! It boots as an arm64 `Image` in place of Linux, starts every CPU that the
//! device tree offers, real or virtual, fills every register that a context
//! owns with a pattern of its own, forces every kind of exit and world switch,
//! and checks that nothing leaked or changed. With `probe=bench` among the
//! boot arguments it counts the instructions of the firmware's paths instead.
//!
//! Console output, one line each: `ok NAME`, `FAIL NAME: why`,
//! `bench NAME COUNT`, and last `done P passed F failed`.
//!
//! Without the firmware (plain QEMU, EL1) the same image runs the tests that
//! need no vCPU.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod guest;

/// On the host there is nothing to run; the package builds there so that
/// editors and `cargo check` see it.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("taichi-probe is a guest: build it for aarch64-unknown-none-softfloat");
}
