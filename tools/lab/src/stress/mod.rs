// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Scenarios that tests run shortly and a stress run (`cargo xtask stress`) for
//! long, each on one machine after the other.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::cache::Cache;
use crate::guest;
use crate::kernel::Kernel;
use crate::progress;

pub mod convoys;
pub mod devices;
pub mod features;
pub mod health;
pub mod locks;
pub mod matrix;
pub mod power;
pub mod probe;
pub mod saturation;
pub mod scene;
pub mod storm;
pub mod table;
pub mod time;

use health::Bare;
pub use matrix::Row;
pub use scene::{Job, Scene};
pub use table::{Entry, Table};

/// All scenes.
pub const SCENES: [&dyn Scene; 8] = [
    &storm::Storm,
    &power::Hotplug,
    &features::Features,
    &power::Kexec,
    &power::Crash,
    &time::Steal,
    &saturation::Saturation,
    &probe::Chaos,
];

/// What a user wants of a stress run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long it takes, builds and downloads not counted.
    pub time: Duration,
    /// Only this scene.
    pub scene: Option<String>,
    /// Only under this kernel.
    pub kernel: Option<Kernel>,
    /// The first pass's; each further pass has one more.
    pub seed: u64,
    /// After so many passes it is enough, even if time is left.
    pub passes: u64,
}

impl Settings {
    fn wants(&self, row: &Row) -> bool {
        let scene = self.scene.as_ref().is_none_or(|s| s == row.scene.name());
        scene && self.kernel.as_ref().is_none_or(|k| *k == row.kernel)
    }
}

/// Where the Markdown and the findings of the last run are.
pub fn directory() -> PathBuf {
    build::target_directory().join("stress")
}

/// Runs `scenes` under their kernels until the time is over, telling of each row as
/// it ends, and writes what it found to [`directory`].
///
/// # Errors
/// Where nothing fits the settings, or the firmware can't be built. What is wrong
/// with a guest is in the table.
pub fn run(scenes: &[&'static dyn Scene], settings: &Settings) -> Result<Table> {
    let pass = |seed| {
        let mut rows = matrix::pass(scenes, seed);
        rows.retain(|row| settings.wants(row));
        rows
    };
    ensure!(
        !pass(settings.seed).is_empty(),
        "no such row; scenes are {}; kernels of one are {}",
        scenes
            .iter()
            .map(|s| s.name())
            .collect::<Vec<_>>()
            .join(", "),
        Kernel::USAGE
    );
    let directory = directory();
    // Findings of another run would look like this one's.
    if directory.is_dir() {
        fs::remove_dir_all(&directory).context("removing the last stress run's findings")?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let cache = Cache::open()?;
    prepare(&cache, &pass(settings.seed))?;

    let passes = usize::try_from(settings.passes).unwrap_or(usize::MAX);
    let mut bare = Bare::default();
    let mut table = Table::default();
    let end = Instant::now() + settings.time;
    'passes: for seed in (settings.seed..).take(passes) {
        let rows = pass(seed);
        let mut left_out = 0;
        for (n, row) in rows.iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            let Some(time) = matrix::share(row.scene, left, rows.len() - n - 1) else {
                left_out += 1;
                continue;
            };
            let entry = one(&cache, row, time, &mut bare);
            if guest::interrupted() {
                table.interrupted = true;
                break 'passes;
            }
            progress::step(entry.line());
            if let Some(found) = entry.found() {
                let name = format!("{}-{}.txt", table.found() + 1, row.scene.name());
                fs::write(directory.join(name), found).context("writing a finding")?;
            }
            table.entries.push(entry);
        }
        if seed == settings.seed {
            table.left_out = left_out;
        }
        if left_out > 0 {
            break;
        }
    }
    fs::write(directory.join("table.md"), table.markdown()).context("writing the table")?;
    Ok(table)
}

/// Installs and builds what these rows need, so that it doesn't take their time.
fn prepare(cache: &Cache, rows: &[Row]) -> Result<()> {
    build::firmware(cache)?;
    build::programs(cache)?;
    for row in rows {
        row.kernel.image(cache)?;
    }
    Ok(())
}

fn one(cache: &Cache, row: &Row, time: Duration, bare: &mut Bare) -> Entry {
    let start = Instant::now();
    let mut job = Job::new(row.machine(), time, row.seed, bare);
    let result = row.scene.run(&mut job);
    let release = row.kernel.release(cache);
    let entry = Entry::new(row, release, start.elapsed(), job.rounds);
    match result {
        Ok(()) => entry,
        Err(error) => {
            let (first, rest) = split_line(&format!("{error:#}"));
            entry.with_finding(format!("{first} ({}){rest}", host()))
        }
    }
}

/// A text's first line, and the rest with its newline.
fn split_line(text: &str) -> (String, String) {
    let (first, rest) = text.split_at(text.find('\n').unwrap_or(text.len()));
    (first.to_owned(), rest.to_owned())
}

/// What a reader wants to know of the host where time was short.
fn host() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cpus = thread::available_parallelism().map_or(0, usize::from);
    let minute = load.split(' ').next().unwrap_or_default();
    format!("host with {cpus} CPUs, load {minute}")
}
