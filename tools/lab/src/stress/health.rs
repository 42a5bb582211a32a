// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a kernel is well, by its messages.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::guest::Outcome;

/// A shell command that prints the kernel's warnings to standard error.
pub const WARNINGS: &str = "dmesg -r | grep '^<[0-4]>' >&2; true";

/// Words in kernel messages that mean that something can't be. Complaints about
/// time ("stall", "hrtimer: interrupt took") are looked for in deterministic
/// time only: a busy host causes them on a bare machine too.
const SICK: [&str; 4] = ["BUG", "WARNING", "Oops", "Unexpected"];

/// A warning of Linux 6.12 on a bare machine as well: 11 times in 200 rounds of
/// hotplug with 7 cores on a busy host.
const BARE_TOO: &str = "sched_cpu_dying";

/// Lines before and after the first bad one that a report shows.
const CONTEXT: (usize, usize) = (5, 60);

/// Nothing if the kernel said nothing bad on its console.
///
/// # Errors
/// What it said.
pub fn check(outcome: &Outcome) -> Result<()> {
    let lines: Vec<&str> = outcome.console.lines().collect();
    let sick = |l: &&str| SICK.iter().any(|s| l.contains(s)) && !l.contains(BARE_TOO);
    if let Some(at) = lines.iter().position(sick) {
        let (before, after) = CONTEXT;
        let context = &lines[at.saturating_sub(before)..lines.len().min(at + after)];
        bail!("the kernel is not well:\n{}", context.join("\n"));
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
    let (ours, bare) = (warnings(ours), warnings(bare));
    let new: Vec<_> = ours.difference(&bare).collect();
    if !new.is_empty() {
        bail!("the bare kernel doesn't print {new:#?}");
    }
    Ok(())
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
                .ends_with("a\nwatchdog: BUG: soft lockup\nb")
        );
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
