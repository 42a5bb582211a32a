// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pointer authentication's keys: what a program signs with them tells whether it
//! still has them.
#![allow(unsafe_code)]

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What one pointer is with the code of each key, IA, IB, DA, DB and GA.
pub type Signed = [u64; 5];

/// Whether this machine has pointer authentication, addresses and generic.
pub fn there() -> bool {
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("paca")
        && std::arch::is_aarch64_feature_detected!("pacg");
    #[cfg(not(target_arch = "aarch64"))]
    return false;
}

/// Signs an address of user space by each key.
#[cfg(target_arch = "aarch64")]
pub fn sign(address: u64, modifier: u64) -> Signed {
    let [mut ia, mut ib, mut da, mut db] = [address; 4];
    let ga: u64;
    // SAFETY: arithmetic on registers; who calls this has asked whether the
    // instructions are there.
    unsafe {
        core::arch::asm!(
            ".arch_extension pauth",
            "pacia {ia}, {m}", "pacib {ib}, {m}", "pacda {da}, {m}", "pacdb {db}, {m}",
            "pacga {ga}, {a}, {m}",
            ia = inout(reg) ia, ib = inout(reg) ib, da = inout(reg) da, db = inout(reg) db,
            ga = out(reg) ga, a = in(reg) address, m = in(reg) modifier,
            options(nomem, nostack, preserves_flags),
        );
    }
    [ia, ib, da, db, ga]
}

/// Takes the codes off again; a wrong one leaves another address, or ends the
/// program (FEAT_FPAC).
#[cfg(target_arch = "aarch64")]
fn authenticate(signed: Signed, modifier: u64) -> [u64; 4] {
    let [mut ia, mut ib, mut da, mut db, _] = signed;
    // SAFETY: as in `sign`.
    unsafe {
        core::arch::asm!(
            ".arch_extension pauth",
            "autia {ia}, {m}", "autib {ib}, {m}", "autda {da}, {m}", "autdb {db}, {m}",
            ia = inout(reg) ia, ib = inout(reg) ib, da = inout(reg) da, db = inout(reg) db,
            m = in(reg) modifier,
            options(nomem, nostack, preserves_flags),
        );
    }
    [ia, ib, da, db]
}

/// See above; without pointer authentication an address is its own signature.
#[cfg(not(target_arch = "aarch64"))]
pub fn sign(address: u64, _: u64) -> Signed {
    [address; 5]
}

#[cfg(not(target_arch = "aarch64"))]
fn authenticate(signed: Signed, _: u64) -> [u64; 4] {
    let [ia, ib, da, db, _] = signed;
    [ia, ib, da, db]
}

/// Addresses that are signed, all with the same modifier.
pub const ADDRESSES: [u64; 4] = [0x1000, 0x7f_1234_5678, 0x5555_0000_0040, 0xffff_8000];
/// See [`ADDRESSES`].
pub const MODIFIER: u64 = 0x0123_4567_89ab_cdef;

/// What this program's keys make of [`ADDRESSES`].
pub fn signatures() -> [Signed; 4] {
    ADDRESSES.map(|address| sign(address, MODIFIER))
}

/// Signs, and authenticates what was signed, `turns` times.
///
/// # Errors
/// A signature is not what it was, or an authenticated address not the address.
pub fn check(expected: &[Signed; 4], turns: u64) -> Result<()> {
    for _ in 0..turns {
        for (address, expected) in ADDRESSES.into_iter().zip(expected) {
            let signed = sign(address, MODIFIER);
            ensure!(
                signed == *expected,
                "keys: {address:#x} is signed {signed:x?}, not {expected:x?}"
            );
            let plain = authenticate(*expected, MODIFIER);
            ensure!(
                plain == [address; 4],
                "keys: {expected:x?} is authenticated as {plain:x?}, not {address:#x}"
            );
        }
    }
    Ok(())
}

/// Another program, this one started with `flag`, must have other keys: it prints
/// its signatures.
///
/// # Errors
/// It doesn't start, or all its signatures by one key are ours.
pub fn check_other_program(ours: &[Signed; 4], flag: &str) -> Result<()> {
    let program = std::env::current_exe().context("own program")?;
    let output = Command::new(program).arg(flag).output();
    let output = output.context("starting a program")?;
    ensure!(
        output.status.success(),
        "a program failed: {}",
        output.status
    );
    let theirs: Vec<Signed> = serde_json::from_slice(&output.stdout)?;
    for key in 0..5 {
        let differ = ours.iter().zip(&theirs).any(|(a, b)| a[key] != b[key]);
        ensure!(differ, "keys: another program has the same key {key}");
    }
    Ok(())
}
