// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lock convoys: a lock that is handed from CPU to CPU in order stops everybody
//! behind a vCPU that has no core. The same work is timed on the machine without
//! vCPUs and with them, in deterministic time; both machines execute all the
//! time, so that a second is the same amount of work on each.

use anyhow::{Context, Result, ensure};

use super::scene;
use crate::machine::{Cores, Machine};

/// Work that takes kernel locks, on all CPUs but the DP cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Eight processes send each other messages through sockets, in two groups:
    /// Debian's `hackbench`, with this many messages each.
    Messages(u32),
    /// Eight shells fork, this often each.
    Forks(u32),
    /// Eight shells run `ls` and `md5sum`, this often each.
    Shells(u32),
}

impl Load {
    fn command(self) -> String {
        match self {
            Self::Messages(n) => format!("hackbench -s 100 -g 2 -f 4 -l {n} >/dev/null"),
            Self::Forks(n) => shells(n, "(:)"),
            Self::Shells(n) => shells(n, "ls /usr/bin >/dev/null; md5sum /bin/busybox >/dev/null"),
        }
    }

    fn packages(self) -> Vec<String> {
        match self {
            Self::Messages(_) => vec!["rt-tests".to_owned()],
            Self::Forks(_) | Self::Shells(_) => Vec::new(),
        }
    }
}

fn shells(times: u32, body: &str) -> String {
    let eight = "1 2 3 4 5 6 7 8";
    format!(
        "for i in {eight}; do (n=0; while [ $n -lt {times} ]; do {body}; n=$((n+1)); done) & done; wait"
    )
}

/// What the kernel still does long after it has started a program.
const QUIET: &str = "cryptomgr.notests";

/// How long `load` takes in the guest, in seconds of its clock. DP cores poll
/// without end if there are any.
///
/// # Errors
/// Where the guest fails.
pub fn seconds(machine: &Machine, load: Load) -> Result<f64> {
    let machine = Machine {
        measured: true,
        spin: true,
        isolate: machine.dp != Cores::default(),
        append: format!("{} {QUIET}", machine.append),
        debs: load.packages(),
        ..machine.clone()
    };
    let dp = |cpu: &u32| machine.dp.numbers().contains(cpu);
    let all = 0..machine.cores + machine.vcpus;
    let list = |cpus: Vec<u32>| {
        let words: Vec<_> = cpus.iter().map(u32::to_string).collect();
        words.join(",")
    };
    let pollers: String = all
        .clone()
        .filter(dp)
        .map(|c| format!("taskset -c {c} sh -c 'while :; do :; done' & "))
        .collect();
    let cp = list(all.filter(|c| !dp(c)).collect());
    let script = format!(
        "{pollers} sleep 1.5; read start x </proc/uptime; taskset -c {cp} sh -c '{}'; \
         read end x </proc/uptime; echo $start $end",
        load.command()
    );
    let outcome = scene::sh(&machine, &script)?;
    let text = outcome.text();
    let times: Vec<f64> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("two times, not {text:?}"))?;
    ensure!(times.len() == 2, "two times, not {text:?}");
    Ok(times[1] - times[0])
}

/// How many times as long `load` takes with the machine's vCPUs as without.
///
/// # Errors
/// Where a guest fails.
pub fn ratio(machine: &Machine, load: Load) -> Result<f64> {
    let without = Machine {
        vcpus: 0,
        ..machine.clone()
    };
    Ok(seconds(machine, load)? / seconds(&without, load)?)
}
