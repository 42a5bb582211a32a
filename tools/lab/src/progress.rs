// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a user sees of long work: a line per step on standard error, and a bar
//! where it takes longer and a terminal is there to show it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Prints the name of a step.
pub fn step(text: impl AsRef<str>) {
    eprintln!("taichi: {}", text.as_ref());
}

/// A bar that fills up to `length`, and goes when it is dropped or cleared.
pub fn bar(text: impl Into<String>, length: u64) -> ProgressBar {
    let text = text.into();
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("        {bar:40} {percent:>3}% {msg}") {
        bar.set_style(style);
    }
    bar.set_message(text);
    bar
}

/// A line that moves while something of unknown length happens.
pub fn spinner(text: impl Into<String>) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(text.into());
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}
