// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Command lines of the guest programs: `--name VALUE` and `--flag`.

use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};

/// A program's options, taken one by one.
#[derive(Debug)]
pub struct Options(pico_args::Arguments);

impl Options {
    /// From a list without the program's name.
    pub fn new(args: Vec<OsString>) -> Self {
        Self(pico_args::Arguments::from_vec(args))
    }

    /// Whether `name` was given.
    pub fn flag(&mut self, name: &'static str) -> bool {
        self.0.contains(name)
    }

    /// The value of `name`, if it was given.
    ///
    /// # Errors
    /// The value is missing or can't be read.
    pub fn optional<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Result<Option<T>> {
        self.0
            .opt_value_from_str(name)
            .map_err(|error| anyhow!("{name}: {error}"))
    }

    /// The value of `name`, or a default.
    ///
    /// # Errors
    /// The value is missing or can't be read.
    pub fn value<T: FromStr<Err: Display>>(&mut self, name: &'static str, default: T) -> Result<T> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// The value of `name`.
    ///
    /// # Errors
    /// It was not given or can't be read.
    pub fn required<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Result<T> {
        self.optional(name)?
            .ok_or_else(|| anyhow!("{name} is needed; see --help"))
    }

    /// # Errors
    /// Something was given that nobody took.
    pub fn finish(self) -> Result<()> {
        match self.0.finish().as_slice() {
            [] => Ok(()),
            [first, ..] => bail!("{}: unknown option; see --help", first.to_string_lossy()),
        }
    }
}

/// A program's main function: prints `help` on `--help`, else runs `run`; an
/// error goes to stderr with the program's name and exits with 1.
pub fn main(name: &str, help: &str, run: impl FnOnce(Options) -> Result<()>) -> ExitCode {
    let mut options = Options::new(std::env::args_os().skip(1).collect());
    if options.flag("--help") {
        println!("{}", help.trim_end());
        return ExitCode::SUCCESS;
    }
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        Options::new(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn values_flags_and_defaults() {
        let mut o = options("--seed 7 --no-probe");
        assert!(o.flag("--no-probe"));
        assert_eq!(o.value("--seed", 1).unwrap(), 7);
        assert_eq!(o.value("--load", 0.3).unwrap(), 0.3);
        o.finish().unwrap();
    }

    #[test]
    fn mistakes_are_named() {
        let error = options("--seed x").value("--seed", 1u64).unwrap_err();
        assert!(error.to_string().starts_with("--seed: "), "{error}");
        let error = options("").required::<u64>("--ring").unwrap_err();
        assert!(error.to_string().contains("--ring is needed"), "{error}");
        let error = options("--sede 7").finish().unwrap_err();
        assert!(error.to_string().contains("--sede"), "{error}");
    }
}
