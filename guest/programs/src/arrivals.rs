// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the network does: bursts of packets at random times, reproducibly.

/// A burst of packets that reach the accelerator together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, in ticks after the start.
    pub at: u64,
    /// For which ring.
    pub ring: usize,
}

/// An open loop: independent Poisson processes, one per ring, merged. Work
/// arrives when it arrives, whatever the state of the machine.
#[derive(Clone, Debug)]
pub struct Poisson {
    random: fastrand::Rng,
    rings: usize,
    /// Mean gap of the merged process, in ticks.
    gap: f64,
    now: f64,
}

impl Poisson {
    /// `gap` is the mean time between two bursts for one ring, in ticks.
    pub fn new(seed: u64, rings: usize, gap: f64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self {
            random,
            rings,
            gap: gap / rings as f64,
            now: 0.0,
        }
    }
}

impl Iterator for Poisson {
    type Item = Arrival;

    /// The next burst; there is always one.
    fn next(&mut self) -> Option<Arrival> {
        // In (0, 1], so that the logarithm is finite.
        let uniform = 1.0 - self.random.f64();
        self.now -= uniform.ln() * self.gap;
        Some(Arrival {
            at: self.now as u64,
            ring: self.random.usize(..self.rings),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_network() {
        let first = |seed| Poisson::new(seed, 4, 1000.0).take(100).collect::<Vec<_>>();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn gaps_are_exponential_with_the_mean_asked_for() {
        let (rings, gap, n) = (4, 10_000.0, 100_000);
        let all: Vec<Arrival> = Poisson::new(42, rings, gap).take(n).collect();
        assert!(all.is_sorted_by_key(|a| a.at));
        for ring in 0..rings {
            let at: Vec<u64> = all
                .iter()
                .filter(|a| a.ring == ring)
                .map(|a| a.at)
                .collect();
            let gaps: Vec<f64> = at.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            assert!(
                (mean / gap - 1.0).abs() < 0.03,
                "ring {ring}: mean gap {mean}"
            );
            let short = gaps.iter().filter(|&&g| g < gap).count() as f64 / gaps.len() as f64;
            assert!(
                (short - 0.632).abs() < 0.02,
                "ring {ring}: {short} below the mean"
            );
        }
    }
}
