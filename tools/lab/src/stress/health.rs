// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a kernel is well, by its messages.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};

use anyhow::{Context, Result, bail};

use super::scene;
use crate::guest::Outcome;
use crate::machine::Machine;

/// A shell command that prints the kernel's warnings to standard error.
pub const WARNINGS: &str = "dmesg -r | grep '^<[0-4]>' >&2; true";

/// Words in kernel messages that mean that something can't be. Complaints about
/// time ("stall", "hrtimer: interrupt took") are looked for in deterministic
/// time only: a busy host causes them on a bare machine too.
const SICK: [&str; 5] = ["BUG", "WARNING", "Oops", "Unexpected", "nobody cared"];

/// A warning of Linux 6.12 on a bare machine as well: 11 times in 200 rounds of
/// hotplug with 7 cores on a busy host.
const BARE_TOO: &str = "sched_cpu_dying";

/// Words of complaints that a guest makes when it got nothing done for 20 s: the
/// busiest of hosts is no reason.
const STALLS: [&str; 3] = ["rcu: INFO", "rcu_preempt kthread", "blocked for more than"];

/// Words of warnings about time that a busy host causes. They don't count in real
/// time.
const OF_TIME: [&str; 5] = [
    "hrtimer: interrupt took",
    "perf: interrupt took too long",
    "sched: DL replenish lagged",
    "sched: RT throttling",
    "clocksource:",
];

/// Lines before and after the first bad one that a report shows.
const CONTEXT: (usize, usize) = (5, 60);

/// Nothing if the kernel said nothing bad on its console.
///
/// # Errors
/// What it said.
pub fn check(outcome: &Outcome) -> Result<()> {
    check_for(&SICK, outcome)
}

/// Nothing if no CPU and no task of the guest stood still for many seconds.
///
/// # Errors
/// What the kernel said about it.
pub fn check_stalls(outcome: &Outcome) -> Result<()> {
    check_for(&STALLS, outcome)
}

fn check_for(words: &[&str], outcome: &Outcome) -> Result<()> {
    let lines: Vec<&str> = outcome.console.lines().collect();
    let bad = |l: &&str| words.iter().any(|s| l.contains(s)) && !l.contains(BARE_TOO);
    if let Some(at) = lines.iter().position(bad) {
        let (before, after) = CONTEXT;
        let context = &lines[at.saturating_sub(before)..lines.len().min(at + after)];
        bail!(
            "the kernel is not well: {}\n{}",
            lines[at],
            context.join("\n")
        );
    }
    Ok(())
}

/// What [`WARNINGS`] printed to standard error, without what differs from boot
/// to boot: times and numbers.
pub fn warnings(outcome: &Outcome) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(&outcome.stderr);
    let plain = |line: &str| {
        let message = line.split_once("] ").map_or(line, |(_, m)| m);
        let words = message.split(|c: char| c.is_ascii_digit());
        words
            .filter(|w| !w.is_empty())
            .collect::<Vec<_>>()
            .join("#")
    };
    text.lines().map(plain).collect()
}

/// Nothing if `ours` has no warning that `bare`, the same kernel without
/// firmware, doesn't have.
///
/// # Errors
/// The others.
pub fn check_against(ours: &Outcome, bare: &Outcome) -> Result<()> {
    none_but(&warnings(bare), &warnings(ours))
}

fn none_but(bare: &BTreeSet<String>, ours: &BTreeSet<String>) -> Result<()> {
    let new: Vec<_> = ours.difference(bare).collect();
    if let Some(first) = new.first() {
        bail!("the bare kernel doesn't print \"{first}\": {new:#?}");
    }
    Ok(())
}

/// What kernels warn of without firmware: each machine is booted bare once.
#[derive(Debug, Default)]
pub struct Bare(BTreeMap<String, BTreeSet<String>>);

impl Bare {
    /// Nothing if `outcome`, of `machine`, has no warning that the same kernel
    /// without firmware doesn't have after a short storm. In real time those about
    /// time don't count.
    ///
    /// # Errors
    /// The others; or the bare machine doesn't run.
    pub fn check(&mut self, machine: &Machine, outcome: &Outcome) -> Result<()> {
        let bare = Machine {
            bare: true,
            vcpus: 0,
            ..machine.clone()
        };
        let mut ours = warnings(outcome);
        if !machine.measured {
            ours.retain(|line| !OF_TIME.iter().any(|words| line.contains(words)));
        }
        let bare = match self.0.entry(Self::key(&bare)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let seconds = if bare.measured { "0.1" } else { "3" };
                let script = format!("storm --seconds {seconds} --programs 8 && {WARNINGS}");
                let outcome = scene::sh(&bare, &script).context("on the bare machine")?;
                place.insert(warnings(&outcome))
            }
        };
        none_but(bare, &ours)
    }

    /// What tells one bare machine from another.
    fn key(bare: &Machine) -> String {
        let Machine {
            kernel,
            cores,
            cpu,
            dp,
            isolate,
            measured,
            ..
        } = bare;
        format!("{kernel} {cores} {cpu} {dp} {isolate} {measured}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Ending;

    fn said(console: &str, stderr: &str) -> Outcome {
        Outcome {
            ending: Ending::Exit(0),
            stdout: Vec::new(),
            stderr: stderr.into(),
            console: console.to_owned(),
        }
    }

    #[test]
    fn the_first_bad_line_is_shown() {
        check(&said("a\nhrtimer: interrupt took 1 ns\n", "")).unwrap();
        check(&said("WARNING: CPU: 3 PID: 1 at x.c sched_cpu_dying+1", "")).unwrap();
        let error = check(&said("a\nwatchdog: BUG: soft lockup\nb", "")).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("\na\nwatchdog: BUG: soft lockup\nb")
        );
        let stall = said("rcu: INFO: rcu_sched self-detected stall on CPU", "");
        check(&stall).unwrap();
        check_stalls(&stall).unwrap_err();
    }

    #[test]
    fn a_bare_machine_is_known_by_what_matters() {
        let machine = |seconds, measured| Machine {
            timeout: std::time::Duration::from_secs(seconds),
            measured,
            ..Machine::default()
        };
        let mut known = Bare::default();
        known.0.insert(
            Bare::key(&machine(1, false)),
            BTreeSet::from(["lost # ticks".to_owned()]),
        );
        let said = said(
            "",
            "<4>[ 1.0] lost 7 ticks\n<4>[ 2.0] hrtimer: interrupt took 9 ns\n",
        );
        known.check(&machine(2, false), &said).unwrap();
        known
            .0
            .insert(Bare::key(&machine(1, true)), BTreeSet::new());
        let error = known.check(&machine(2, true), &said).unwrap_err();
        assert!(error.to_string().contains("hrtimer"), "{error}");
    }

    #[test]
    fn only_new_warnings_count() {
        let bare = said("", "<4>[    0.1] CPU 3 is slow\n");
        let same = said("", "<4>[   12.1] CPU 55 is slow\n");
        check_against(&same, &bare).unwrap();
        let more = said("", "<4>[    0.1] CPU 3 is slow\n<3>[ 1.0] lost 7 ticks\n");
        let error = check_against(&more, &bare).unwrap_err();
        assert!(error.to_string().contains("lost # ticks"), "{error}");
    }
}
