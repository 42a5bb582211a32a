// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The directory that everything the lab needs is unpacked into.
//!
//! Nothing outside of it is changed. A component is a directory with a
//! [`STAMP`]; it appears by a rename, so an interrupted set-up leaves either all
//! of it or none.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The file in a component that says what it was made from.
pub const STAMP: &str = ".stamp";

/// The cache directory of one user.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// Held while one process sets up; others wait for it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Cache {
    /// Opens `$TAICHI_CACHE`, else `taichi` in the XDG cache directory, and
    /// makes it where it is missing.
    ///
    /// # Errors
    /// Without any of `TAICHI_CACHE`, `XDG_CACHE_HOME` and `HOME`, and where
    /// the directory can't be made.
    pub fn open() -> Result<Self> {
        let var = |name| {
            env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let root = var("TAICHI_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|p| p.join("taichi")))
            .or_else(|| var("HOME").map(|p| p.join(".cache/taichi")));
        let Some(root) = root else {
            bail!("no place for the cache: set TAICHI_CACHE to a directory");
        };
        fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
        let root = root
            .canonicalize()
            .with_context(|| format!("{}", root.display()))?;
        Ok(Self { root })
    }

    /// A path inside.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// Whether component `name` is there and was made from `key`.
    pub fn has(&self, name: &str, key: &str) -> bool {
        fs::read_to_string(self.path(name).join(STAMP)).is_ok_and(|stamp| stamp == key)
    }

    /// Waits until no other process sets up, and keeps others out.
    ///
    /// # Errors
    /// Where the lock file can't be made or locked.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.path("lock");
        let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("taichi: waiting for another set-up to finish");
            file.lock()
                .with_context(|| format!("locking {}", path.display()))?;
        }
        Ok(Lock { _file: file })
    }

    /// Makes component `name`: `fill` gets an empty directory, which takes the
    /// component's place once `fill` has succeeded. The lock must be held.
    ///
    /// # Errors
    /// Whatever `fill` returns, and failures to move the directory.
    pub fn install(
        &self,
        _lock: &Lock,
        name: &str,
        key: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let (target, new, old) = (self.path(name), self.path("new"), self.path("old"));
        for leftover in [&new, &old] {
            remove(leftover)?;
        }
        fs::create_dir_all(&new).with_context(|| format!("making {}", new.display()))?;
        fill(&new)?;
        fs::write(new.join(STAMP), key).context("writing a stamp")?;
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        if target.exists() {
            fs::rename(&target, &old)?;
        }
        fs::rename(&new, &target).with_context(|| format!("making {}", target.display()))?;
        remove(&old)
    }
}

/// Removes a directory tree that may not be there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dir: &tempfile::TempDir) -> Cache {
        Cache {
            root: dir.path().to_path_buf(),
        }
    }

    #[test]
    fn a_failed_installation_leaves_the_old_component() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir);
        let lock = cache.lock().unwrap();
        cache
            .install(&lock, "x", "one", |d| Ok(fs::write(d.join("f"), "1")?))
            .unwrap();
        assert!(cache.has("x", "one") && !cache.has("x", "two"));

        let failed = cache.install(&lock, "x", "two", |d| {
            fs::write(d.join("f"), "2")?;
            bail!("interrupted")
        });
        assert!(failed.is_err());
        assert!(cache.has("x", "one"));
        assert_eq!(fs::read_to_string(cache.path("x/f")).unwrap(), "1");

        cache
            .install(&lock, "x", "two", |d| Ok(fs::write(d.join("f"), "2")?))
            .unwrap();
        assert!(cache.has("x", "two"));
        assert_eq!(fs::read_to_string(cache.path("x/f")).unwrap(), "2");
    }
}
