// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file that stands in for the firmware's pages.

use std::fs::{self, File};
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use taichi_abi::PAGE;
use taichi_abi::doorbell::{ID, MAGIC, Reason, YIELD};
use taichi_abi::epitaph::{self, Sum};
use taichi_abi::telemetry::{self, Core, CoreState, Header};
use taichi_abi::window::{Window, Windows};
use taichi_dataplane::Source;
use tempfile::TempDir;

const DOORBELL: u64 = 0;
const CONTROL: u64 = PAGE as u64;
const TELEMETRY: u64 = 2 * PAGE as u64;

/// A firmware with two cores and one vCPU, which answers yields with whatever
/// stands in the file.
pub struct Firmware {
    // Removed when dropped.
    _dir: TempDir,
    memory: File,
    /// How a client finds it.
    pub source: Source,
}

impl Firmware {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = Source {
            reg: dir.path().join("reg"),
            memory: dir.path().join("mem"),
        };
        let page = PAGE as u64;
        let windows = Windows {
            doorbell: Window {
                base: DOORBELL,
                size: page,
            },
            control: Window {
                base: CONTROL,
                size: page,
            },
            telemetry: Window {
                base: TELEMETRY,
                size: telemetry::SIZE as u64,
            },
        };
        fs::write(&source.reg, windows.to_reg()).unwrap();
        let memory = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&source.memory)
            .unwrap();
        memory.set_len(TELEMETRY + telemetry::SIZE as u64).unwrap();

        let firmware = Self {
            _dir: dir,
            memory,
            source,
        };
        firmware.put(DOORBELL, ID, MAGIC);
        firmware.put(TELEMETRY, offset_of!(Header, magic), telemetry::MAGIC);
        firmware.put32(offset_of!(Header, cores), 2);
        firmware.put32(offset_of!(Header, vcpus), 1);
        firmware.put32(
            offset_of!(Header, core_offset),
            telemetry::CORE_OFFSET as u32,
        );
        firmware.put32(
            offset_of!(Header, vcpu_offset),
            telemetry::VCPU_OFFSET as u32,
        );
        firmware
    }

    /// A copy of the telemetry window in a file, with an epitaph at its end.
    #[allow(dead_code, reason = "not every test that shares this module copies")]
    pub fn copy_with_epitaph(&self, text: &str) -> PathBuf {
        self.put32(offset_of!(Header, epitaph_offset), telemetry::SIZE as u32);
        let mut bytes = vec![0; telemetry::SIZE];
        self.memory.read_exact_at(&mut bytes, TELEMETRY).unwrap();
        let sum = text.bytes().fold(Sum::EMPTY, Sum::and);
        bytes.extend(epitaph::MAGIC.to_le_bytes());
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(sum.0.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.resize(telemetry::SIZE + epitaph::TEXT_OFFSET, 0);
        bytes.extend(text.bytes());
        bytes.resize(telemetry::SIZE + epitaph::BYTES, 0);
        let path = self.source.memory.with_extension("copy");
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Every yield from now on ends with this.
    pub fn answer(&self, reason: Reason) {
        self.answer_value(reason as u64);
    }

    pub fn answer_value(&self, value: u64) {
        self.put(DOORBELL, YIELD, value);
    }

    /// So many vCPUs wait for a core from now on.
    pub fn ready(&self, vcpus: u32) {
        self.put32(offset_of!(Header, ready), vcpus);
    }

    pub fn set_state(&self, core: usize, state: CoreState, vcpu: u64) {
        let at = telemetry::CORE_OFFSET + core * size_of::<Core>() + offset_of!(Core, state);
        self.put(TELEMETRY, at, state as u64 | vcpu << 8);
    }

    pub fn set_lends(&self, core: usize, lends: u64) {
        let at = telemetry::CORE_OFFSET + core * size_of::<Core>() + offset_of!(Core, reclaims);
        self.put(TELEMETRY, at, lends);
    }

    /// The core named by the last probe.
    pub fn probed(&self) -> u32 {
        let mut bytes = [0; 4];
        let at = CONTROL + taichi_abi::control::PROBE as u64;
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub fn break_telemetry(&self) {
        self.put(TELEMETRY, 0, 0x0bad);
    }

    pub fn break_doorbell(&self) {
        self.put(DOORBELL, ID, 0x0bad);
    }

    pub fn set_core_count(&self, cores: u32) {
        self.put32(offset_of!(Header, cores), cores);
    }

    fn put(&self, window: u64, offset: usize, value: u64) {
        self.memory
            .write_all_at(&value.to_le_bytes(), window + offset as u64)
            .unwrap();
    }

    fn put32(&self, offset: usize, value: u32) {
        self.memory
            .write_all_at(&value.to_le_bytes(), TELEMETRY + offset as u64)
            .unwrap();
    }
}
