// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The test driver and what its users find. `cargo xtask test` runs these;
//! alone: `cargo test -p taichi-lab --features guest --test driver`.
#![cfg(feature = "guest")]

use taichi_lab::{Kernel, Machine, Streams, driver, guest};

/// The kernel takes the module for its own (version and symbols agree), and lets
/// it go.
fn loads_and_unloads(kernel: Kernel) {
    let machine = Machine {
        kernel,
        cores: 2,
        vcpus: 1,
        modules: vec![driver::NAME.to_owned()],
        programs: false,
        ..Machine::default()
    };
    let script = "test -c /dev/taichi-accel && rmmod taichi_accel && \
                  ! test -e /dev/taichi-accel && dmesg | grep taichi_accel:";
    let command = ["sh", "-c", script].map(String::from);
    let outcome = guest::run(&machine, &command, Streams::Captured).unwrap();
    outcome.success().unwrap();
    // It isn't Debian's, and says so; nothing else.
    for line in outcome.text().lines() {
        assert!(
            ["taints kernel.", "tainting kernel"]
                .iter()
                .any(|e| line.ends_with(e)),
            "{line}"
        );
    }
}

#[test]
fn the_module_loads_linux_6_1() {
    loads_and_unloads(Kernel::Debian61);
}

#[test]
fn the_module_loads_linux_6_12() {
    loads_and_unloads(Kernel::Debian612);
}
