// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the measuring guests print: `bench NAME COUNT most M equal E of N`.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

/// A measured count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Instructions: the smallest of all rounds.
    pub least: u64,
    /// The greatest of all rounds.
    pub most: u64,
    /// Rounds that agree with the smallest.
    pub equal: u64,
    /// All rounds.
    pub rounds: u64,
}

/// Counts by their names.
pub type Counts = BTreeMap<String, Count>;

/// Reads a guest's output.
///
/// # Errors
/// Where the guest says `FAIL` or panics, prints a line that can't be read, or
/// counts nothing.
pub fn read(output: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    for line in output.lines().map(str::trim) {
        if line.starts_with("FAIL") {
            bail!("the guest says: {line}");
        }
        if let Some(rest) = line.strip_prefix("bench ") {
            let Some((name, count)) = entry(rest) else {
                bail!("the guest's line can't be read: {line}");
            };
            counts.insert(name.to_owned(), count);
        }
    }
    ensure!(!counts.is_empty(), "the guest counted nothing:\n{output}");
    Ok(counts)
}

fn entry(rest: &str) -> Option<(&str, Count)> {
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let [name, least, "most", most, "equal", equal, "of", rounds] = words[..] else {
        return None;
    };
    let count = Count {
        least: least.parse().ok()?,
        most: most.parse().ok()?,
        equal: equal.parse().ok()?,
        rounds: rounds.parse().ok()?,
    };
    Some((name, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_among_others_are_read() {
        let text = "probe: 2 cores\r\nbench null-trap 97 most 120 equal 63 of 64\r\nok bench\r\n";
        let counts = read(text).unwrap();
        let want = Count {
            least: 97,
            most: 120,
            equal: 63,
            rounds: 64,
        };
        assert_eq!(
            counts.into_iter().collect::<Vec<_>>(),
            [("null-trap".to_owned(), want)]
        );
    }

    #[test]
    fn failures_and_nonsense_are_errors() {
        for wrong in [
            "",
            "ok bench\n",
            "bench null-trap none: no round counted\n",
            "bench a 1 most 1 equal 1 of 1\nFAIL panic: why\n",
            "bench a x most 1 equal 1 of 1\n",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
