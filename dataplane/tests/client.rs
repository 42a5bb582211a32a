// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The client against a file that stands in for the firmware's pages.

mod common;

use std::fs;
use std::path::Path;

use common::Firmware;
use taichi_abi::telemetry::CoreState;
use taichi_dataplane::{Control, Error, Reason, Source, Telemetry, Tuning, Yielder};

const TUNING: Tuning = Tuning {
    threshold: 8,
    least: 2,
    most: 64,
    patience: 32,
    early_ns: 0,
};
/// Every answer comes sooner than this: the file answers at once.
const ALWAYS_EARLY: Tuning = Tuning {
    early_ns: u64::MAX,
    ..TUNING
};

fn open(firmware: &Firmware, tuning: Tuning) -> Yielder {
    Yielder::open_from(&firmware.source, tuning).unwrap()
}

/// Empty polls until the core is lent, and why it came back.
fn empty_polls(yielder: &mut Yielder) -> (u32, Reason) {
    for polls in 1..=10_000 {
        if let Some(reason) = yielder.poll(false) {
            return (polls, reason);
        }
    }
    panic!("10,000 empty polls and no yield");
}

fn without_firmware() -> Source {
    Source {
        reg: "/nonexistent/taichi/reg".into(),
        memory: "/nonexistent/mem".into(),
    }
}

#[test]
fn without_firmware_the_client_is_inert() {
    let mut yielder = Yielder::open_from(&without_firmware(), TUNING).unwrap();
    assert!(yielder.is_inert());
    assert!((0..10_000).all(|_| yielder.poll(false).is_none()));
    assert_eq!(yielder.give(), None);
    assert_eq!(yielder.stats().yields, 0);
    assert!(Telemetry::open_from(&without_firmware()).unwrap().is_none());
    assert!(Control::open_from(&without_firmware()).unwrap().is_none());
}

#[test]
fn yields_after_so_many_empty_polls_in_a_row() {
    let firmware = Firmware::new();
    firmware.ready(1);
    firmware.answer(Reason::Nothing);
    let mut yielder = open(&firmware, TUNING);
    for _ in 0..7 {
        assert_eq!(yielder.poll(false), None);
    }
    assert_eq!(yielder.poll(true), None, "work in hand");
    assert_eq!(empty_polls(&mut yielder), (8, Reason::Nothing));
    assert_eq!(empty_polls(&mut yielder), (8, Reason::Nothing));
    assert_eq!(yielder.stats().yields, 2);
    assert_eq!(yielder.stats().reasons, [2, 0, 0, 0, 0, 0]);
}

#[test]
fn does_not_yield_while_no_vcpu_is_ready() {
    let firmware = Firmware::new();
    firmware.ready(0);
    let mut yielder = open(&firmware, TUNING);
    assert!((0..1000).all(|_| yielder.poll(false).is_none()));
    assert_eq!(yielder.stats().yields, 0);
    firmware.ready(1);
    assert_eq!(
        empty_polls(&mut yielder).0,
        1,
        "long idle: at the first chance"
    );
}

#[test]
fn slices_that_end_unused_lower_the_threshold_to_its_least() {
    let firmware = Firmware::new();
    firmware.ready(1);
    firmware.answer(Reason::Slice);
    let mut yielder = open(&firmware, TUNING);
    let polls: Vec<u32> = (0..5).map(|_| empty_polls(&mut yielder).0).collect();
    assert_eq!(polls, [8, 4, 2, 2, 2]);
}

#[test]
fn early_calls_raise_the_threshold_to_its_most() {
    let firmware = Firmware::new();
    firmware.ready(1);
    firmware.answer(Reason::Interrupt);
    let mut yielder = open(&firmware, ALWAYS_EARLY);
    let polls: Vec<u32> = (0..6).map(|_| empty_polls(&mut yielder).0).collect();
    assert_eq!(polls, [8, 16, 32, 64, 64, 64]);
    let mut yielder = open(&firmware, TUNING);
    let polls: Vec<u32> = (0..3).map(|_| empty_polls(&mut yielder).0).collect();
    assert_eq!(polls, [8, 8, 8], "not early");
}

#[test]
fn a_probe_gives_its_work_time_to_arrive() {
    let firmware = Firmware::new();
    firmware.ready(1);
    firmware.answer(Reason::Probe);
    let mut yielder = open(&firmware, TUNING);
    assert_eq!(empty_polls(&mut yielder), (8, Reason::Probe));
    assert_eq!(empty_polls(&mut yielder), (32, Reason::Probe), "patience");
    for _ in 0..10 {
        assert_eq!(yielder.poll(false), None);
    }
    assert_eq!(
        yielder.poll(true),
        None,
        "the work that the probe announced"
    );
    assert_eq!(
        empty_polls(&mut yielder),
        (8, Reason::Probe),
        "patience is over"
    );
}

#[test]
fn refusals_and_unknown_answers_are_asked_for_seldom() {
    let firmware = Firmware::new();
    firmware.ready(1);
    firmware.answer(Reason::Refused);
    let mut yielder = open(&firmware, TUNING);
    assert_eq!(empty_polls(&mut yielder), (8, Reason::Refused));
    assert_eq!(empty_polls(&mut yielder), (64, Reason::Refused));
    firmware.answer_value(0x77);
    assert!(
        (0..64).all(|_| yielder.poll(false).is_none()),
        "no name for it"
    );
    assert_eq!(yielder.stats().reasons, [0, 0, 0, 0, 2, 1]);
}

#[test]
fn the_accelerator_sees_who_runs_and_probes() {
    let firmware = Firmware::new();
    firmware.set_state(1, CoreState::Lent, 3);
    firmware.set_lends(1, 42);
    let telemetry = Telemetry::open_from(&firmware.source).unwrap().unwrap();
    assert!(!telemetry.is_lent(0));
    assert!(telemetry.is_lent(1));
    assert!(!telemetry.is_lent(2), "no such core");
    assert_eq!(telemetry.cores().len(), 2);
    assert_eq!(telemetry.cores()[1].lends(), 42);
    assert_eq!(telemetry.vcpus().len(), 1);
    firmware.set_state(1, CoreState::Native, 0);
    assert!(!telemetry.is_lent(1));

    let control = Control::open_from(&firmware.source).unwrap().unwrap();
    control.probe(1);
    assert_eq!(firmware.probed(), 1);
}

#[test]
fn what_is_not_ours_is_refused_with_its_name() {
    let firmware = Firmware::new();
    firmware.break_doorbell();
    let error = Yielder::open_from(&firmware.source, TUNING).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Foreign {
                window: "doorbell",
                found: 0x0bad,
                ..
            }
        ),
        "{error}"
    );

    let firmware = Firmware::new();
    firmware.break_telemetry();
    let error = Yielder::open_from(&firmware.source, TUNING).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Foreign {
                window: "telemetry",
                found: 0x0bad,
                ..
            }
        ),
        "{error}"
    );

    let firmware = Firmware::new();
    firmware.set_core_count(1 << 20);
    let error = Telemetry::open_from(&firmware.source).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Foreign {
                window: "telemetry",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_short_property_and_a_missing_memory_file_are_named() {
    let firmware = Firmware::new();
    fs::write(&firmware.source.reg, [0; 16]).unwrap();
    let error = Yielder::open_from(&firmware.source, TUNING).unwrap_err();
    assert!(matches!(error, Error::Reg { length: 16, .. }), "{error}");

    let firmware = Firmware::new();
    let source = Source {
        memory: "/nonexistent/mem".into(),
        ..firmware.source.clone()
    };
    let error = Yielder::open_from(&source, TUNING).unwrap_err();
    assert!(matches!(&error, Error::File { path, .. } if path == Path::new("/nonexistent/mem")));
    assert!(
        error.to_string().contains("CONFIG_DEVMEM"),
        "says what to do: {error}"
    );
}

#[test]
fn a_copy_of_the_window_tells_the_same() {
    let firmware = Firmware::new();
    firmware.set_state(1, CoreState::Lent, 0);
    let copy = firmware.copy_with_epitaph("reason: a test\n");
    let telemetry = Telemetry::open_copy(&copy).unwrap();
    assert!(telemetry.is_lent(1));
    assert_eq!(telemetry.vcpus().len(), 1);
    let (age, text) = telemetry.epitaph().unwrap();
    assert_eq!((age, text.as_str()), (2, "reason: a test\n"));
    let window = Telemetry::open_from(&firmware.source).unwrap().unwrap();
    assert_eq!(window.epitaph(), None);
    firmware.break_telemetry();
    let broken = firmware.copy_with_epitaph("");
    assert!(Telemetry::open_copy(&broken).is_err());
}
