// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a stress run did and found, as text and as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use super::Row;
use crate::bench::table::lay_out;
use crate::kernel::Kernel;

/// The columns' headings.
const HEADINGS: [&str; 8] = [
    "scene",
    "kernel",
    "CPU model",
    "cores + vCPUs",
    "seed",
    "seconds",
    "rounds",
    "found",
];
/// Characters of a finding's first line that the list shows.
const LINE: usize = 300;

/// One row that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The first five columns.
    cells: [String; 5],
    /// How the row calls itself.
    title: String,
    /// How long it ran.
    time: Duration,
    /// Rounds that it made.
    rounds: u64,
    /// What was wrong: all of it.
    found: Option<String>,
}

impl Entry {
    /// A row that ran for so long and made so many rounds. `release`: what the
    /// kernel calls itself.
    pub fn new(row: &Row, release: Option<String>, time: Duration, rounds: u64) -> Self {
        // A name that moves on says what it stood for.
        let kernel = match (&row.kernel, release) {
            (Kernel::DebianNewest, Some(release)) => {
                let version = release.split(['+', '-']).next().unwrap_or_default();
                format!("{} ({version})", row.kernel)
            }
            (kernel, _) => kernel.to_string(),
        };
        Self {
            cells: [
                row.scene.name().to_owned(),
                kernel,
                row.cpu.to_owned(),
                row.shape.to_string(),
                row.seed.to_string(),
            ],
            title: row.to_string(),
            time,
            rounds,
            found: None,
        }
    }

    /// With what was wrong.
    pub fn with_finding(mut self, found: String) -> Self {
        self.found = Some(found);
        self
    }

    /// What was wrong, all of it.
    pub fn found(&self) -> Option<&str> {
        self.found.as_deref()
    }

    /// A line that says how it went.
    pub fn line(&self) -> String {
        let Self { title, rounds, .. } = self;
        let how = self.first_line().unwrap_or_else(|| "nothing found".into());
        format!("{title}: {} s, {rounds} rounds: {how}", self.time.as_secs())
    }

    /// The beginning of what was wrong.
    fn first_line(&self) -> Option<String> {
        let line = self.found.as_ref()?.lines().next().unwrap_or_default();
        Some(line.chars().take(LINE).collect())
    }
}

/// The whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Rows, in the order in which they ran.
    pub entries: Vec<Entry>,
    /// Rows of the first pass for which no time was left.
    pub left_out: usize,
    /// Whether somebody ended it early.
    pub interrupted: bool,
}

impl Table {
    /// How many rows found something.
    pub fn found(&self) -> usize {
        self.entries.iter().filter(|e| e.found.is_some()).count()
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut out = lay_out(&self.rows());
        for (n, line) in self.findings() {
            let _ = writeln!(out, "\n{n}. {line}");
        }
        let _ = writeln!(out, "\n{}", self.summary());
        out
    }

    /// For a page of the book.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for (n, row) in self.rows().iter().enumerate() {
            let _ = writeln!(out, "| {} |", row.join(" | "));
            if n == 0 {
                let _ = writeln!(out, "|{}", " --- |".repeat(row.len()));
            }
        }
        if self.found() > 0 {
            out.push('\n');
        }
        for (n, line) in self.findings() {
            let _ = writeln!(out, "{n}. {}", line.replace('<', "&lt;"));
        }
        let _ = writeln!(out, "\n{}", self.summary());
        out
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![HEADINGS.map(String::from).to_vec()];
        let mut findings = 0;
        for entry in &self.entries {
            let mut row = entry.cells.to_vec();
            row.push(entry.time.as_secs().to_string());
            row.push(entry.rounds.to_string());
            row.push(match entry.found {
                Some(_) => {
                    findings += 1;
                    format!("see {findings}")
                }
                None => "nothing".to_owned(),
            });
            rows.push(row);
        }
        rows
    }

    /// Numbered as in the rows.
    fn findings(&self) -> impl Iterator<Item = (usize, String)> {
        let lines = self.entries.iter().filter_map(|entry| {
            let line = entry.first_line()?;
            Some(format!("{}: {line}", entry.title))
        });
        lines.enumerate().map(|(n, line)| (n + 1, line))
    }

    /// The last line.
    fn summary(&self) -> String {
        let time: Duration = self.entries.iter().map(|e| e.time).sum();
        let mut line = format!(
            "{} rows in {} min, {} with findings",
            self.entries.len(),
            time.as_secs().div_ceil(60),
            self.found()
        );
        if self.left_out > 0 {
            let _ = write!(line, "; no time was left for {} more", self.left_out);
        }
        if self.interrupted {
            line += "; ended early";
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SCENES, matrix};
    use super::*;

    fn table() -> Table {
        let rows = matrix::pass(&SCENES, 1);
        let entry = |n: usize| Entry::new(&rows[n], None, Duration::from_secs(61), 7);
        Table {
            entries: vec![
                entry(0),
                entry(1).with_finding("it <hung>\nwith details".to_owned()),
            ],
            left_out: 3,
            interrupted: true,
        }
    }

    #[test]
    fn text_has_rows_findings_and_a_summary() {
        let (table, rows) = (table(), matrix::pass(&SCENES, 1));
        let text = table.text();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("scene ") && lines[0].ends_with(" found"));
        assert!(lines[1].ends_with("nothing") && lines[2].ends_with("see 1"));
        assert_eq!(lines[4], format!("1. {}: it <hung>", rows[1]));
        assert_eq!(
            lines[6],
            "2 rows in 3 min, 1 with findings; no time was left for 3 more; ended early"
        );
        assert_eq!(table.found(), 1);
    }

    #[test]
    fn markdown_is_one_table_and_harmless() {
        let markdown = table().markdown();
        let rows: Vec<_> = markdown.lines().filter(|l| l.starts_with('|')).collect();
        assert_eq!(rows.len(), 4);
        let bars = |row: &str| row.matches('|').count();
        assert!(
            rows.iter().all(|r| bars(r) == HEADINGS.len() + 1),
            "{markdown}"
        );
        assert!(markdown.contains("it &lt;hung>") && !markdown.contains("details"));
    }

    #[test]
    fn the_newest_kernel_has_its_version() {
        let rows = matrix::pass(&SCENES, 1);
        let row = rows
            .iter()
            .find(|r| r.kernel == Kernel::DebianNewest)
            .unwrap();
        let release = Some("7.3.4+deb13-arm64".to_owned());
        let entry = Entry::new(row, release, Duration::ZERO, 0);
        assert_eq!(entry.cells[1], "newest (7.3.4)");
    }
}
