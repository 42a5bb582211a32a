// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The header and the C example, compiled against the static library.

use std::path::{Path, PathBuf};
use std::process::Command;

use taichi_dataplane::Reason;

/// Compiles `source` with warnings as errors and links it with the library.
fn compile(source: &Path, out: &Path) {
    // The library is built before its integration tests, next to them.
    let deps = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    let library = newest_archive(&deps);
    let output = Command::new("cc")
        .args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-I",
        ])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg(source)
        .arg(library)
        .args(["-lpthread", "-ldl", "-lm", "-o"])
        .arg(out)
        .output()
        .expect("cc is needed, as for cargo itself");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// `deps` keeps one archive per build variant; ours was built last.
fn newest_archive(deps: &Path) -> PathBuf {
    std::fs::read_dir(deps)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            name.starts_with("libtaichi_dataplane") && name.ends_with(".a")
        })
        .max_by_key(|e| e.metadata().unwrap().modified().unwrap())
        .expect("the static library is a crate type of this package")
        .path()
}

#[test]
fn the_c_example_runs_inert_without_firmware() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("poller");
    compile(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/poller.c"),
        &program,
    );
    let output = Command::new(&program).arg("100000").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "no firmware: never yields\n100000 polls, 0 yields\n");
}

#[test]
fn the_headers_numbers_are_the_abi_crates() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("numbers.c");
    let checks = [
        ("TAICHI_NOTHING", Reason::Nothing),
        ("TAICHI_SLICE", Reason::Slice),
        ("TAICHI_INTERRUPT", Reason::Interrupt),
        ("TAICHI_PROBE", Reason::Probe),
        ("TAICHI_REFUSED", Reason::Refused),
    ]
    .map(|(name, reason)| format!("_Static_assert({name} == {}, \"{name}\");\n", reason as u64));
    let main = "int main(void) { taichi_close(NULL); return 0; }\n";
    std::fs::write(
        &source,
        format!("#include \"taichi.h\"\n{}{main}", checks.concat()),
    )
    .unwrap();
    let program = dir.path().join("numbers");
    compile(&source, &program);
    assert!(Command::new(&program).status().unwrap().success());
}
