// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask stress`: all scenes on all machines, for as long as one likes. The
//! work is in [`taichi_lab::stress`].

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use taichi_lab::guest;
use taichi_lab::stress::{self, SCENES, Settings};

/// What a shell expects of a program that ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Runs the command with what stands behind `stress`.
///
/// # Errors
/// Options that it doesn't know, and what [`stress::run`] can't do.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let settings = settings(args)?;
    let mut asked: Option<Instant> = None;
    ctrlc::set_handler(move || match asked {
        // Whoever asks again doesn't want to wait. A signal to the process and one
        // to its group are one question.
        Some(then) if then.elapsed() > Duration::from_secs(1) => {
            std::process::exit(INTERRUPTED.into())
        }
        Some(_) => {}
        None => {
            asked = Some(Instant::now());
            guest::interrupt();
        }
    })
    .context("waiting for ctrl-C")?;
    let table = stress::run(&SCENES, &settings)?;
    print!("{}", table.text());
    eprintln!(
        "taichi: the table as Markdown, and all of each finding: {}",
        stress::directory().display()
    );
    Ok(match (table.found(), table.interrupted) {
        (0, false) => ExitCode::SUCCESS,
        (0, true) => ExitCode::from(INTERRUPTED),
        _ => ExitCode::FAILURE,
    })
}

fn settings(args: &[String]) -> Result<Settings> {
    let mut minutes: Option<f64> = None;
    let mut settings = Settings {
        time: Duration::ZERO,
        scene: None,
        kernel: None,
        seed: 1,
        passes: u64::MAX,
    };
    for pair in args.chunks(2) {
        let [option, value] = pair else {
            bail!("{} needs a value; see cargo xtask", pair[0]);
        };
        let wrong = || format!("{option} {value}: not a number");
        match option.as_str() {
            "--minutes" => minutes = Some(value.parse().with_context(wrong)?),
            "--scene" => settings.scene = Some(value.clone()),
            "--kernel" => settings.kernel = Some(value.parse()?),
            "--seed" => settings.seed = value.parse().with_context(wrong)?,
            _ => bail!("unknown option {option}; see cargo xtask"),
        }
    }
    let minutes = minutes.context("--minutes N is needed")?;
    settings.time = Duration::try_from_secs_f64(minutes * 60.0).context("--minutes")?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Settings> {
        let words: Vec<_> = line.split(' ').map(String::from).collect();
        settings(&words)
    }

    #[test]
    fn options_are_read_and_mistakes_named() {
        let all = read("--minutes 1.5 --scene storm --kernel 6.12-rt --seed 7").unwrap();
        assert_eq!((all.time.as_secs(), all.seed), (90, 7));
        assert_eq!(all.scene.as_deref(), Some("storm"));
        for (wrong, why) in [
            ("--minutes", "needs a value"),
            ("--minutes x", "not a number"),
            ("--minutes -1", "--minutes"),
            ("--seed 1", "--minutes N is needed"),
            ("--minutes 1 --hours 1", "unknown option --hours"),
        ] {
            let error = read(wrong).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{wrong}: {error:#}");
        }
    }
}
