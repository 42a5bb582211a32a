// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How many tests passed, out of what test runners print.

use std::fmt;
use std::ops::AddAssign;

/// Numbers of tests or steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that passed.
    pub passed: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that didn't run.
    pub skipped: u64,
}

impl Counts {
    /// One that passed, or failed.
    pub fn one(passed: bool) -> Self {
        Self {
            passed: u64::from(passed),
            failed: u64::from(!passed),
            skipped: 0,
        }
    }

    /// One that didn't run.
    pub fn one_skipped() -> Self {
        Self {
            skipped: 1,
            ..Self::default()
        }
    }

    /// Reads a runner's summary line: nextest's `Summary […] N tests run: …` or
    /// the `test result: …` of cargo test. `None` for other lines.
    pub fn from_line(line: &str) -> Option<Self> {
        let line = line.trim_start();
        let rest = if line.starts_with("Summary [") {
            line.split_once("run:")?.1
        } else {
            line.strip_prefix("test result:")?
        };
        let mut counts = Self::default();
        // "(1 slow)" and the like only tell more about those that passed.
        let words: Vec<&str> = rest
            .split(|c: char| c.is_ascii_whitespace() || ",;".contains(c))
            .filter(|w| !w.is_empty())
            .collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u64>() else {
                continue;
            };
            match pair[1] {
                "passed" => counts.passed += number,
                "failed" | "timed" | "exec" => counts.failed += number,
                "skipped" | "ignored" => counts.skipped += number,
                _ => {}
            }
        }
        Some(counts)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn summaries_of_both_runners_are_read() {
        for (line, expected) in [
            (
                "     Summary [   2.1s] 17 tests run: 17 passed (1 slow), 2 skipped",
                counts(17, 0, 2),
            ),
            (
                "     Summary [   9.0s] 5/6 tests run: 2 passed, 1 failed, 2 timed out, 0 skipped",
                counts(2, 3, 0),
            ),
            (
                "test result: FAILED. 3 passed; 1 failed; 4 ignored; 0 measured; 0 filtered out",
                counts(3, 1, 4),
            ),
        ] {
            assert_eq!(Counts::from_line(line), Some(expected), "{line}");
        }
        assert_eq!(Counts::from_line("test one ... ok"), None);
    }

    #[test]
    fn counts_add_up() {
        let mut all = Counts::one(true);
        all += Counts::one(false);
        all += Counts::one_skipped();
        assert_eq!(all.to_string(), "1 passed, 1 failed, 1 skipped");
    }
}
