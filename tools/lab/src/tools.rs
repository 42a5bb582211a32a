// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Running programs out of the cache: each finds its own libraries, whatever
//! the host has.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::components::Component;

/// Where wrappers are in a component.
const WRAPPERS: &str = "wrap";
/// Libraries of an unpacked package.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// QEMU's system emulator for arm64, with its own loader and C library. It ends
/// when the thread that starts it ends, however that comes.
pub fn qemu(cache: &Cache) -> Command {
    let root = cache.path(Component::Qemu.directory());
    let libraries = LIBRARIES
        .map(|l| root.join(l).display().to_string())
        .join(":");
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(root.join("lib64/ld-linux-x86-64.so.2"))
        .args(["--library-path", &libraries])
        .arg(root.join("usr/bin/qemu-system-aarch64"))
        .arg("-L")
        .arg(root.join("usr/share/qemu"));
    command
}

/// The arm64 tool `name` (`gcc`, `ld`, `objcopy`, …).
pub fn cross(cache: &Cache, name: &str) -> PathBuf {
    wrapper(
        cache,
        Component::Cross,
        &format!("aarch64-linux-gnu-{name}"),
    )
}

/// `rustc` or `clippy-driver` of the firmware's Rust.
pub fn rust(cache: &Cache, name: &str) -> PathBuf {
    wrapper(cache, Component::Rust, name)
}

fn wrapper(cache: &Cache, component: Component, name: &str) -> PathBuf {
    cache.path(component.directory()).join(WRAPPERS).join(name)
}

/// Makes the wrappers of the cross tools unpacked in `root`.
///
/// # Errors
/// Where they can't be written.
pub fn wrap_cross(root: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join("usr/bin")).context("reading the cross compiler")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("aarch64-linux-gnu-") {
            names.push(name);
        }
    }
    wrap(root, &names)
}

/// Makes the wrappers of the Rust tools unpacked in `root`.
///
/// # Errors
/// Where they can't be written.
pub fn wrap_rust(root: &Path) -> Result<()> {
    wrap(root, &["rustc", "clippy-driver"].map(String::from))
}

/// Puts a script in the place of each program for the host in the unpacked
/// directory `root`/usr/`below`: it runs the program with the C library and the
/// loader in `root`, and under its own name, since some look for others beside
/// themselves.
///
/// # Errors
/// Where there is no loader, or the scripts can't be written.
pub fn wrap_in_place(root: &Path, below: &Path) -> Result<()> {
    let loader = ["lib64", "usr/lib64"]
        .map(|d| format!("{d}/ld-linux-x86-64.so.2"))
        .into_iter()
        .find(|path| root.join(path).exists())
        .with_context(|| format!("no loader in {}", root.display()))?;
    let libraries = LIBRARIES.map(|l| format!("$root/{l}")).join(":");
    let directory = root.join("usr").join(below);
    let entries = fs::read_dir(&directory);
    for entry in entries.with_context(|| format!("reading {}", directory.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            wrap_in_place(root, &below.join(&name))?;
        } else if entry.file_type()?.is_file() && is_host_program(&entry.path())? {
            let moved = below.join(format!("{name}{MOVED}"));
            fs::rename(entry.path(), root.join("usr").join(&moved))?;
            let script = format!(
                "#!/bin/sh\nself=$(readlink -f \"$0\")\nroot=${{self%/usr/*}}\n\
                 exec \"$root/{loader}\" --library-path \"{libraries}\" --argv0 \"$0\" \
                 \"$root/usr/{}\" \"$@\"\n",
                moved.display()
            );
            write_script(&entry.path(), &script)?;
        }
    }
    Ok(())
}

/// What is appended to the name of a program that has a script in its place.
const MOVED: &str = ".elf";

/// Whether a file is a program for x86-64 (ELF header, e_machine).
fn is_host_program(path: &Path) -> Result<bool> {
    let mut header = [0; 20];
    let mut file = fs::File::open(path)?;
    let whole = file.read_exact(&mut header).is_ok();
    Ok(whole && header.starts_with(b"\x7fELF") && header[18..20] == [62, 0])
}

/// A shell script per program that gives it its libraries. Scripts find the
/// component from their own path, so the cache may be moved.
fn wrap(root: &Path, names: &[String]) -> Result<()> {
    let directory = root.join(WRAPPERS);
    fs::create_dir_all(&directory)?;
    let libraries = LIBRARIES.map(|l| format!("$root/{l}")).join(":");
    for name in names {
        let script = format!(
            "#!/bin/sh\nroot=${{0%/{WRAPPERS}/*}}\n\
             LD_LIBRARY_PATH={libraries} exec \"$root/usr/bin/{name}\" \"$@\"\n"
        );
        write_script(&directory.join(name), &script)?;
    }
    Ok(())
}

fn write_script(path: &Path, script: &str) -> Result<()> {
    fs::write(path, script)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
        .with_context(|| format!("making {}", path.display()))
}
