// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian arm64 packages for the guest, with all that they depend on.
//!
//! They are unpacked, not installed: maintainer scripts don't run.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::apt::{self, Apt, Side, Suite};
use crate::cache::{Cache, Lock};
use crate::cpio::Tree;
use crate::progress;

/// The file in a set that lists the directories of its packages.
const LIST: &str = "list";
/// The layout of sets and packages in the cache.
const KEY: &str = "1";

/// Adds `names` and what they need to a guest's files.
///
/// # Errors
/// Where a package doesn't exist, or can't be fetched or unpacked.
pub fn add(cache: &Cache, names: &[String], tree: &mut Tree) -> Result<()> {
    // busybox's shell prefers its own applets to programs of packages.
    let shell = (!names.is_empty()).then(|| "dash".to_owned());
    for name in names.iter().chain(&shell) {
        for directory in ensure(cache, name)? {
            tree.add(&directory, "", &unneeded)
                .with_context(|| format!("adding package {name}"))?;
        }
    }
    Ok(())
}

/// Fetches and unpacks one package's closure where that wasn't done before.
/// Packages are shared between closures.
fn ensure(cache: &Cache, name: &str) -> Result<Vec<PathBuf>> {
    let set = format!("deb-sets/{name}");
    if !cache.has(&set, KEY) {
        let lock = cache.lock()?;
        // Another process may have done it while this one waited.
        if !cache.has(&set, KEY) {
            fetch(cache, &lock, name, &set)?;
        }
    }
    let list = fs::read_to_string(cache.path(&set).join(LIST))?;
    Ok(list.lines().map(|l| cache.path(l)).collect())
}

fn fetch(cache: &Cache, lock: &Lock, name: &str, set: &str) -> Result<()> {
    let apt = Apt::open(cache, Suite::Stable)?;
    let packages = apt.resolve(Side::Guest, &[name])?;
    let directory = |p: &apt::Package| format!("debs/{}", p.directory());
    let missing: Vec<_> = packages
        .iter()
        .filter(|p| !cache.has(&directory(p), KEY))
        .cloned()
        .collect();
    progress::step(format!(
        "fetching {name} for the guest: {} packages, {} of them new",
        packages.len(),
        missing.len()
    ));
    let files = apt.download(Side::Guest, &missing, name)?;
    for (package, file) in missing.iter().zip(files) {
        cache.install(lock, &directory(package), KEY, |root| {
            apt::unpack(&[file], root, &package.name)
        })?;
    }
    let list: String = packages.iter().map(|p| directory(p) + "\n").collect();
    cache.install(lock, set, KEY, |root| Ok(fs::write(root.join(LIST), list)?))
}

/// What a guest in memory does without.
fn unneeded(path: &str) -> bool {
    let drop = ["doc", "man", "locale", "info", "lintian", "bug", "i18n"];
    path == ".stamp"
        || path == "DEBIAN"
        || path
            .strip_prefix("usr/share/")
            .is_some_and(|p| drop.contains(&p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manuals_stay_outside() {
        assert!(unneeded("usr/share/man") && unneeded(".stamp"));
        assert!(!unneeded("usr/share") && !unneeded("usr/share/python3"));
    }
}
