// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds what runs in a guest: the firmware, the probe guest and our programs.
//!
//! Where the host's Rust has the targets (rustup), it is used; else the one in
//! the cache. All builds share one target directory, because another linker or
//! compiler means building `core` again.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cache::Cache;
use crate::components::{self, Component};
use crate::{progress, tools};

/// The target of the firmware and the probe guest.
pub const BARE: &str = "aarch64-unknown-none-softfloat";
/// The target of guest programs.
pub const LINUX: &str = "aarch64-unknown-linux-gnu";

/// A bare-metal program.
#[derive(Clone, Debug)]
pub struct Image {
    /// The linked program, with symbols.
    pub elf: PathBuf,
    /// Its flat image, an arm64 Image to a loader.
    pub image: PathBuf,
}

/// Builds the firmware.
///
/// # Errors
/// Where set-up or the build fails.
pub fn firmware(cache: &Cache) -> Result<Image> {
    image(cache, "taichi-image", &[], "firmware", "taichi.img")
}

/// Builds the firmware that a guest can make die, for tests. It has a directory
/// of its own: in one, either build would replace the other's program.
///
/// # Errors
/// Where set-up or the build fails.
pub fn mortal_firmware(cache: &Cache) -> Result<Image> {
    image(
        cache,
        "taichi-image",
        &["--features=faults"],
        "firmware-faults",
        "taichi-faults.img",
    )
}

/// Builds the bare-metal test guest.
///
/// # Errors
/// Where set-up or the build fails.
pub fn probe(cache: &Cache) -> Result<Image> {
    image(cache, "taichi-probe", &[], "firmware", "probe.img")
}

/// Builds our guest programs and the command `taichi`, as far as it is of use in
/// a guest, static, and returns their files in order.
///
/// # Errors
/// Where set-up or the build fails.
pub fn programs(cache: &Cache) -> Result<Vec<PathBuf>> {
    let mut cargo = cargo(cache, LINUX)?;
    // A guest unpacks them in memory at every boot: no symbols.
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    cargo.args(["build", "--package", "taichi-guest", "--package", "taichi"]);
    cargo.args(["--no-default-features", "--bins", "--release"]);
    let mut files = executables(cargo, "the guest's programs")?;
    files.sort();
    Ok(files)
}

/// Builds the program that measures KVM, static.
///
/// # Errors
/// Where set-up or the build fails.
pub fn kvm_peer(cache: &Cache) -> Result<PathBuf> {
    let mut cargo = cargo(cache, LINUX)?;
    cargo.args(["build", "--package", "taichi-kvm-peer", "--release"]);
    let files = executables(cargo, "the KVM peer")?;
    let first = files.into_iter().next();
    first.context("taichi-kvm-peer has no program")
}

/// A cargo for `target`, with all that it needs installed; the caller adds
/// command, packages and profile.
///
/// # Errors
/// Where set-up fails.
pub fn cargo(cache: &Cache, target: &str) -> Result<Command> {
    components::ensure(cache, &[Component::Cross])?;
    let mut cargo = host_cargo();
    cargo
        .arg("--quiet")
        .args(["--config", &linker(cache, target)]);
    if target == LINUX {
        cargo.env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-Ctarget-feature=+crt-static",
        );
    }
    cargo.env("CARGO_TARGET_DIR", target_directory().join("firmware"));
    cargo.env("CARGO_BUILD_TARGET", target);
    if host_has(target) {
        return Ok(cargo);
    }
    components::ensure(cache, &[Component::Rust])?;
    cargo.env("RUSTC", tools::rust(cache, "rustc"));
    if target == BARE {
        // Debian packages no library for this target: cargo builds it.
        cargo.env("RUSTC_BOOTSTRAP", "1");
        cargo.env("CARGO_UNSTABLE_BUILD_STD", "core,alloc,compiler_builtins");
        cargo.env("CARGO_UNSTABLE_BUILD_STD_FEATURES", "compiler-builtins-mem");
    }
    Ok(cargo)
}

/// Name and version of the compiler that builds the firmware.
///
/// # Errors
/// Where it can't be run.
pub fn compiler(cache: &Cache) -> Result<String> {
    let rustc = if host_has(BARE) {
        PathBuf::from("rustc")
    } else {
        tools::rust(cache, "rustc")
    };
    let out = Command::new(rustc).arg("--version").output();
    let out = out.context("asking the firmware's compiler for its version")?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// The directory of this workspace's sources.
pub fn workspace() -> PathBuf {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    lab.ancestors().nth(2).unwrap_or(lab).to_path_buf()
}

/// Where cargo puts what it builds.
pub fn target_directory() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|d| !d.is_empty()) {
        Some(directory) => workspace().join(directory),
        None => workspace().join("target"),
    }
}

/// The cargo that runs us, in the workspace, without what it told us about our
/// own build.
pub fn host_cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_BOOTSTRAP",
    ] {
        cargo.env_remove(name);
    }
    cargo.current_dir(workspace());
    cargo
}

/// Whether the host's own Rust has the library of `target`.
pub fn host_has(target: &str) -> bool {
    let out = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(workspace())
        .output();
    out.is_ok_and(|out| {
        let sysroot = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        Path::new(&sysroot)
            .join("lib/rustlib")
            .join(target)
            .join("lib")
            .is_dir()
    })
}

/// cargo's setting of the linker.
fn linker(cache: &Cache, target: &str) -> String {
    let name = if target == BARE { "ld" } else { "gcc" };
    let path = tools::cross(cache, name);
    format!("target.{target}.linker={:?}", path.display().to_string())
}

/// Builds `package` in `directory`, and its flat image there.
fn image(
    cache: &Cache,
    package: &str,
    features: &[&str],
    directory: &str,
    name: &str,
) -> Result<Image> {
    let directory = target_directory().join(directory);
    let mut cargo = cargo(cache, BARE)?;
    cargo.env("CARGO_TARGET_DIR", &directory);
    cargo.args([
        "build",
        "--package",
        package,
        "--bins",
        "--profile",
        "firmware",
    ]);
    cargo.args(features);
    let files = executables(cargo, package)?;
    let elf = files
        .into_iter()
        .next()
        .with_context(|| format!("{package} has no program"))?;
    let image = directory.join(name);
    // Put in its place whole: another test's QEMU may be about to read it.
    let new = tempfile::NamedTempFile::new_in(&directory).context("making an image")?;
    let flat = [Path::new("-O"), Path::new("binary"), &elf, new.path()];
    tools::objcopy(cache, flat)?;
    new.persist(&image).context("replacing an image")?;
    Ok(Image { elf, image })
}

/// Runs a cargo build and returns the programs that it made.
fn executables(mut cargo: Command, what: &str) -> Result<Vec<PathBuf>> {
    let spinner = progress::spinner(format!("building {what}"));
    let out = cargo
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    spinner.finish_and_clear();
    ensure!(out.status.success(), "building {what} failed");
    let text = String::from_utf8(out.stdout).context("cargo printed no UTF-8")?;
    let messages = text
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok());
    Ok(messages
        .filter_map(|m| Some(PathBuf::from(m.get("executable")?.as_str()?)))
        .collect())
}
