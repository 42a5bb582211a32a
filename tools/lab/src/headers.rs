// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The headers of Debian's kernels, with what building a module against them
//! needs; kernels as old as the lab's cross compiler are built with that one.

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

    /// The directory of a `make`, and of a cross compiler where the headers
    /// need one of their own.
    pub fn programs(&self) -> PathBuf {
        self.root.join("usr/bin")
    }
}

/// Where the package puts the headers that depend on the configuration.
fn source(release: &str) -> PathBuf {
    format!("usr/src/linux-headers-{release}").into()
}

/// The cache's lock must be held.
fn fill(cache: &Cache, kernel: Component, release: &str, root: &Path) -> Result<()> {
    let apt = Apt::open(cache, kernel.suite())?;
    let packages = packages(&apt, release)?;
    let what = format!("the headers of kernel {release}");
    progress::step(format!("fetching and unpacking {what}"));
    let files = apt.download(Side::Host, &packages, &what)?;
    apt::unpack(&files, root, &what)?;
    finish(root, release)
}

/// The headers for arm64, and the tools for the host with their libraries: the
/// cross compiler too, where the headers ask for it (as of Debian 13).
fn packages(apt: &Apt, release: &str) -> Result<Vec<Package>> {
    let wanted = format!("linux-headers-{release}:arm64");
    let closure = apt.resolve(Side::Host, &[&wanted])?;
    let tools = closure
        .iter()
        .map(|p| p.name.as_str())
        .filter(|n| is_tool(n));
    let tools: Vec<&str> = tools.chain(["make"]).collect();
    let mut packages = apt.resolve(Side::Host, &tools)?;
    let headers = closure
        .iter()
        .filter(|p| p.name.starts_with("linux-headers-"));
    packages.extend(headers.cloned());
    Ok(packages)
}

/// Whether a package that headers depend on is for the host.
fn is_tool(name: &str) -> bool {
    let compiler = name.strip_prefix("gcc-");
    let compiler = compiler.and_then(|n| n.strip_suffix("-aarch64-linux-gnu"));
    let version = |v: &str| v.chars().all(|c| c.is_ascii_digit());
    name.starts_with("linux-kbuild-") || compiler.is_some_and(version)
}

/// The packages expect to be in /usr, and the host's C library to fit.
fn finish(root: &Path, release: &str) -> Result<()> {
    let makefile = root.join(source(release)).join("Makefile");
    let text = fs::read_to_string(&makefile)
        .with_context(|| format!("no headers in {}", makefile.display()))?;
    fs::write(makefile, relative(&text)?)?;
    tools::wrap_in_place(root)
}

/// The Makefile, which names directories in /usr/src, with those beside its own.
fn relative(makefile: &str) -> Result<String> {
    const PLACE: &str = "beside := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))..)\n";
    ensure!(
        makefile.contains("include /usr/src/"),
        "a kernel's headers have an unknown Makefile: {makefile:?}"
    );
    Ok(PLACE.to_owned() + &makefile.replace("/usr/src/", "$(beside)/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_beside_one_another() {
        let text = "KBUILD_OUTPUT=/usr/src/linux-headers-7-arm64\n\
                    include /usr/src/linux-headers-7-common/Makefile\n";
        let (place, rest) = relative(text).unwrap().split_once('\n').map(owned).unwrap();
        assert!(place.starts_with("beside := "), "{place}");
        assert_eq!(
            rest,
            "KBUILD_OUTPUT=$(beside)/linux-headers-7-arm64\n\
             include $(beside)/linux-headers-7-common/Makefile\n"
        );
        assert!(relative("include Kbuild\n").is_err());
    }

    fn owned((a, b): (&str, &str)) -> (String, String) {
        (a.to_owned(), b.to_owned())
    }

    #[test]
    fn tools_are_for_the_host() {
        assert!(is_tool("linux-kbuild-6.1") && is_tool("gcc-14-aarch64-linux-gnu"));
        assert!(!is_tool("gcc-14-aarch64-linux-gnu-base") && !is_tool("gcc-14-for-host"));
        assert!(!is_tool("gcc-12") && !is_tool("linux-headers-6.1"));
    }
}
