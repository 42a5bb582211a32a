// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Critical sections: how long they are to be, and what a lock's history says.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};

use crate::accel::{Section, Totals};
use crate::report::SectionsOn;
use crate::time::CoreTime;

/// Lengths of sections and how often each comes: `NS:WEIGHT,…`.
#[derive(Clone, Debug, PartialEq)]
pub struct Lengths(Vec<(f64, u32)>);

impl Lengths {
    /// A random one, in ns.
    pub fn draw(&self, random: &mut fastrand::Rng) -> f64 {
        let all: u32 = self.0.iter().map(|&(_, weight)| weight).sum();
        let mut at = random.u32(..all);
        for &(ns, weight) in &self.0 {
            if at < weight {
                return ns;
            }
            at -= weight;
        }
        unreachable!("a number below the sum of the weights")
    }
}

impl FromStr for Lengths {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let pair = |part: &str| {
            let (ns, weight) = part.split_once(':')?;
            Some((ns.parse::<f64>().ok()?, weight.parse::<u32>().ok()?))
        };
        let pairs: Option<Vec<_>> = text.split(',').map(pair).collect();
        let pairs = pairs.with_context(|| format!("{text:?}: write NS:WEIGHT,NS:WEIGHT"))?;
        ensure!(
            pairs.iter().all(|(ns, _)| ns.is_finite() && *ns > 0.0),
            "{text:?}: lengths are positive"
        );
        let all = pairs.iter().try_fold(0u32, |sum, p| sum.checked_add(p.1));
        ensure!(
            all.is_some_and(|all| all > 0),
            "{text:?}: weights add up to nothing, or too much"
        );
        Ok(Self(pairs))
    }
}

/// What a section was to last and did, in ticks.
impl Section {
    /// What was asked for.
    pub fn asked_ticks(&self) -> u64 {
        self.commands * self.command_ticks
    }

    /// From the lock's begin to its end.
    pub fn held_ticks(&self) -> u64 {
        self.released.saturating_sub(self.acquired)
    }

    /// Held longer than asked: time without a core.
    pub fn over_ticks(&self) -> u64 {
        self.held_ticks().saturating_sub(self.asked_ticks())
    }
}

/// One lock's sections, in its own order.
#[derive(Debug)]
pub struct History(Vec<Section>);

impl History {
    /// Of all sections that its users ran.
    pub fn new(mut sections: Vec<Section>) -> Self {
        sections.sort_by_key(|s| s.serial);
        Self(sections)
    }

    /// Whether the lock let one in after the other: what is wrong, if anything
    /// is. `before` and `after` are its totals around the sections.
    pub fn check(&self, before: &Totals, after: &Totals) -> Vec<String> {
        let mut wrong = Vec::new();
        let (count, driver) = (self.0.len() as u64, after.sections - before.sections);
        if count != driver {
            wrong.push(format!("{count} sections ran, the driver counted {driver}"));
        }
        if after.overlaps != before.overlaps {
            let overlaps = after.overlaps - before.overlaps;
            wrong.push(format!("{overlaps} sections found another one inside"));
        }
        let numbers = self.0.iter().zip(before.sections..);
        if let Some((s, n)) = numbers.into_iter().find(|(s, n)| s.serial != *n) {
            wrong.push(format!(
                "section {n} is missing, or {} came twice",
                s.serial
            ));
        }
        if let Some(pair) = self.0.windows(2).find(|p| p[1].acquired < p[0].released) {
            wrong.push(format!("two at once: {pair:?}"));
        }
        if let Some(short) = self.0.iter().find(|s| s.held_ticks() < s.asked_ticks()) {
            wrong.push(format!("shorter than its device's work: {short:?}"));
        }
        wrong
    }

    /// Adds up what its users saw.
    pub fn add_to(&self, by_cpu: &mut BTreeMap<usize, SectionsOn>, time: CoreTime) {
        let handovers = self.handovers();
        for (n, (s, handover)) in self.0.iter().zip(handovers).enumerate() {
            let on = by_cpu.entry(s.last_cpu as usize).or_default();
            let longest = |field: &mut u64, ticks| *field = (*field).max(time.ns(ticks));
            on.sections += 1;
            on.asked_ns += time.ns(s.asked_ticks());
            on.held_ns += time.ns(s.held_ticks());
            longest(&mut on.longest_over_ns, s.over_ticks());
            longest(&mut on.longest_gap_ns, s.longest_gap);
            longest(&mut on.longest_wait_ns, s.acquired.saturating_sub(s.asked));
            longest(&mut on.longest_spin_on_lost_ns, self.spun_on_lost(n));
            longest(&mut on.longest_handover_ns, handover);
            for (ticks, count) in s.gaps.counts() {
                *on.gaps.entry(time.ns(ticks)).or_default() += count;
            }
        }
    }

    /// The part of the `n`th section's wait for which those before it had no
    /// core; no more than both were at the same time.
    fn spun_on_lost(&self, n: usize) -> u64 {
        let asked = self.0[n].asked;
        let before = self.0[..n].iter().rev();
        let meanwhile = before.take_while(|s| s.released > asked);
        meanwhile
            .map(|s| s.over_ticks().min(s.released - s.acquired.max(asked)))
            .sum()
    }

    /// For each section, how long the lock had been free and wanted, by whoever
    /// asked first of those who hadn't had it yet.
    fn handovers(&self) -> Vec<u64> {
        let mut asked = u64::MAX;
        let mut handovers: Vec<u64> = (0..self.0.len())
            .rev()
            .map(|n| {
                asked = asked.min(self.0[n].asked);
                let free = n.checked_sub(1).map_or(0, |last| self.0[last].released);
                self.0[n].acquired.saturating_sub(free.max(asked))
            })
            .collect();
        handovers.reverse();
        handovers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sections on CPU 0, 1, …: asked, acquired, released; each of 10 ticks.
    fn history(times: &[(u64, u64, u64)]) -> History {
        let section = |(n, &(asked, acquired, released)): (usize, &(u64, u64, u64))| Section {
            commands: 2,
            command_ticks: 5,
            serial: 7 + n as u64,
            asked,
            acquired,
            released,
            longest_gap: 1,
            last_cpu: n as u32,
            ..Section::default()
        };
        History::new(times.iter().enumerate().map(section).rev().collect())
    }

    fn totals(sections: u64, overlaps: u64) -> Totals {
        Totals {
            sections,
            overlaps,
            ..Totals::default()
        }
    }

    /// A tick is a nanosecond.
    const TIME: CoreTime = CoreTime {
        hz: 1_000_000_000,
        scale: 1.0,
    };

    #[test]
    fn a_lock_that_works_is_not_complained_about() {
        let good = history(&[(0, 0, 10), (5, 10, 20), (30, 30, 45)]);
        let wrong = good.check(&totals(7, 3), &totals(10, 3));
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn every_way_to_break_a_lock_is_noticed() {
        let good = [(0, 0, 10), (5, 10, 20)];
        let complaint = |history: History, after| {
            let wrong = history.check(&totals(7, 0), &after);
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            wrong[0].clone()
        };
        let lost = complaint(history(&good), totals(10, 0));
        assert!(lost.contains("driver counted 3"), "{lost}");
        let overlap = complaint(history(&good), totals(9, 1));
        assert!(overlap.contains("another one inside"), "{overlap}");
        let mut doubled = history(&good);
        doubled.0[1].serial = 7;
        let doubled = complaint(doubled, totals(9, 0));
        assert!(doubled.contains("section 8 is missing"), "{doubled}");
        let two = complaint(history(&[(0, 0, 10), (5, 9, 20)]), totals(9, 0));
        assert!(two.contains("two at once"), "{two}");
        let short = complaint(history(&[(0, 0, 10), (5, 10, 19)]), totals(9, 0));
        assert!(short.contains("shorter"), "{short}");
    }

    #[test]
    fn waits_are_told_apart_by_their_cause() {
        // CPU 0 loses its core for 100; CPU 1 waits for it from then on, and
        // CPU 2, which comes last, for both, and for a hand-over of 7.
        let sections = history(&[(0, 0, 110), (50, 110, 120), (115, 127, 137)]);
        let mut by_cpu = BTreeMap::new();
        sections.add_to(&mut by_cpu, TIME);
        let [a, b, c] = [0, 1, 2].map(|cpu| by_cpu[&cpu].clone());
        assert_eq!((a.sections, a.asked_ns, a.held_ns), (1, 10, 110));
        assert_eq!((a.longest_over_ns, a.longest_wait_ns), (100, 0));
        assert_eq!((b.longest_wait_ns, b.longest_spin_on_lost_ns), (60, 60));
        assert_eq!((c.longest_wait_ns, c.longest_spin_on_lost_ns), (12, 0));
        let handovers = [a, b, c].map(|on| on.longest_handover_ns);
        assert_eq!(handovers, [0, 0, 7]);
    }

    #[test]
    fn a_free_lock_that_nobody_wants_is_no_handover() {
        let idle = history(&[(0, 0, 10), (50, 52, 62), (40, 70, 80)]);
        // The third asked first and got it last: the lock was wanted from 40 on.
        assert_eq!(idle.handovers(), [0, 12, 8]);
    }

    #[test]
    fn lengths_come_as_often_as_asked() {
        let lengths: Lengths = "10:3,1000:1,5:0".parse().unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let long = (0..4000)
            .filter(|_| lengths.draw(&mut random) == 1000.0)
            .count();
        assert!((900..1100).contains(&long), "{long}");
        for text in ["", "10", "10:0", "0:1", "x:1", "inf:1", "1:4294967295,1:1"] {
            assert!(text.parse::<Lengths>().is_err(), "{text}");
        }
    }
}
