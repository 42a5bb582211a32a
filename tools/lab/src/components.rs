// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the lab installs into its cache, and from which packages.

use std::fs;
use std::path::Path;
use std::sync::Once;

use anyhow::{Context, Result, ensure};

use crate::apt::{self, Apt, Side, Suite};
use crate::cache::Cache;
use crate::{kernel, progress, tools};

/// Goes up when a component's contents are made differently.
const FORMAT: u32 = 1;

/// A part of the lab that is installed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// QEMU 10 and every library it loads, the C library too.
    Qemu,
    /// The compiler and binutils for arm64, and a C library to link with.
    Cross,
    /// A Rust compiler with the sources of its library, and the standard
    /// library for arm64 Linux.
    Rust,
    /// Debian's kernel 6.1 and its modules.
    Kernel61,
    /// The same with PREEMPT_RT.
    Kernel61Rt,
    /// Debian's kernel 6.12 (backports) and its modules.
    Kernel612,
    /// The same with PREEMPT_RT.
    Kernel612Rt,
    /// The newest kernel that Debian has for a stable release, and its modules.
    KernelNewest,
    /// busybox for the guest.
    Busybox,
}

/// Packages of one side and suite; `keep` picks by name from the closure.
struct Part {
    side: Side,
    suite: Suite,
    packages: &'static [&'static str],
    keep: fn(&str) -> bool,
}

impl Component {
    /// Its directory in the cache.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Cross => "cross",
            Self::Rust => "rust",
            Self::Kernel61 => "kernel-6.1",
            Self::Kernel61Rt => "kernel-6.1-rt",
            Self::Kernel612 => "kernel-6.12",
            Self::Kernel612Rt => "kernel-6.12-rt",
            Self::KernelNewest => "kernel-newest",
            Self::Busybox => "busybox",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU 10",
            Self::Cross => "the arm64 cross compiler",
            Self::Rust => "a Rust compiler for the firmware",
            Self::Kernel61 => "Debian's kernel 6.1",
            Self::Kernel61Rt => "Debian's kernel 6.1 with PREEMPT_RT",
            Self::Kernel612 => "Debian's kernel 6.12",
            Self::Kernel612Rt => "Debian's kernel 6.12 with PREEMPT_RT",
            Self::KernelNewest => "Debian's newest kernel",
            Self::Busybox => "busybox",
        }
    }

    fn parts(self) -> Vec<Part> {
        let part = |side, suite, packages, keep| Part {
            side,
            suite,
            packages,
            keep,
        };
        let kernel = |suite, packages| vec![part(Side::Guest, suite, packages, is_kernel)];
        match self {
            Self::Qemu => {
                vec![part(
                    Side::Host,
                    Suite::Backports,
                    &["qemu-system-arm"],
                    qemu_needs,
                )]
            }
            Self::Cross => vec![part(
                Side::Host,
                Suite::Stable,
                &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
                not_the_c_library,
            )],
            Self::Rust => vec![
                part(
                    Side::Host,
                    Suite::Stable,
                    &["rustc-web", "rust-web-src", "rust-web-clippy"],
                    rust_needs,
                ),
                part(
                    Side::Guest,
                    Suite::Stable,
                    &["libstd-rust-web-dev"],
                    |name| name == "libstd-rust-web-dev",
                ),
            ],
            Self::Kernel61 => kernel(Suite::Stable, &["linux-image-arm64"]),
            Self::Kernel61Rt => kernel(Suite::Stable, &["linux-image-rt-arm64"]),
            Self::Kernel612 => kernel(Suite::Backports, &["linux-image-arm64"]),
            Self::Kernel612Rt => kernel(Suite::Backports, &["linux-image-rt-arm64"]),
            Self::KernelNewest => kernel(Suite::TrixieBackports, &["linux-image-arm64"]),
            Self::Busybox => vec![part(
                Side::Guest,
                Suite::Stable,
                &["busybox-static"],
                |_| true,
            )],
        }
    }

    /// The suite that its (first) packages are from.
    pub fn suite(self) -> Suite {
        self.parts().first().map_or(Suite::Stable, |p| p.suite)
    }

    /// What the component is made from, as its stamp tells it.
    fn key(self) -> String {
        let mut key = format!("{FORMAT}");
        for p in self.parts() {
            key += &format!(" {:?} {:?} {}", p.side, p.suite, p.packages.join(" "));
        }
        key
    }

    /// Last touches after its packages were unpacked in `root`.
    fn finish(self, root: &Path) -> Result<()> {
        match self {
            Self::Qemu | Self::Busybox => Ok(()),
            Self::Cross => tools::wrap_cross(root),
            Self::Rust => {
                drop_compiler_sources(root)?;
                tools::wrap_rust(root)
            }
            Self::Kernel61 | Self::Kernel61Rt => kernel::finish(root, "6.1."),
            Self::Kernel612 | Self::Kernel612Rt => kernel::finish(root, "6.12."),
            Self::KernelNewest => kernel::finish(root, ""),
        }
    }
}

/// Users are told once where things go.
static SAY_WHERE: Once = Once::new();

/// Installs what is missing of `wanted`, printing each step; returns at once
/// where all is there.
///
/// # Errors
/// Where packages can't be had or the disk is full. What was installed stays.
pub fn ensure(cache: &Cache, wanted: &[Component]) -> Result<()> {
    let there = |c: &Component| cache.has(c.directory(), &c.key());
    if wanted.iter().all(there) {
        return Ok(());
    }
    let lock = cache.lock()?;
    let missing: Vec<_> = wanted.iter().filter(|c| !there(c)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    SAY_WHERE.call_once(|| {
        let place = cache.path("").display().to_string();
        progress::step(format!(
            "installing into {place} (nothing else on this machine changes)"
        ));
    });
    for component in missing {
        cache
            .install(&lock, component.directory(), &component.key(), |root| {
                fill(cache, *component, root)
            })
            .with_context(|| format!("installing {}", component.title()))?;
    }
    Ok(())
}

/// The cache's lock must be held.
fn fill(cache: &Cache, component: Component, root: &Path) -> Result<()> {
    let mut versions = String::new();
    for part in component.parts() {
        let apt = Apt::open(cache, part.suite)?;
        let mut packages = apt.resolve(part.side, part.packages)?;
        packages.retain(|p| (part.keep)(&p.name));
        ensure!(
            !packages.is_empty(),
            "no package fits {}",
            part.packages.join(" ")
        );
        let title = component.title();
        progress::step(format!(
            "fetching and unpacking {title}: {} packages",
            packages.len()
        ));
        let files = apt.download(part.side, &packages, title)?;
        apt::unpack(&files, root, title)?;
        for p in packages {
            versions += &format!("{}:{} {}\n", p.name, p.arch, p.version);
        }
    }
    fs::write(root.join("packages"), versions)?;
    component.finish(root)
}

/// Maintainer tools in QEMU's closure are not for us.
fn qemu_needs(name: &str) -> bool {
    ![
        "adduser",
        "passwd",
        "debconf",
        "libpam-",
        "libaudit-common",
        "libsemanage",
    ]
    .iter()
    .any(|p| name.starts_with(p))
}

/// The host's own C library loads the cross and Rust compilers: they need
/// Debian 12's or a newer one, and two must not meet in one process.
fn not_the_c_library(name: &str) -> bool {
    name != "libc6"
}

/// The host links its own programs (build scripts) with its own compiler.
fn rust_needs(name: &str) -> bool {
    let host = [
        "gcc",
        "cpp",
        "binutils",
        "libc6",
        "libc-dev",
        "linux-libc",
        "rpcsvc",
        "libgcc-12",
    ];
    not_the_c_library(name)
        && !host.iter().any(|p| name.starts_with(p))
        && (!name.ends_with("-dev") || name.starts_with("libstd-rust"))
}

/// Up to 6.12 a kernel is one package; then `-image-` depends on two with its
/// contents.
fn is_kernel(name: &str) -> bool {
    ["linux-image-", "linux-binary-", "linux-modules-"]
        .iter()
        .filter_map(|prefix| name.strip_prefix(prefix))
        .any(|rest| rest.starts_with(|c: char| c.is_numeric()))
}

/// Of rustc's sources only those of the library are built.
fn drop_compiler_sources(root: &Path) -> Result<()> {
    let sources = root.join("usr/src");
    for version in fs::read_dir(&sources).context("reading the Rust sources")? {
        for entry in fs::read_dir(version?.path())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name() != "library" {
                fs::remove_dir_all(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closures_are_cut_to_what_is_used() {
        assert!(is_kernel("linux-image-6.1.0-56-rt-arm64"));
        assert!(is_kernel("linux-modules-7.3.4+deb13-arm64"));
        assert!(!is_kernel("linux-image-arm64") && !is_kernel("linux-base"));
        assert!(rust_needs("libstd-rust-web-dev") && rust_needs("libllvm22"));
        assert!(!rust_needs("libc6-dev") && !rust_needs("libc6") && !rust_needs("gcc-12"));
        assert!(qemu_needs("libc6") && !qemu_needs("passwd"));
    }
}
