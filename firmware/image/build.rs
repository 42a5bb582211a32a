// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Links the firmware by its own memory layout, position independent.

fn main() {
    println!("cargo:rerun-if-changed=image.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    for arg in [
        format!("-T{here}/image.ld"),
        "-pie".into(),
        "--no-dynamic-linker".into(),
        "--build-id=sha1".into(),
        "-zmax-page-size=4096".into(),
        "-znorelro".into(),
    ] {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
}
