// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sets of Linux CPUs, as `0-3,7`, and where threads may run.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::CpuSet;

/// Where Linux says which CPUs are online.
pub const ONLINE: &str = "/sys/devices/system/cpu/online";

/// CPU numbers, ascending, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus(Vec<usize>);

impl Cpus {
    /// One CPU.
    pub fn one(cpu: usize) -> Self {
        Self(vec![cpu])
    }

    /// All that are online now, isolated ones included.
    ///
    /// # Errors
    /// Linux doesn't say.
    pub fn online() -> Result<Self> {
        std::fs::read_to_string(ONLINE).context(ONLINE)?.parse()
    }

    /// The numbers.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is one of them.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.binary_search(&cpu).is_ok()
    }

    /// Lets the calling thread, and what it starts from now on, run on these
    /// only. When it returns the thread runs on one of them.
    ///
    /// # Errors
    /// None of them is online, or Linux refuses.
    pub fn pin(&self) -> Result<()> {
        let mut set = CpuSet::new();
        for &cpu in &self.0 {
            if cpu >= CpuSet::MAX_CPU {
                bail!("CPU {cpu}: Linux counts to {}", CpuSet::MAX_CPU);
            }
            set.set(cpu);
        }
        rustix::thread::sched_setaffinity(None, &set)
            .with_context(|| format!("cannot run on CPUs {self}"))
    }
}

/// The CPU that the calling thread runs on.
pub fn current() -> usize {
    rustix::thread::sched_getcpu()
}

impl FromIterator<usize> for Cpus {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        let mut cpus: Vec<usize> = numbers.into_iter().collect();
        cpus.sort_unstable();
        cpus.dedup();
        Self(cpus)
    }
}

impl FromStr for Cpus {
    type Err = anyhow::Error;

    fn from_str(list: &str) -> Result<Self> {
        let mut cpus = Vec::new();
        for part in list.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                text.trim()
                    .parse::<usize>()
                    .map_err(|_| anyhow!("{list:?}: {text:?} is no CPU"))
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last || last >= CpuSet::MAX_CPU {
                bail!("{list:?}: {part} is no range of CPUs");
            }
            cpus.extend(first..=last);
        }
        cpus.sort_unstable();
        cpus.dedup();
        Ok(Self(cpus))
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match range {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_round_trip_in_linuxs_form() {
        for (list, numbers, shown) in [
            ("0-3,7\n", vec![0, 1, 2, 3, 7], "0-3,7"),
            ("5", vec![5], "5"),
            ("7,0,1,0", vec![0, 1, 7], "0-1,7"),
            ("", vec![], ""),
        ] {
            let cpus: Cpus = list.parse().unwrap();
            assert_eq!(cpus.as_slice(), numbers);
            assert_eq!(cpus.to_string(), shown);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for list in ["a", "3-1", "1-", "-2", "0-99999999", "1;2"] {
            assert!(list.parse::<Cpus>().is_err(), "{list}");
        }
    }

    #[test]
    fn a_pinned_thread_runs_where_it_should() {
        let all = Cpus::online().unwrap();
        std::thread::spawn(move || {
            for &cpu in all.as_slice() {
                Cpus::one(cpu).pin().unwrap();
                assert_eq!(current(), cpu);
            }
            let absent = all.as_slice().last().unwrap() + 1;
            assert!(
                Cpus::one(absent).pin().is_err(),
                "CPU {absent} is not there"
            );
        })
        .join()
        .unwrap();
    }
}
