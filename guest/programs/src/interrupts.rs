// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Linux's interrupts: how many came to which CPU, and to which CPU they go.

use std::collections::BTreeMap;
use std::{fs, io};

use anyhow::{Context, Result, ensure};

use crate::cpus::Cpus;

const COUNTS: &str = "/proc/interrupts";
/// Words that stand between an interrupt's controller and its name.
const TRIGGERS: [&str; 2] = ["Edge", "Level"];

/// One numbered line of /proc/interrupts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Linux's number.
    pub number: u32,
    /// How often it came, by CPU (those that are online).
    pub counts: BTreeMap<usize, u64>,
    /// The controller, its number there and how it is triggered.
    pub source: String,
    /// Who handles it; several with commas between.
    pub name: String,
}

impl Interrupt {
    /// How often it came to `cpu`.
    pub fn at(&self, cpu: usize) -> u64 {
        self.counts.get(&cpu).copied().unwrap_or(0)
    }

    /// How often it came.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// All that have a number, by it.
///
/// # Errors
/// /proc/interrupts can't be read.
pub fn all() -> Result<BTreeMap<u32, Interrupt>> {
    let text = fs::read_to_string(COUNTS).context(COUNTS)?;
    let (header, lines) = text.split_once('\n').context("no line in it")?;
    let cpus = header.split_whitespace().map(|w| w.strip_prefix("CPU"));
    let cpus: Option<Vec<usize>> = cpus.map(|w| w?.parse().ok()).collect();
    let cpus = cpus.with_context(|| format!("{COUNTS} starts with {header:?}"))?;
    let lines = lines.lines().filter_map(|line| one(line, &cpus));
    Ok(lines.map(|one| (one.number, one)).collect())
}

/// A line, if it is a numbered interrupt's.
fn one(line: &str, cpus: &[usize]) -> Option<Interrupt> {
    let (number, rest) = line.split_once(':')?;
    let mut words = rest.split_whitespace();
    let counts = cpus
        .iter()
        .map(|&cpu| Some((cpu, words.next()?.parse().ok()?)))
        .collect::<Option<_>>()?;
    let words: Vec<_> = words.collect();
    let name = words.iter().position(|w| TRIGGERS.contains(w))? + 1;
    Some(Interrupt {
        number: number.trim().parse().ok()?,
        counts,
        source: words[..name].join(" "),
        name: words[name..].join(" "),
    })
}

/// What Linux answers where only Linux may: 6.1, and 6.12.
const MANAGED: [i32; 2] = [libc::EIO, libc::EPERM];
const WANTED: &str = "smp_affinity_list";

fn file(number: u32, name: &str) -> String {
    format!("/proc/irq/{number}/{name}")
}

/// Sends interrupt `number` to `cpu` alone. `false` if only Linux may move it (a
/// "managed" one).
///
/// # Errors
/// Linux refuses for another reason.
pub fn send_to(number: u32, cpu: usize) -> Result<bool> {
    let affinity = file(number, WANTED);
    match fs::write(&affinity, cpu.to_string()) {
        Err(error) if error.raw_os_error().is_some_and(|e| MANAGED.contains(&e)) => {
            return Ok(false);
        }
        other => other.with_context(|| format!("{cpu} to {affinity}"))?,
    }
    Ok(true)
}

/// Checks that Linux says that interrupt `number` goes to `cpu` alone.
///
/// # Errors
/// It says something else.
pub fn goes_to(number: u32, cpu: usize) -> Result<()> {
    let asked = Cpus::one(cpu);
    let (wanted, effective) = (read(&file(number, WANTED))?, receivers(number)?);
    ensure!(
        wanted == asked && effective == asked,
        "interrupt {number} was sent to CPU {cpu}; Linux says {wanted}, and {effective} in effect"
    );
    Ok(())
}

/// The CPUs that an interrupt goes to.
///
/// # Errors
/// Linux doesn't say.
pub fn receivers(number: u32) -> Result<Cpus> {
    read(&file(number, "effective_affinity_list"))
}

fn read(path: &str) -> Result<Cpus> {
    let text: io::Result<String> = fs::read_to_string(path);
    text.with_context(|| path.to_owned())?.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_kernels_are_read() {
        let cpus = [0, 2];
        let line = " 14:  5  7   ITS-MSI 16384 Edge      virtio0-req.0, virtio3";
        let msi = one(line, &cpus).unwrap();
        assert_eq!((msi.number, msi.at(0), msi.at(2), msi.at(1)), (14, 5, 7, 0));
        assert_eq!(msi.total(), 12);
        assert_eq!(msi.source, "ITS-MSI 16384 Edge");
        assert_eq!(msi.name, "virtio0-req.0, virtio3");
        let spi = one("47: 1 2 GICv3  78 Level  virtio4", &cpus).unwrap();
        assert_eq!(
            (spi.source.as_str(), spi.name.as_str()),
            ("GICv3 78 Level", "virtio4")
        );
        for other in ["IPI0: 1 2 Rescheduling interrupts", "Err: 0", "5: 1"] {
            assert_eq!(one(other, &cpus), None, "{other}");
        }
    }
}
