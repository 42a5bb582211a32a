// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a debugger uses: watchpoints and breakpoints, by perf events that count
//! their hits, and single-step, by ptrace.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Error, Read};
use std::os::fd::FromRawFd;

use anyhow::{Context, Result, ensure};

/// `struct perf_event_attr` (include/uapi/linux/perf_event.h), as long as its
/// version 5.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    bp_type: u32,
    bp_addr: u64,
    bp_len: u64,
    rest: [u64; 5],
}

/// Counts how often the calling thread does something at an address.
pub struct Point(File);

impl Point {
    /// Stores to a word.
    ///
    /// # Errors
    /// Linux refuses.
    pub fn store(word: *const u64) -> Result<Self> {
        const WRITE: u32 = 2;
        Self::new(WRITE, word as u64)
    }

    /// Executes the first instruction of a function.
    ///
    /// # Errors
    /// Linux refuses.
    pub fn call(function: extern "C" fn()) -> Result<Self> {
        const EXECUTE: u32 = 4;
        Self::new(EXECUTE, function as usize as u64)
    }

    fn new(bp_type: u32, address: u64) -> Result<Self> {
        const BREAKPOINT: u32 = 5;
        const NOT_IN_THE_KERNEL: u64 = 1 << 5 | 1 << 6;
        let attributes = Attributes {
            kind: BREAKPOINT,
            size: size_of::<Attributes>() as u32,
            flags: NOT_IN_THE_KERNEL,
            bp_type,
            bp_addr: address,
            bp_len: 8,
            ..Attributes::default()
        };
        let (me, any_cpu, no_group, no_flags) = (0, -1, -1, 0);
        // SAFETY: Linux reads the attributes, which are as long as they say.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                me,
                any_cpu,
                no_group,
                no_flags,
            )
        };
        let error = Error::last_os_error();
        ensure!(fd >= 0, "perf_event_open: {error}");
        // SAFETY: a file descriptor that is ours.
        Ok(Self(unsafe { File::from_raw_fd(fd as i32) }))
    }

    /// How often so far.
    ///
    /// # Errors
    /// Linux refuses.
    pub fn hits(&mut self) -> Result<u64> {
        let mut count = [0; 8];
        self.0.read_exact(&mut count).context("perf event")?;
        Ok(u64::from_ne_bytes(count))
    }
}

/// A child process that is stepped, in a loop of additions.
pub struct Stepped {
    child: libc::pid_t,
    registers: Registers,
    /// The first instruction of the loop.
    start: u64,
}

/// `struct user_pt_regs` of arm64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Registers {
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
}

/// Additions in the loop; one branch follows them.
const ADDITIONS: u64 = 15;

/// BRK, then the loop, without an end.
#[cfg(target_arch = "aarch64")]
fn child() -> ! {
    // SAFETY: computes in registers until the process is killed.
    unsafe {
        core::arch::asm!(
            "mov x9, #0",
            "brk #0",
            "2:",
            ".rept 15",
            "add x9, x9, #1",
            ".endr",
            "b 2b",
            options(noreturn)
        );
    }
}

#[cfg(not(target_arch = "aarch64"))]
fn child() -> ! {
    std::process::abort()
}

impl Stepped {
    /// Starts the child; the calling thread is its tracer.
    ///
    /// # Errors
    /// Linux refuses.
    pub fn new() -> Result<Self> {
        // SAFETY: the child makes two calls that are safe after a fork, and
        // computes in registers.
        let child = unsafe {
            match libc::fork() {
                0 => {
                    if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
                        libc::_exit(1);
                    }
                    child()
                }
                child => child,
            }
        };
        ensure!(child > 0, "fork: {}", Error::last_os_error());
        let mut stepped = Self {
            child,
            registers: Registers::default(),
            start: 0,
        };
        stepped.wait()?;
        stepped.start = stepped.registers.pc + 4;
        stepped.registers.pc = stepped.start;
        stepped.write()?;
        Ok(stepped)
    }

    /// The child's process, to be moved.
    pub fn pid(&self) -> i32 {
        self.child
    }

    /// One instruction: that one must be executed and no other.
    ///
    /// # Errors
    /// Linux refuses, or it was another.
    pub fn step(&mut self) -> Result<()> {
        let mut expected = self.registers;
        if expected.pc == self.start + 4 * ADDITIONS {
            expected.pc = self.start;
        } else {
            expected.pc += 4;
            expected.x[9] += 1;
        }
        self.ptrace(libc::PTRACE_SINGLESTEP, 0, std::ptr::null_mut())?;
        self.wait()?;
        let got = self.registers;
        ensure!(
            (got.pc, got.x) == (expected.pc, expected.x),
            "step: at {:#x} with {}, not at {:#x} with {}, in a loop at {:#x}",
            got.pc,
            got.x[9],
            expected.pc,
            expected.x[9],
            self.start
        );
        Ok(())
    }

    /// Until the child stops for a trap.
    fn wait(&mut self) -> Result<()> {
        let mut status = 0;
        // SAFETY: Linux writes the status.
        let pid = unsafe { libc::waitpid(self.child, &raw mut status, 0) };
        ensure!(pid == self.child, "waitpid: {}", Error::last_os_error());
        let trapped = libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP;
        ensure!(trapped, "the stepped child: status {status:#x}");
        self.set(libc::PTRACE_GETREGSET)
    }

    fn write(&mut self) -> Result<()> {
        self.set(libc::PTRACE_SETREGSET)
    }

    fn set(&mut self, request: u32) -> Result<()> {
        const NT_PRSTATUS: usize = 1;
        let mut vector = libc::iovec {
            iov_base: (&raw mut self.registers).cast(),
            iov_len: size_of::<Registers>(),
        };
        self.ptrace(request, NT_PRSTATUS, (&raw mut vector).cast())
    }

    fn ptrace(&self, request: u32, address: usize, data: *mut libc::c_void) -> Result<()> {
        // SAFETY: what the requests above write is behind `data`, and there is
        // room for it.
        let done = unsafe { libc::ptrace(request as _, self.child, address, data) };
        ensure!(done == 0, "ptrace {request:#x}: {}", Error::last_os_error());
        Ok(())
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        // SAFETY: our own child, which nobody has waited for to its end.
        unsafe {
            libc::kill(self.child, libc::SIGKILL);
            libc::waitpid(self.child, std::ptr::null_mut(), 0);
        }
    }
}
