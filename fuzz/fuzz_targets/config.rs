// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No text makes the grammar panic; options cut out of a command line are
//! those that stood there; what is accepted keeps the limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taichi_machine::config::{MAX_VCPUS, find_in_bootargs, parse};

fuzz_target!(|text: &str| {
    match parse(text) {
        Ok(config) => {
            assert!(config.vcpus <= MAX_VCPUS);
            assert!((1_000..=1_000_000_000).contains(&config.slice_ns));
            assert!((config.slice_ns..=10_000_000_000).contains(&config.slice_max_ns));
            assert!((100_000..=10_000_000_000).contains(&config.patience_ns));
            assert!((1_000..=1_000_000_000).contains(&config.look_ns));
            for cores in 0..=16 {
                if config.check(cores, 0).is_ok() {
                    assert!(config.dp.iter().all(|core| core < cores));
                    assert!(config.vcpus == 0 || !config.dp.contains(0));
                }
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Some((words, range)) = find_in_bootargs(text) {
        assert!(text[range.clone()].contains(words));
        let rest = [&text[..range.start], &text[range.end..]].concat();
        assert!(rest.len() < text.len());
        let _ = parse(words);
    }
});
