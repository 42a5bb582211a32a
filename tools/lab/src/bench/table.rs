// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A run as a table for readers, and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::micro::{PATHS, Path, Run};
use super::record::Recorded;

/// The table: one row a path, columns for now, the record, the goal, and each
/// KVM.
pub fn text(run: &Run, recorded: &Recorded) -> String {
    let mut rows = vec![heading(run)];
    rows.extend(PATHS.iter().map(|path| row(path, run, recorded)));
    rows.retain(|row| row[1..].iter().any(|cell| !cell.is_empty()));
    let mut out = lay_out(&rows);
    out.push_str(
        "\nInstructions of one core, entry and exit included; the smallest of all rounds. \
         −3: up to three too many, by the loop that the vCPU runs.\n",
    );
    out
}

fn heading(run: &Run) -> Vec<String> {
    let mut cells = ["instructions", "now", "recorded", "goal"]
        .map(String::from)
        .to_vec();
    cells.extend(run.peers.iter().map(|p| p.title.clone()));
    cells
}

fn row(path: &Path, run: &Run, recorded: &Recorded) -> Vec<String> {
    let now = run.ours.get(path.name).map(|c| c.least);
    let error = if path.error == 0 {
        String::new()
    } else {
        format!(" −{}", path.error)
    };
    let mut cells = vec![
        path.title.to_owned(),
        now.map_or_else(String::new, |n| format!("{}{error}", grouped(n))),
        recorded
            .get(path.name)
            .map_or_else(String::new, |&n| grouped(n)),
        goal(path, now),
    ];
    cells.extend(run.peers.iter().map(|peer| {
        let count = path.peer.and_then(|name| peer.counts.get(name));
        count.map_or_else(String::new, |c| grouped(c.least))
    }));
    cells
}

fn goal(path: &Path, now: Option<u64>) -> String {
    match (path.goal, now) {
        (None, _) => String::new(),
        (Some(goal), None) => format!("≤ {goal}"),
        (Some(goal), Some(now)) if now <= goal => format!("≤ {goal} ✓"),
        (Some(goal), Some(_)) => format!("≤ {goal} ✗"),
    }
}

/// Digits in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The first column to the left, the others to the right.
pub(crate) fn lay_out(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            if column == 0 {
                line += &format!("{cell}{pad}");
            } else {
                line += &format!("  {pad}{cell}");
            }
        }
        // Writing to a string can't fail.
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// The run as JSON.
pub fn json(run: &Run, recorded: &Recorded) -> Value {
    let paths = PATHS.iter().map(|path| {
        let now = run.ours.get(path.name);
        let peers = run.peers.iter().filter_map(|peer| {
            let count = peer.counts.get(path.peer?)?;
            Some((peer.title.clone(), json!(count.least)))
        });
        json!({
            "name": path.name,
            "title": path.title,
            "instructions": now.map(|c| c.least),
            "most": now.map(|c| c.most),
            "rounds": now.map(|c| c.rounds),
            "rounds_equal": now.map(|c| c.equal),
            "error": path.error,
            "recorded": recorded.get(path.name),
            "goal": path.goal,
            "kvm": peers.collect::<serde_json::Map<_, _>>(),
        })
    });
    json!({ "version": 1, "paths": paths.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::super::counts::{Count, Counts};
    use super::super::micro::Peer;
    use super::*;

    fn example() -> Run {
        let counts = |entries: &[(&str, u64)]| -> Counts {
            let count = |least| Count {
                least,
                most: least + 9,
                equal: 60,
                rounds: 64,
            };
            entries
                .iter()
                .map(|&(name, n)| (name.to_owned(), count(n)))
                .collect()
        };
        Run {
            compiler: "rustc".to_owned(),
            ours: counts(&[("null-trap", 97), ("vcpu-to-native", 301)]),
            peers: vec![Peer {
                title: "KVM 6.1 VHE".to_owned(),
                counts: counts(&[("kvm-hvc", 1490), ("kvm-mmio", 5362)]),
            }],
        }
    }

    #[test]
    fn the_table_compares_with_record_goal_and_peer() {
        let text = text(&example(), &Recorded::from([("null-trap".to_owned(), 132)]));
        let row = |title: &str| {
            let line = text.lines().find(|l| l.starts_with(title)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row("null trap "), "null trap 97 132 ≤ 100 ✓ 1,490");
        assert_eq!(
            row("vCPU → native (timer)"),
            "vCPU → native (timer) 301 −3 ≤ 300 ✗"
        );
        assert_eq!(
            row("exit to"),
            "exit to the host's user space and back 5,362"
        );
    }

    #[test]
    fn json_has_every_path() {
        let value = json(&example(), &Recorded::new());
        let paths = value["paths"].as_array().unwrap();
        assert_eq!(paths.len(), PATHS.len());
        assert_eq!(paths[0]["kvm"]["KVM 6.1 VHE"], 1490);
        assert_eq!(paths[0]["recorded"], Value::Null);
    }
}
