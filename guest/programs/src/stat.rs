// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What Linux counts of each CPU's time (/proc/stat), in steps of 10 ms.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// Linux's USER_HZ, the unit of /proc/stat, in ns.
const JIFFY_NS: u64 = 10_000_000;

/// One CPU's time since boot, in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Work: of programs, of the kernel, of interrupts.
    pub busy_ns: u64,
    /// Time that it could have worked, and others had its core.
    pub stolen_ns: u64,
}

/// All CPUs that are online.
///
/// # Errors
/// Linux doesn't say, or in a form that we don't know.
pub fn read() -> Result<BTreeMap<usize, CpuTime>> {
    parse(&fs::read_to_string("/proc/stat").context("/proc/stat")?)
}

/// The columns are user, nice, system, idle, iowait, irq, softirq, steal, guest…
fn parse(stat: &str) -> Result<BTreeMap<usize, CpuTime>> {
    let lines = stat.lines().filter_map(|l| l.strip_prefix("cpu"));
    let cpus = lines.filter(|l| !l.starts_with(' '));
    cpus.map(|line| {
        let numbers = line.split_whitespace().map(str::parse);
        let numbers: Result<Vec<u64>, _> = numbers.collect();
        let numbers = numbers.context("/proc/stat in an unknown form")?;
        let [cpu, user, nice, system, _, _, irq, softirq, steal, ..] = numbers[..] else {
            anyhow::bail!("/proc/stat in an unknown form: cpu{line}");
        };
        let time = CpuTime {
            busy_ns: (user + nice + system + irq + softirq) * JIFFY_NS,
            stolen_ns: steal * JIFFY_NS,
        };
        Ok((cpu as usize, time))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_told_apart() {
        let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu12 0 0 0 0 0 0 0 1 0 0\nintr 7\n";
        let times = parse(stat).unwrap();
        assert_eq!(times.keys().copied().collect::<Vec<_>>(), [0, 12]);
        assert_eq!(times[&0].busy_ns, (1 + 2 + 3 + 6 + 7) * JIFFY_NS);
        assert_eq!(times[&12].stolen_ns, JIFFY_NS);
        assert!(parse("cpu0 1 2 3\n").is_err());
    }
}
