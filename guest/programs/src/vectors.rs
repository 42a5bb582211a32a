// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SVE's registers under a stress: filled with a pattern, left alone for a while
//! in which the thread may be moved from CPU to CPU, and compared.
#![allow(unsafe_code)]

use anyhow::{Result, ensure};

/// Bytes of the longest vector that the architecture allows.
const LONGEST: usize = 256;

/// All registers: z0 to z31, then p0 to p15 and FFR.
#[repr(C, align(16))]
#[derive(Clone, PartialEq)]
struct Registers {
    z: [u8; 32 * LONGEST],
    p: [u8; 17 * LONGEST / 8],
}

impl Registers {
    const ZERO: Self = Self {
        z: [0; 32 * LONGEST],
        p: [0; 17 * LONGEST / 8],
    };

    /// A pattern, where vectors have `length` bytes. FFR may only hold ones
    /// from the first on.
    fn pattern(random: &mut fastrand::Rng, length: usize) -> Self {
        let mut all = Self::ZERO;
        all.z[..32 * length].fill_with(|| random.u8(..));
        let p = length / 8;
        all.p[..16 * p].fill_with(|| random.u8(..));
        let first = random.usize(..=p);
        all.p[16 * p..16 * p + first].fill(0xff);
        all
    }
}

/// Whether this machine has SVE.
pub fn there() -> bool {
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("sve");
    #[cfg(not(target_arch = "aarch64"))]
    return false;
}

/// Asks for vectors of `bytes`; gives what the calling thread has got.
///
/// # Errors
/// Linux refuses.
pub fn set_length(bytes: usize) -> Result<usize> {
    const PR_SVE_SET_VL: libc::c_int = 50;
    const LENGTH: libc::c_int = 0xffff;
    // SAFETY: changes nothing but the vectors of this thread, and no Rust code
    // uses them.
    let got = unsafe { libc::prctl(PR_SVE_SET_VL, bytes) };
    let error = std::io::Error::last_os_error();
    ensure!(got > 0, "SVE: no vectors of {bytes} bytes: {error}");
    Ok((got & LENGTH) as usize)
}

/// Fills all, spins for `turns`, and compares; `length` is what
/// [`set_length`] gave this thread.
///
/// # Errors
/// A register has changed.
pub fn check(random: &mut fastrand::Rng, length: usize, turns: u64) -> Result<()> {
    let want = Registers::pattern(random, length);
    let mut got = Registers::ZERO;
    spin(&want, &mut got, turns.max(1));
    for n in 0..32 {
        let of = n * length..(n + 1) * length;
        ensure!(got.z[of.clone()] == want.z[of], "SVE: z{n} has changed");
    }
    for n in 0..17 {
        let of = n * length / 8..(n + 1) * length / 8;
        ensure!(
            got.p[of.clone()] == want.p[of],
            "SVE: {} has changed",
            if n == 16 {
                "FFR".to_owned()
            } else {
                format!("p{n}")
            }
        );
    }
    Ok(())
}

#[cfg(target_arch = "aarch64")]
fn spin(want: &Registers, got: &mut Registers, turns: u64) {
    // SAFETY: reads and writes what the two references are to, which has room
    // for the longest vectors; all registers are named below. Linux has SVE: who
    // calls this has asked for a length.
    unsafe {
        core::arch::asm!(
            ".arch_extension sve",
            "ldr p0, [{want_p}, #16, mul vl]",
            "wrffr p0.b",
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "ldr p\\n, [{want_p}, #\\n, mul vl]",
            ".endr",
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "ldr z\\n, [{want_z}, #\\n, mul vl]",
            ".endr",
            "2: subs {turns}, {turns}, #1",
            "b.ne 2b",
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "str z\\n, [{got_z}, #\\n, mul vl]",
            ".endr",
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "str p\\n, [{got_p}, #\\n, mul vl]",
            ".endr",
            "rdffr p0.b",
            "str p0, [{got_p}, #16, mul vl]",
            want_z = in(reg) want.z.as_ptr(), want_p = in(reg) want.p.as_ptr(),
            got_z = in(reg) got.z.as_mut_ptr(), got_p = in(reg) got.p.as_mut_ptr(),
            turns = inout(reg) turns => _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _,
            out("v6") _, out("v7") _, out("v8") _, out("v9") _, out("v10") _, out("v11") _,
            out("v12") _, out("v13") _, out("v14") _, out("v15") _, out("v16") _, out("v17") _,
            out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _,
            out("v30") _, out("v31") _,
            out("p0") _, out("p1") _, out("p2") _, out("p3") _, out("p4") _, out("p5") _,
            out("p6") _, out("p7") _, out("p8") _, out("p9") _, out("p10") _, out("p11") _,
            out("p12") _, out("p13") _, out("p14") _, out("p15") _, out("ffr") _,
            options(nostack),
        );
    }
}

#[cfg(not(target_arch = "aarch64"))]
fn spin(_: &Registers, _: &mut Registers, _: u64) {}
