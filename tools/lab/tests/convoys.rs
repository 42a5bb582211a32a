// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Work that takes kernel locks isn't slower because there are vCPUs. `cargo
//! xtask test` runs these; alone: `cargo test -p taichi-lab --features guest
//! --test convoys`.
#![cfg(feature = "guest")]

use std::time::Duration;

use taichi_lab::stress::convoys::{self, Load};
use taichi_lab::{Cores, Kernel, Machine};

fn machine(dp: Cores, config: &str) -> Machine {
    Machine {
        kernel: Kernel::Debian612,
        cores: 4,
        vcpus: 3,
        dp,
        // A core has a quarter of the clock's time, or less.
        config: config.to_owned(),
        timeout: Duration::from_secs(900),
        ..Machine::default()
    }
}

/// Seven CPUs on four busy cores. Without rescue this took 6.5 times as long.
#[test]
fn messages_on_busy_cores() {
    let machine = machine(Cores::default(), "look=20us slice=200us patience=16ms");
    let ratio = convoys::ratio(&machine, Load::Messages(1500)).unwrap();
    assert!(ratio <= 1.1, "{ratio} times as long with vCPUs");
}

/// Four CPUs on the one CP core, because the DP cores never yield. Without rescue
/// this took 2.5 times as long.
#[test]
fn messages_beside_saturated_dp_cores() {
    let machine = machine(Cores::range(1, 3), "look=35us slice=350us patience=28ms");
    let ratio = convoys::ratio(&machine, Load::Messages(500)).unwrap();
    assert!(ratio <= 1.3, "{ratio} times as long with vCPUs");
}
