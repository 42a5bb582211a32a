// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The last recorded run: a file in the repository, name to instructions.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::micro::Run;
use crate::build;

/// Recorded counts by name.
pub type Recorded = BTreeMap<String, u64>;

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The compiler that built the firmware: another one gives other counts.
    pub compiler: String,
    /// What was counted.
    pub counts: Recorded,
}

/// The file.
pub fn file() -> PathBuf {
    build::workspace().join("tools/lab/recorded/micro.json")
}

/// Reads the record; empty where nothing was ever recorded.
///
/// # Errors
/// Where the file is damaged.
pub fn read() -> Result<Record> {
    let path = file();
    if !path.exists() {
        return Ok(Record::default());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!(
            "{} isn't a record of counts: restore it from the repository",
            path.display()
        )
    })
}

/// Writes a run as the record. What wasn't measured keeps its place.
///
/// # Errors
/// Where the file can't be written.
pub fn write(run: &Run) -> Result<()> {
    let mut record = read()?;
    record.compiler.clone_from(&run.compiler);
    record.counts.extend(flat(run));
    let path = file();
    let text = serde_json::to_string_pretty(&record)? + "\n";
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// All counts of a run; those of a peer are `NAME @ TITLE`.
pub fn flat(run: &Run) -> Recorded {
    let ours = run
        .ours
        .iter()
        .map(|(name, count)| (name.clone(), count.least));
    let peers = run.peers.iter().flat_map(|peer| {
        let entry =
            |(name, count): (&String, &super::counts::Count)| (key(name, &peer.title), count.least);
        peer.counts.iter().map(entry)
    });
    ours.chain(peers).collect()
}

/// The record's name of a peer's count.
pub fn key(name: &str, peer: &str) -> String {
    format!("{name} @ {peer}")
}

/// Counts of ours that are higher than recorded: name, recorded, now.
pub fn worse(recorded: &Recorded, ours: &Counts) -> Vec<(String, u64, u64)> {
    ours.iter()
        .filter_map(|(name, count)| {
            let &before = recorded.get(name)?;
            (count.least > before).then(|| (name.clone(), before, count.least))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::counts::Count;
    use super::*;

    #[test]
    fn only_a_higher_count_is_worse() {
        let count = |least| Count {
            least,
            most: least,
            equal: 1,
            rounds: 1,
        };
        let recorded = Recorded::from([("a".into(), 10), ("b".into(), 10), ("gone".into(), 1)]);
        let now = Counts::from([
            ("a".to_owned(), count(11)),
            ("b".to_owned(), count(10)),
            ("new".to_owned(), count(99)),
        ]);
        assert_eq!(worse(&recorded, &now), [("a".to_owned(), 10, 11)]);
    }
}
