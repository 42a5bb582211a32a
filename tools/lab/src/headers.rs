// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The headers of Debian's kernels, with all that building a module against
//! them needs but the compiler.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::apt::{self, Apt, Package, Side};
use crate::cache::Cache;
use crate::components::{self, Component};
use crate::kernel::Kernel;
use crate::{progress, tools};

/// Goes up when the contents are made differently.
const FORMAT: &str = "1";

/// The headers of one kernel, unpacked.
#[derive(Clone, Debug)]
pub struct Headers {
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    root: PathBuf,
}

impl Headers {
    /// Those of one of Debian's kernels; installs what is missing.
    ///
    /// # Errors
    /// For another kernel, and where Debian's mirror no longer has the headers
    /// of the one that is installed.
    pub fn of(cache: &Cache, kernel: &Kernel) -> Result<Self> {
        let component = kernel.component().with_context(|| {
            format!("{kernel} is none of Debian's kernels: there are no headers for it")
        })?;
        components::ensure(cache, &[component])?;
        let release = kernel
            .release(cache)
            .with_context(|| format!("kernel {kernel} came without modules"))?;
        let name = format!("headers/{release}");
        if !cache.has(&name, FORMAT) {
            let lock = cache.lock()?;
            if !cache.has(&name, FORMAT) {
                cache
                    .install(&lock, &name, FORMAT, |root| {
                        fill(cache, component, &release, root)
                    })
                    .with_context(|| {
                        let kernel = cache.path(component.directory());
                        format!(
                            "installing the headers of kernel {release}; if Debian has replaced \
                             it, remove {} to install the new one",
                            kernel.display()
                        )
                    })?;
            }
        }
        let root = cache.path(name);
        Ok(Self { release, root })
    }

    /// The directory to build modules in (`make -C`).
    pub fn directory(&self) -> PathBuf {
        self.root.join(source(&self.release))
    }

    /// A `make`.
    pub fn make(&self) -> PathBuf {
        self.root.join("usr/bin/make")
    }
}

/// Where the package puts the headers that depend on the configuration.
fn source(release: &str) -> PathBuf {
    format!("usr/src/linux-headers-{release}").into()
}

/// The cache's lock must be held.
fn fill(cache: &Cache, kernel: Component, release: &str, root: &Path) -> Result<()> {
    let apt = Apt::open(cache)?;
    let packages = packages(&apt, kernel.suite(), release)?;
    let what = format!("the headers of kernel {release}");
    progress::step(format!("fetching and unpacking {what}"));
    let files = apt.download(Side::Host, &packages, &what)?;
    apt::unpack(&files, root, &what)?;
    finish(root, release)
}

/// The headers for arm64, and the tools for the host with their libraries.
fn packages(apt: &Apt, suite: apt::Suite, release: &str) -> Result<Vec<Package>> {
    let wanted = format!("linux-headers-{release}:arm64");
    let closure = apt.resolve(Side::Host, suite, &[&wanted])?;
    let kbuild = closure
        .iter()
        .find(|p| p.name.starts_with("linux-kbuild-"))
        .with_context(|| format!("{wanted} needs no linux-kbuild"))?;
    let mut packages = apt.resolve(Side::Host, suite, &[&kbuild.name, "make"])?;
    let headers = closure.iter().filter(|p| is_headers(&p.name));
    packages.extend(headers.cloned());
    Ok(packages)
}

fn is_headers(name: &str) -> bool {
    name.starts_with("linux-headers-")
}

/// The packages expect to be in /usr, and the host's C library to fit.
fn finish(root: &Path, release: &str) -> Result<()> {
    let makefile = root.join(source(release)).join("Makefile");
    let text = fs::read_to_string(&makefile)
        .with_context(|| format!("no headers in {}", makefile.display()))?;
    fs::write(makefile, relative(&text)?)?;
    for below in fs::read_dir(root.join("usr/lib"))? {
        let name = below?.file_name();
        if name.to_string_lossy().starts_with("linux-kbuild-") {
            tools::wrap_in_place(root, &Path::new("lib").join(name))?;
        }
    }
    tools::wrap_in_place(root, Path::new("bin"))
}

/// The one line of the Makefile, `include /usr/src/…`, without the place.
fn relative(makefile: &str) -> Result<String> {
    const OLD: &str = "include /usr/src/";
    const NEW: &str = "include $(dir $(lastword $(MAKEFILE_LIST)))../";
    ensure!(
        makefile.matches(OLD).count() == 1,
        "a kernel's headers have an unknown Makefile: {makefile:?}"
    );
    Ok(makefile.replace(OLD, NEW))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_beside_one_another() {
        let text = relative("include /usr/src/linux-headers-6.1.0-56-common/Makefile\n").unwrap();
        assert_eq!(
            text,
            "include $(dir $(lastword $(MAKEFILE_LIST)))../linux-headers-6.1.0-56-common/Makefile\n"
        );
        assert!(relative("include Kbuild\n").is_err());
    }
}
