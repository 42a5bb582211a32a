// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The steps themselves.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::install::{DENY, FUZZ};
use super::{Run, book};
use crate::build::{self, BARE, LINUX};
use crate::cache::Cache;
use crate::tools;

/// Packages that are built for the bare-metal target.
const BARE_PACKAGES: [&str; 2] = ["taichi-image", "taichi-probe"];
/// Packages that are built for the guest's Linux.
const LINUX_PACKAGES: [&str; 2] = ["taichi-guest", "taichi-kvm-peer"];
/// How long each fuzz target runs, in seconds.
const FUZZ_SECONDS: u32 = 20;

/// Formatting, lints, dependencies, the book.
pub fn source(run: &mut Run) {
    run.step("formatting", |_| Ok(cargo(&["fmt", "--all", "--check"])));
    run.step("clippy", |_| {
        Ok(cargo(&[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-Dwarnings",
        ]))
    });
    for (target, packages) in [(BARE, BARE_PACKAGES), (LINUX, LINUX_PACKAGES)] {
        for package in packages {
            run.step(&format!("clippy of {package} for {target}"), |cache| {
                clippy(cache, target, package, &[])
            });
        }
    }
    run.step(
        "clippy of the firmware that a guest can make die",
        |cache| clippy(cache, BARE, "taichi-image", &["--features=faults"]),
    );
    run.step("licences and sources of dependencies", |cache| {
        deny(cache, &["check", "licenses", "bans", "sources"])
    });
    // The database is a repository, which not every machine can reach that
    // reaches crates.io.
    if deny(&run.cache, &["fetch", "db"]).is_ok_and(has) {
        run.step("advisories against dependencies", |cache| {
            deny(cache, &["check", "--disable-fetch", "advisories"])
        });
    } else {
        run.skip(
            "advisories against dependencies",
            "the RustSec database can't be fetched from GitHub",
        );
    }
    run.check("the book", book::check);
}

/// Tests of the host: units, documentation, the model checker, Miri.
pub fn host(run: &mut Run) {
    run.tests("host tests", |_| Ok(runner(&["--workspace"], None)));
    run.tests("documentation tests", |_| {
        Ok(cargo(&["test", "--workspace", "--doc"]))
    });
    run.tests("model checking of the hand-over", |_| {
        let mut command = runner(
            &[
                "--package",
                "taichi-sched",
                "--release",
                "--test",
                "handover_loom",
            ],
            None,
        );
        command.env("RUSTFLAGS", "--cfg loom");
        command.env("CARGO_TARGET_DIR", build::target_directory().join("loom"));
        Ok(command)
    });
    if has(nightly(&["miri", "--version"])) {
        let mut miri = nightly(&["miri", "test", "--package", "taichi-dataplane", "--lib"]);
        miri.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        miri.env("CARGO_TARGET_DIR", build::target_directory().join("miri"));
        run.tests("Miri", |_| Ok(miri));
    } else {
        run.skip(
            "Miri",
            "no nightly toolchain with it; rustup +nightly component add miri",
        );
    }
}

/// Each fuzz target for a short while.
pub fn fuzz(run: &mut Run) {
    let targets = fuzz_targets();
    if targets.is_empty() {
        return run.skip("fuzzing", "no targets in fuzz/");
    }
    if !has(nightly(&["--version"])) {
        return run.skip(
            "fuzzing",
            "no nightly toolchain; rustup toolchain install nightly",
        );
    }
    for target in targets {
        run.step(&format!("fuzzing {target} for {FUZZ_SECONDS} s"), |cache| {
            let corpus = build::workspace().join("fuzz/corpus").join(&target);
            fs::create_dir_all(&corpus).context("making a fuzz corpus")?;
            let mut command = Command::new(FUZZ.ensure(cache)?);
            without_host(&mut command).env("RUSTUP_TOOLCHAIN", "nightly");
            command.args(["run", &target]).arg(corpus);
            let seeds = build::workspace().join("firmware/machine/tests/data");
            if target == "tree" && seeds.is_dir() {
                command.arg(seeds);
            }
            command.args([
                "--",
                &format!("-max_total_time={FUZZ_SECONDS}"),
                "-verbosity=0",
            ]);
            command.env("CARGO_TARGET_DIR", build::target_directory().join("fuzz"));
            Ok(command)
        });
    }
}

/// The tests that boot QEMU, two at a time.
pub fn guests(run: &mut Run) {
    run.tests("tests in QEMU", |cache| {
        // Once, before tests wait for it with their clocks running.
        build::firmware(cache)?;
        build::mortal_firmware(cache)?;
        build::probe(cache)?;
        build::programs(cache)?;
        let test = [
            "--package",
            "taichi-lab",
            "--features",
            "guest",
            "--test",
            "*",
        ];
        Ok(runner(&test, Some("guest")))
    });
}

/// The host's cargo.
fn cargo(args: &[&str]) -> Command {
    let mut cargo = build::host_cargo();
    cargo.args(args);
    cargo
}

/// nextest where it is installed, else cargo's own runner; `profile` is one of
/// .config/nextest.toml.
fn runner(args: &[&str], profile: Option<&str>) -> Command {
    if has(cargo(&["nextest", "--version"])) {
        let mut command = cargo(&["nextest", "run", "--no-fail-fast"]);
        command.args(["--status-level", "slow", "--final-status-level", "fail"]);
        command
            .args(profile.map(|p| format!("--profile={p}")))
            .args(args);
        return command;
    }
    eprintln!("taichi: no cargo-nextest (cargo install cargo-nextest); using cargo test");
    let mut command = cargo(&["test", "--no-fail-fast"]);
    command.args(args);
    if args.contains(&"--workspace") {
        // Documentation tests have a step of their own.
        command.args(["--lib", "--bins", "--tests"]);
    }
    if profile.is_some() {
        command.args(["--", "--test-threads=2"]);
    }
    command
}

/// clippy of the compiler that builds the firmware.
fn clippy(cache: &Cache, target: &str, package: &str, features: &[&str]) -> Result<Command> {
    let mut command = build::cargo(cache, target)?;
    if build::host_has(target) {
        command.args(["clippy", "--package", package, "--profile=firmware"]);
        command.args(features).args(["--", "-Dwarnings"]);
        return Ok(command);
    }
    // What cargo-clippy does, which would take the host's clippy.
    command.args(["check", "--package", package, "--profile=firmware"]);
    command.args(features);
    command.env(
        "RUSTC_WORKSPACE_WRAPPER",
        tools::rust(cache, "clippy-driver"),
    );
    command.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
    Ok(command)
}

/// cargo-deny, quick to say that a host can't be reached.
fn deny(cache: &Cache, args: &[&str]) -> Result<Command> {
    let mut command = Command::new("timeout");
    command.arg("60").arg(DENY.ensure(cache)?).args(args);
    command.current_dir(build::workspace());
    Ok(command)
}

/// The nightly toolchain's cargo, by rustup.
fn nightly(args: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    without_host(&mut cargo).arg("+nightly").args(args);
    cargo
}

/// A command in the workspace that knows nothing of the toolchain that built us.
fn without_host(command: &mut Command) -> &mut Command {
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    command.current_dir(build::workspace())
}

/// Whether a command runs and succeeds.
fn has(mut command: Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// The names of the files in fuzz/fuzz_targets.
fn fuzz_targets() -> Vec<String> {
    let directory = build::workspace().join("fuzz/fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}
