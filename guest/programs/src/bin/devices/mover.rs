// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sends interrupts to CPUs and looks where they come.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use taichi_guest::interrupts::{self, Interrupt};
use taichi_guest::time::ticks;

use crate::watch::Shared;

/// How often an interrupt must come once it goes where it should.
const ENOUGH: u64 = 3;
/// Of these one may still have been on its way to where it went before.
const LATE: u64 = 1;

/// How much is to be done.
pub struct Plan {
    pub rounds: u64,
    pub ticks: u64,
}

/// How often each interrupt was sent to each CPU.
pub type Sent = BTreeMap<u32, BTreeMap<usize, u64>>;

/// Sends interrupts to CPUs.
pub struct Mover<'a> {
    pub shared: &'a Shared,
    pub cpus: &'a [usize],
    pub cores: usize,
    /// Nobody else does.
    pub alone: bool,
    pub random: fastrand::Rng,
    pub sent: Sent,
}

impl Mover<'_> {
    pub fn run(&mut self, lines: &[u32], plan: &Plan) -> Result<()> {
        let start = ticks();
        let mut round = 0;
        while round < plan.rounds || ticks() - start < plan.ticks {
            self.round(lines)?;
            round += 1;
        }
        Ok(())
    }

    /// Each interrupt goes to each CPU once, all at a time, in random order.
    fn round(&mut self, lines: &[u32]) -> Result<()> {
        let orders: Vec<Vec<usize>> = lines
            .iter()
            .map(|_| {
                let mut order = self.cpus.to_vec();
                self.random.shuffle(&mut order);
                order
            })
            .collect();
        for step in 0..self.cpus.len() {
            let mut goes = BTreeMap::new();
            for (&number, order) in lines.iter().zip(&orders) {
                let cpu = order[step];
                let cpu = if interrupts::send_to(number, cpu)? {
                    if self.alone {
                        interrupts::goes_to(number, cpu)?;
                    }
                    cpu
                } else {
                    // Linux's own: it was spread over the CPUs once and for all.
                    let fixed = interrupts::receivers(number)?;
                    let &[cpu] = fixed.as_slice() else {
                        bail!("interrupt {number} goes to CPUs {fixed}");
                    };
                    cpu
                };
                goes.insert(number, cpu);
            }
            self.arrive(&goes)?;
            for (number, cpu) in goes {
                *self.sent.entry(number).or_default().entry(cpu).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Waits until each interrupt has come, often enough, where it goes, and checks
    /// that it came nowhere else.
    fn arrive(&self, goes: &BTreeMap<u32, usize>) -> Result<()> {
        let before = interrupts::all()?;
        let mut late: BTreeSet<u32> = goes.keys().copied().collect();
        let mut now = BTreeMap::new();
        let waited = self.shared.until("an interrupt", || {
            now = interrupts::all()?;
            late.retain(|number| {
                let came = if self.alone {
                    let at = self.receiver(goes[number]);
                    came(&now, &before, *number, at)
                } else {
                    total(&now, *number) - total(&before, *number)
                };
                came < ENOUGH
            });
            Ok(late.is_empty())
        });
        waited.with_context(|| {
            let late = late.iter().map(|number| {
                let line = &now[number];
                format!(
                    "\n{} for CPU {}: {:?}",
                    line.name, goes[number], line.counts
                )
            });
            format!("too few interrupts came: {}", late.collect::<String>())
        })?;
        for (&number, &cpu) in goes.iter().filter(|_| self.alone) {
            let at = self.receiver(cpu);
            let all = total(&now, number) - total(&before, number);
            let elsewhere = all - came(&now, &before, number, at);
            ensure!(
                elsewhere <= LATE,
                "{} was sent to CPU {cpu} and should come to CPU {at}; {elsewhere} came elsewhere: \
                 {:?}, before {:?}",
                now[&number].name,
                now[&number].counts,
                before[&number].counts
            );
        }
        Ok(())
    }

    /// The CPU at which an interrupt for `cpu` arrives.
    fn receiver(&self, cpu: usize) -> usize {
        if cpu < self.cores { cpu } else { 0 }
    }
}

type Table = BTreeMap<u32, Interrupt>;

fn total(table: &Table, number: u32) -> u64 {
    table.get(&number).map_or(0, Interrupt::total)
}

fn came(now: &Table, before: &Table, number: u32, cpu: usize) -> u64 {
    let at = |table: &Table| table.get(&number).map_or(0, |line| line.at(cpu));
    at(now) - at(before)
}
