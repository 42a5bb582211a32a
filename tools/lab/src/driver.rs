// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The test driver (`guest/driver`): a kernel module, built for each kernel
//! against Debian's headers.

use std::env;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cache::Cache;
use crate::components::{self, Component};
use crate::headers::Headers;
use crate::kernel::{Kernel, Module};
use crate::{build, progress, tools};

/// The module's name.
pub const NAME: &str = "taichi_accel";

/// What it is built from.
const SOURCES: [&str; 3] = ["Kbuild", "taichi_accel.c", "taichi_accel.h"];
/// The file that says what the module beside it was built from.
const KEY: &str = "built-from";

/// Whether a user means this module; `-` and `_` are one, as for the kernel.
pub fn is_named(name: &str) -> bool {
    name.replace('-', "_") == NAME
}

/// The module for `kernel`; installs and builds what is missing.
///
/// # Errors
/// For a kernel that isn't Debian's, and where set-up or the build fails.
pub fn module(cache: &Cache, kernel: &Kernel) -> Result<Module> {
    let headers = Headers::of(cache, kernel).context("building the test driver")?;
    components::ensure(cache, &[Component::Cross])?;
    let directory = build::target_directory()
        .join("driver")
        .join(&headers.release);
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    // Tests run at the same time, in processes of their own.
    let lock = File::create(directory.join("lock"))?;
    lock.lock().context("waiting for another build")?;

    let file = directory.join(format!("{NAME}.ko"));
    let key = copy_sources(&directory)?;
    if !file.exists() || fs::read_to_string(directory.join(KEY)).ok().as_ref() != Some(&key) {
        make(cache, &headers, &directory)?;
        // A guest unpacks it in memory at every boot: no debugging information.
        tools::objcopy(cache, [Path::new("--strip-debug"), &file])?;
        fs::write(directory.join(KEY), key)?;
    }
    Ok(Module {
        name: NAME.to_owned(),
        bytes: fs::read(&file).with_context(|| format!("reading {}", file.display()))?,
    })
}

/// Copies the sources, for the kernel's makefiles build where they are.
/// Returns all their text.
fn copy_sources(directory: &Path) -> Result<String> {
    let from = build::workspace().join("guest/driver");
    let mut all = String::new();
    for name in SOURCES {
        let path = from.join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        fs::write(directory.join(name), &text)?;
        all += &text;
    }
    Ok(all)
}

fn make(cache: &Cache, headers: &Headers, directory: &Path) -> Result<()> {
    let ours = [headers.programs(), tools::cross_directory(cache)];
    let hosts = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(ours.into_iter().chain(env::split_paths(&hosts)))?;
    let program = headers.programs().join("make");
    let spinner = progress::spinner(format!("building the driver for {}", headers.release));
    let out = Command::new(&program)
        .arg("-C")
        .arg(headers.directory())
        .arg(format!("M={}", directory.display()))
        .args(["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"])
        // Type information needs a tool more, and nobody reads it.
        .args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
        .env("PATH", path)
        // A jobserver of a make above us is not for this one.
        .env_remove("MAKEFLAGS")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    spinner.finish_and_clear();
    ensure!(
        out.status.success(),
        "building the test driver for {} failed\n{}{}",
        headers.release,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(())
}
