// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Instruction counts are exact, so a path that has become longer is a fact: a
//! change that is worth it records them anew (`taichi bench micro --record`).
#![cfg(feature = "guest")]

use taichi_lab::bench::{micro, record};

#[test]
fn no_path_of_the_firmware_is_longer_than_recorded() {
    let record = record::read().unwrap();
    let run = micro::run(false).unwrap();
    assert!(run.ours.len() > 10, "{:?}", run.ours);
    if run.compiler != record.compiler {
        eprintln!(
            "not compared: recorded with {}, built with {}",
            record.compiler, run.compiler
        );
        return;
    }
    let worse = record::worse(&record.counts, &run.ours);
    assert!(
        worse.is_empty(),
        "path, instructions recorded, now: {worse:?}"
    );
}
