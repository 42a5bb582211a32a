// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cargo tools that the steps need, built from crates.io into the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::build;
use crate::cache::Cache;
use crate::progress;

/// A program on crates.io. The version is fixed, so that no step changes its
/// mind overnight; the host's own copy, of whatever version, isn't asked.
pub struct Tool {
    name: &'static str,
    version: &'static str,
}

/// Checks licences, sources and advisories of dependencies.
pub const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
};
/// Runs the fuzz targets.
pub const FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: "0.13.2",
};
/// Makes the book of docs/.
pub const MDBOOK: Tool = Tool {
    name: "mdbook",
    version: "0.5.4",
};

/// How the tools are built: in little time. None of them works for more than
/// seconds, so optimization (with fat LTO, as cargo-deny asks for) costs more
/// than it gives.
const FLAGS: [&str; 4] = ["--quiet", "--locked", "--debug", "--no-default-features"];

impl Tool {
    /// The tool's program; builds it first where it isn't in the cache.
    ///
    /// # Errors
    /// Where it can't be had or doesn't build.
    pub fn ensure(&self, cache: &Cache) -> Result<PathBuf> {
        let Self { name, version } = self;
        let key = format!("{name} {version} {}", FLAGS.join(" "));
        let program = cache.path(name).join("bin").join(name);
        if cache.has(name, &key) {
            return Ok(program);
        }
        let lock = cache.lock()?;
        // Who held the lock may have built it.
        if !cache.has(name, &key) {
            progress::step(format!("building {name} {version} for the cache"));
            cache.install(&lock, name, &key, |root| self.build(root))?;
        }
        Ok(program)
    }

    fn build(&self, root: &Path) -> Result<()> {
        let Self { name, version } = self;
        let spinner = progress::spinner(format!("building {name}"));
        let target = root.join("target");
        let status = build::host_cargo()
            .arg("install")
            .args(FLAGS)
            .arg(format!("{name}@{version}"))
            .arg("--root")
            .arg(root)
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .status()
            .context("running cargo install")?;
        spinner.finish_and_clear();
        ensure!(
            status.success(),
            "cargo install {name}@{version} failed (crates.io out of reach?)"
        );
        fs::remove_dir_all(&target).with_context(|| format!("removing {}", target.display()))
    }
}
