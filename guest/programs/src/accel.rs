// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The test driver's interface, as `guest/driver/taichi_accel.h` has it; a test
//! compares the two.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};

/// The driver's device.
pub const PATH: &str = "/dev/taichi-accel";
/// Devices that it drives, each with locks of its own.
pub const DEVICES: u32 = 8;

/// The kind of lock that a section takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Kind {
    /// `spin_lock`.
    Spin = 0,
    /// `spin_lock_irqsave`.
    SpinIrqsave = 1,
    /// `raw_spin_lock`, which spins on PREEMPT_RT too.
    RawSpin = 2,
    /// `mutex_lock`, then `preempt_disable`.
    Mutex = 3,
    /// None at all: shows that what a lock keeps is looked at.
    None = 4,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Spin,
        Self::SpinIrqsave,
        Self::RawSpin,
        Self::Mutex,
        Self::None,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::SpinIrqsave => "irqsave",
            Self::RawSpin => "raw",
            Self::Mutex => "mutex",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| anyhow!("{text:?}: one of spin, irqsave, raw, mutex, none"))
    }
}

/// `struct taichi_accel_section`: what is asked for, and what came of it. Times
/// are ticks of the system counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Section {
    /// In: the device, below [`DEVICES`].
    pub device: u32,
    /// In: a [`Kind`].
    pub kind: u32,
    /// In: commands given one after the other.
    pub commands: u64,
    /// In: what the device needs for one; at least 1.
    pub command_ticks: u64,
    /// The lock's how manieth section this was, from 0.
    pub serial: u64,
    /// When the lock was asked for.
    pub asked: u64,
    /// When it was held.
    pub acquired: u64,
    /// When the last command was done, just before the unlock.
    pub released: u64,
    /// The longest between two looks at the device.
    pub longest_gap: u64,
    /// The CPU on which it asked.
    pub first_cpu: u32,
    /// The CPU on which the section ended.
    pub last_cpu: u32,
    /// How often it did not look at the device for how long.
    pub gaps: Gaps,
}

/// Counts of times between two looks at the device, by length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Gaps(pub [u32; 64]);

impl Default for Gaps {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Gaps {
    /// Those that were there: the least ticks of a count, and the count.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.0.iter().enumerate();
        let there = all.filter(|(_, count)| **count > 0);
        there.map(|(n, &count)| ((4 + n as u64 % 4) << (n / 4 + 2), u64::from(count)))
    }
}

/// `struct taichi_accel_totals`: what a lock has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Totals {
    /// In: the device.
    pub device: u32,
    /// In: a [`Kind`].
    pub kind: u32,
    /// Sections that ended.
    pub sections: u64,
    /// Sections that found another one inside: 0, or the lock is broken.
    pub overlaps: u64,
}

/// Linux's `_IOWR(0xb4, number, T)` (include/uapi/asm-generic/ioctl.h).
const fn request<T>(number: u64) -> u64 {
    (3 << 30) | ((size_of::<T>() as u64) << 16) | (0xb4 << 8) | number
}

const PROGRAM: u64 = request::<Section>(1);
const TOTALS: u64 = request::<Totals>(2);

/// The driver, opened.
#[derive(Debug)]
pub struct Accel(File);

impl Accel {
    /// Opens it.
    ///
    /// # Errors
    /// It isn't loaded, or we aren't root.
    pub fn open() -> Result<Self> {
        let file = File::options().read(true).write(true).open(PATH);
        Ok(Self(file.with_context(|| {
            format!("{PATH}: load the test driver (--module taichi-accel) and be root")
        })?))
    }

    /// Runs a section; its answers are in the same structure.
    ///
    /// # Errors
    /// The driver refuses what is asked for.
    pub fn program(&self, section: &mut Section) -> Result<()> {
        // SAFETY: PROGRAM reads and writes one `struct taichi_accel_section`,
        // which `Section` is, behind the pointer, and keeps nothing of it.
        unsafe { self.ask(PROGRAM, section) }.context("a section was refused")
    }

    /// What the lock has seen.
    ///
    /// # Errors
    /// There is no such device.
    pub fn totals(&self, device: u32, kind: Kind) -> Result<Totals> {
        let mut totals = Totals {
            device,
            kind: kind as u32,
            ..Totals::default()
        };
        // SAFETY: as above, with `struct taichi_accel_totals`.
        unsafe { self.ask(TOTALS, &mut totals) }.context("reading a lock's totals")?;
        Ok(totals)
    }

    /// # Safety
    /// `request` must do no more than read and write one `T`.
    unsafe fn ask<T>(&self, request: u64, argument: &mut T) -> io::Result<()> {
        // SAFETY: the descriptor is open while `self` lives; the caller vouches
        // for the argument, which is borrowed for the length of the call.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, argument as *mut T) };
        match answer {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    const HEADER: &str = include_str!("../../driver/taichi_accel.h");

    /// Names and offsets of a structure's fields, as a C compiler places those
    /// that are aligned anyway.
    fn fields(name: &str) -> Vec<(&'static str, usize)> {
        let start = format!("struct {name} {{");
        let (_, rest) = HEADER.split_once(&start).unwrap();
        let (body, _) = rest.split_once("};").unwrap();
        let mut at = 0;
        let mut fields = Vec::new();
        for line in body.lines().map(str::trim) {
            let size = match line.split_once(' ') {
                Some(("__u32", _)) => 4,
                Some(("__u64", _)) => 8,
                _ => continue,
            };
            assert_eq!(at % size, 0, "{line} would be padded");
            let (name, _) = line[6..].split_once([';', '[']).unwrap();
            fields.push((name, at));
            let array = line
                .split_once('[')
                .and_then(|(_, rest)| rest.split_once(']'));
            at += size * array.map_or(1, |(length, _)| number(length) as usize);
        }
        fields.push(("", at));
        fields
    }

    fn number(name: &str) -> u32 {
        let line = HEADER.lines().find(|l| {
            let rest = l
                .strip_prefix("#define ")
                .and_then(|l| l.strip_prefix(name));
            rest.is_some_and(|r| r.starts_with(' '))
        });
        let word = line.unwrap().split_whitespace().nth(2);
        word.unwrap().parse().unwrap()
    }

    macro_rules! layout {
        ($type:ident: $($field:ident),*) => {
            vec![$((stringify!($field), offset_of!($type, $field)),)* ("", size_of::<$type>())]
        };
    }

    #[test]
    fn structures_are_those_of_the_header() {
        assert_eq!(
            fields("taichi_accel_section"),
            layout!(Section: device, kind, commands, command_ticks, serial, asked, acquired,
                    released, longest_gap, first_cpu, last_cpu, gaps)
        );
        assert_eq!(
            fields("taichi_accel_totals"),
            layout!(Totals: device, kind, sections, overlaps)
        );
    }

    #[test]
    fn numbers_are_those_of_the_header() {
        let kinds = ["SPIN", "SPIN_IRQSAVE", "RAW_SPIN", "MUTEX", "NONE"];
        for (kind, name) in Kind::ALL.into_iter().zip(kinds) {
            assert_eq!(number(&format!("TAICHI_ACCEL_{name}")), kind as u32);
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
        }
        assert_eq!(number("TAICHI_ACCEL_KINDS") as usize, Kind::ALL.len());
        assert_eq!(number("TAICHI_ACCEL_DEVICES"), DEVICES);
        for (line, request) in [
            (
                "PROGRAM _IOWR(0xb4, 1, struct taichi_accel_section)",
                PROGRAM,
            ),
            ("TOTALS _IOWR(0xb4, 2, struct taichi_accel_totals)", TOTALS),
        ] {
            assert!(HEADER.contains(&format!("#define TAICHI_ACCEL_{line}")));
            assert_eq!(request >> 30, 3, "reads and writes");
        }
        assert_eq!((PROGRAM, TOTALS), (0xc148_b401, 0xc018_b402));
    }

    #[test]
    fn gaps_are_counted_in_steps_of_a_quarter() {
        let mut gaps = Gaps::default();
        for n in [0, 1, 4, 63] {
            gaps.0[n] = 1 + n as u32;
        }
        let counts: Vec<_> = gaps.counts().collect();
        assert_eq!(counts, [(16, 1), (20, 2), (32, 5), (7 << 17, 64)]);
    }
}
