// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Running programs out of the cache: each finds its own libraries, whatever
//! the host has.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

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

/// Runs the arm64 `objcopy`.
///
/// # Errors
/// What it complains of.
pub fn objcopy<A: AsRef<OsStr>>(
    cache: &Cache,
    arguments: impl IntoIterator<Item = A>,
) -> Result<()> {
    let out = Command::new(cross(cache, "objcopy"))
        .args(arguments)
        .output()
        .context("running objcopy")?;
    ensure!(
        out.status.success(),
        "objcopy: {}",
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(())
}

/// The directory of the arm64 tools, under their full names.
pub fn cross_directory(cache: &Cache) -> PathBuf {
    cache.path(Component::Cross.directory()).join(WRAPPERS)
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
/// `root`: it runs the program with the C library and the loader in `root`, and
/// under its own name, since some look for others beside themselves.
///
/// # Errors
/// Where there is no loader, or the scripts can't be written.
pub fn wrap_in_place(root: &Path) -> Result<()> {
    let loader = ["lib64", "usr/lib64"]
        .map(|d| format!("{d}/ld-linux-x86-64.so.2"))
        .into_iter()
        .find(|path| root.join(path).exists())
        .with_context(|| format!("no loader in {}", root.display()))?;
    let libraries = LIBRARIES.map(|l| format!("$root/{l}")).join(":");
    for path in host_programs(&root.join("usr"))? {
        let mut moved = path.clone().into_os_string();
        moved.push(MOVED);
        fs::rename(&path, &moved)?;
        let below = Path::new(&moved).strip_prefix(root)?;
        let script = format!(
            "#!/bin/sh\nself=$(readlink -f \"$0\")\nroot=${{self%/usr/*}}\n\
             exec \"$root/{loader}\" --library-path \"{libraries}\" --argv0 \"$0\" \
             \"$root/{}\" \"$@\"\n",
            below.display()
        );
        write_script(&path, &script)?;
    }
    Ok(())
}

/// All programs for the host below `directory`.
fn host_programs(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(directory);
    for entry in entries.with_context(|| format!("reading {}", directory.display()))? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() && !LIBRARIES.iter().any(|l| path.ends_with(l)) {
            found.extend(host_programs(&path)?);
        } else if kind.is_file() && is_host_program(&path)? {
            found.push(path);
        }
    }
    Ok(found)
}

/// What is appended to the name of a program that has a script in its place.
const MOVED: &str = ".elf";

/// Whether a file is a program for x86-64 (ELF header, e_machine). Libraries
/// aren't executable.
fn is_host_program(path: &Path) -> Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.permissions().mode() & 0o111 == 0 {
        return Ok(false);
    }
    let mut header = [0; 20];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_program_runs_under_its_own_name() {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &[u8], mode| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        };
        let mut elf = b"\x7fELF".to_vec();
        elf.resize(18, 0);
        elf.extend([62, 0]);
        // In place of a loader: tells how it was called.
        put(
            "lib64/ld-linux-x86-64.so.2",
            b"#!/bin/sh\necho \"$@\"\n",
            0o755,
        );
        let program = put("usr/lib/kbuild/tool", &elf, 0o755);
        let library = put("usr/lib/x86_64-linux-gnu/libx.so", &elf, 0o755);
        let plugin = put("usr/libexec/plugin.so", &elf, 0o644);
        let script = put("usr/bin/script", b"#!/bin/sh\n", 0o755);
        wrap_in_place(root.path()).unwrap();
        for same in [&library, &plugin] {
            assert_eq!(fs::read(same).unwrap(), elf);
        }
        assert_eq!(fs::read(script).unwrap(), b"#!/bin/sh\n");

        let link = root.path().join("elsewhere");
        std::os::unix::fs::symlink(&program, &link).unwrap();
        let out = Command::new(&link).args(["a b", "c"]).output().unwrap();
        let (root, link) = (root.path().canonicalize().unwrap(), link.display());
        let root = root.display();
        assert_eq!(
            String::from_utf8(out.stdout).unwrap(),
            format!(
                "--library-path {root}/usr/lib/x86_64-linux-gnu:{root}/lib/x86_64-linux-gnu \
                 --argv0 {link} {root}/usr/lib/kbuild/tool.elf a b c\n"
            )
        );
    }
}
