// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What must not happen is made to happen, by a firmware that is built for it;
//! the machine must go on. `cargo xtask test` runs these; alone:
//! `cargo test -p taichi-lab --features guest --test faults`.
#![cfg(feature = "guest")]

use std::time::Duration;

use taichi_lab::{Cache, Kernel, Machine, build, guest};

/// Kicks between cores get lost, come twice and come for nothing.
#[test]
fn kicks_that_get_lost_or_come_twice_or_for_nothing() {
    let cache = Cache::open().unwrap();
    let machine = Machine {
        kernel: Kernel::File(build::probe(&cache).unwrap().image),
        firmware: Some(build::mortal_firmware(&cache).unwrap().image),
        cores: 4,
        vcpus: 3,
        dp: "2-3".parse().unwrap(),
        measured: true,
        spin: false,
        tick: 4,
        // The watchman looks every 8 times as long.
        config: "patience=100us".to_owned(),
        append: "probe=kicks,sgi-e,sgi-o,storm".to_owned(),
        timeout: Duration::from_secs(600),
        ..Machine::default()
    };
    let console = guest::boot(&machine).unwrap().console;
    let passed = console.lines().find_map(|l| l.strip_prefix("done "));
    assert_eq!(passed, Some("8 passed 0 failed"), "{console}");
}
