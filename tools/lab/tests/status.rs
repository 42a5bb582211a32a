// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `taichi status` in a guest. `cargo xtask test` runs these; alone: `cargo test
//! -p taichi-lab --features guest --test status`.
#![cfg(feature = "guest")]

use taichi_lab::stress::scene;
use taichi_lab::{Kernel, Machine, Streams, guest};

/// What `script` prints on two CP cores, two DP cores and two vCPUs, in
/// deterministic time.
fn prints(script: &str) -> String {
    let machine = Machine {
        kernel: Kernel::Debian612,
        cores: 4,
        vcpus: 2,
        dp: "2-3".parse().unwrap(),
        isolate: true,
        measured: true,
        ..Machine::default()
    };
    let outcome = scene::sh(&machine, script).unwrap();
    outcome.text()
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no \"{part}\":\n{text}");
    }
}

const BUSY: &str = "busy() { taskset -c $1 sh -c 'while :; do :; done' >/dev/null 2>&1 & }; ";

#[test]
fn tells_what_there_is_to_harvest() {
    let script = "busy 4; busy 5; taichi status --seconds 0.3; echo ==; taichi park on; \
                  taichi status --seconds 0.3; taichi park off; echo ==; busy 2; busy 3; sleep 0.1; taichi status --seconds 0.3; \
                  kill $(jobs -p)";
    let text = prints(&format!("{BUSY}{script}"));
    let (idle, rest) = text.split_once("==\n").unwrap();
    let (parked, busy) = rest.split_once("==\n").unwrap();
    has(
        parked,
        &[
            "parked: DP cores are not lent, as root asked",
            "harvest: none",
        ],
    );
    assert!(!parked.contains("DP   runs vCPU"), "{text}");
    has(
        idle,
        &[
            "4 cores, 2 vCPUs",
            "lending: DP cores are lent",
            "last death: none known",
            "vCPUs had ",
            "DP   runs vCPU ",
        ],
    );
    has(
        busy,
        &[
            "harvest: DP cores are at 100%: nothing to harvest",
            "DP   native",
        ],
    );
    // The firmware's own account: no kick was lost.
    assert!(!text.contains("warning"), "{text}");
}

#[test]
fn without_the_firmware_it_says_so() {
    let machine = Machine {
        cores: 2,
        bare: true,
        ..Machine::default()
    };
    let command = ["taichi", "status"].map(String::from);
    let outcome = guest::run(&machine, &command, Streams::Captured).unwrap();
    let error = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert!(error.contains("the firmware isn't there"), "{error}");
    assert_eq!(outcome.ending.status(), 125);
}
