// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The peer: what the same machine's KVM needs for what our firmware does,
//! counted in the same way (instruction-counting emulation, one tick of
//! CNTVCT_EL0 an instruction).
//!
//! Runs as root in the lab's Linux, without our firmware, on one CPU. The
//! guest is a loop of a few instructions, without an interrupt controller,
//! which is KVM at its cheapest. Prints lines `bench NAME COUNT most M equal E
//! of N`, as the probe does.

#[cfg(target_arch = "aarch64")]
mod guest;
#[cfg(target_arch = "aarch64")]
mod peer;

#[cfg(target_arch = "aarch64")]
fn main() -> anyhow::Result<()> {
    peer::run()
}

/// On another host there is nothing to run; the package builds there so that
/// editors and `cargo check` see it.
#[cfg(not(target_arch = "aarch64"))]
fn main() {
    eprintln!("taichi-kvm-peer measures KVM on arm64: build it for aarch64-unknown-linux-gnu");
}
