// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ticks of the system counter and nanoseconds of core time.

use taichi_dataplane::raw;

pub use taichi_dataplane::raw::ticks;

/// Converts between ticks of the system counter and nanoseconds of core time
/// (see the crate's documentation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreTime {
    /// Ticks in a second.
    pub hz: u64,
    /// Cores that share virtual time; 1 outside the measured mode.
    pub scale: u64,
}

impl CoreTime {
    /// This machine's counter. A scale of 0 counts as 1.
    pub fn new(scale: u64) -> Self {
        Self {
            hz: raw::frequency(),
            scale: scale.max(1),
        }
    }

    /// Nanoseconds of core time in so many ticks, rounded down.
    pub fn ns(self, ticks: u64) -> u64 {
        let ns = u128::from(ticks) * 1_000_000_000 / (u128::from(self.hz) * u128::from(self.scale));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Ticks in so many nanoseconds of core time, rounded to the nearest.
    pub fn ticks(self, ns: f64) -> u64 {
        (ns * self.scale as f64 * self.hz as f64 / 1e9).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_time_is_virtual_time_shared_among_the_cores() {
        let time = CoreTime {
            hz: 62_500_000,
            scale: 7,
        };
        assert_eq!(time.ns(62_500_000), 1_000_000_000 / 7);
        assert_eq!(time.ticks(3_200.0), 1_400, "3.2 us x 7 at 16 ns a tick");
        assert_eq!(time.ns(time.ticks(3_200.0)), 3_200);
        assert_eq!(
            CoreTime {
                hz: 1_000_000_000,
                scale: 1
            }
            .ns(u64::MAX),
            u64::MAX
        );
    }

    #[test]
    fn the_counter_counts_at_its_frequency() {
        let time = CoreTime::new(0);
        assert_eq!(time.scale, 1);
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
