// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ticks of the system counter and nanoseconds of core time.

use anyhow::{Result, ensure};
use taichi_dataplane::raw;

pub use taichi_dataplane::raw::ticks;

/// Converts between ticks of the system counter and nanoseconds of core time
/// (see the crate's documentation).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CoreTime {
    /// Ticks in a second.
    pub hz: u64,
    /// Nanoseconds of the clock in one of core time; 1 outside the measured
    /// mode. Positive.
    pub scale: f64,
}

impl CoreTime {
    /// This machine's counter.
    ///
    /// # Errors
    /// The scale is not a positive number.
    pub fn new(scale: f64) -> Result<Self> {
        ensure!(
            scale.is_finite() && scale > 0.0,
            "--scale {scale}: a positive number"
        );
        Ok(Self {
            hz: raw::frequency(),
            scale,
        })
    }

    /// This machine's counter and clock.
    pub fn clock() -> Self {
        Self {
            hz: raw::frequency(),
            scale: 1.0,
        }
    }

    /// Nanoseconds of core time in so many ticks, rounded down.
    pub fn ns(self, ticks: u64) -> u64 {
        (ticks as f64 * 1e9 / (self.hz as f64 * self.scale)) as u64
    }

    /// Ticks in so many nanoseconds of core time, rounded to the nearest.
    pub fn ticks(self, ns: f64) -> u64 {
        (ns * self.scale * self.hz as f64 / 1e9).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_time_is_virtual_time_shared_among_the_cores() {
        let time = CoreTime {
            hz: 62_500_000,
            scale: 7.0,
        };
        assert_eq!(time.ns(62_500_000), 1_000_000_000 / 7);
        assert_eq!(time.ticks(3_200.0), 1_400, "3.2 us x 7 at 16 ns a tick");
        assert_eq!(time.ns(time.ticks(3_200.0)), 3_200);
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(CoreTime::new(scale).is_err(), "{scale}");
        }
    }

    #[test]
    fn the_counter_counts_at_its_frequency() {
        let time = CoreTime::clock();
        let (wall, before) = (std::time::Instant::now(), ticks());
        let mut after = ticks();
        while time.ns(after - before) < 2_000_000 {
            after = ticks();
        }
        assert!(
            wall.elapsed().as_micros() >= 1_900,
            "2 ms of ticks are 2 ms of the clock"
        );
    }
}
