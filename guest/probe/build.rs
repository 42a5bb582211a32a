// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Links the guest as an arm64 `Image`; on the host there is nothing to link.

fn main() {
    println!("cargo:rerun-if-changed=image.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for arg in [
            &format!("-T{here}/image.ld"),
            "-pie",
            "--no-dynamic-linker",
            "-znotext",
            "--no-warn-rwx-segments",
        ] {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
}
