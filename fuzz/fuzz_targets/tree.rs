// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No blob makes the firmware panic or loop, and what it hands to Linux is a
//! tree that can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taichi_abi::window::{Window, Windows};
use taichi_machine::config;
use taichi_machine::platform::{Loader, Platform};
use taichi_machine::tree::{Edits, edit, open};

fuzz_target!(|blob: &[u8]| {
    Loader::discover(blob);
    let platform = match Platform::discover(blob) {
        Ok(platform) => platform,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if let Ok(edited) = edit(blob, &Edits::default()) {
                open(&edited).expect("an edited tree is well-formed");
            }
            return;
        }
    };
    if let Ok(config) = config::parse(platform.options.as_deref().unwrap_or("")) {
        let _ = config.check(platform.cores.len(), 0);
    }
    let base = platform
        .free_window(0x40_0000, 0x1_0000, 1 << 40)
        .unwrap_or(0x1000_0000);
    let vcpus = platform.vcpu_names(3);
    let page = |n: u64| Window {
        base: base + n * 0x1000,
        size: 0x1000,
    };
    let edits = Edits {
        vcpus: &vcpus,
        redistributors: Some(base + 0x10_0000..base + 0x16_0000),
        stride: Some(platform.gic.stride.unwrap_or(0x2_0000)),
        firmware: base + 0x20_0000..base + 0x40_0000,
        windows: Some(Windows {
            doorbell: page(0),
            control: page(1),
            telemetry: page(2),
        }),
        no_counters: true,
    };
    if let Ok(edited) = edit(blob, &edits) {
        open(&edited).expect("an edited tree is well-formed");
        // More than 16 CPUs are no machine for us, but one for Linux.
        if platform.cores.len() + vcpus.len() <= 16 {
            let again = Platform::discover(&edited).expect("an edited tree is a machine");
            assert_eq!(again.cores[..platform.cores.len()], platform.cores);
            assert_eq!(again.cores[platform.cores.len()..], vcpus);
            assert_eq!(again.bootargs, platform.bootargs);
        }
    }
});
