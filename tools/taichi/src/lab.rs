// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `taichi lab`: guests in QEMU, a view over [`taichi_lab::guest`].

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use taichi_lab::initramfs::Add;
use taichi_lab::{Cores, Ending, Kernel, Machine, Outcome, Streams, guest, machine};

/// Boot guests in the lab.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot, run COMMAND as root in /root, print just what it prints, and exit
    /// with its status (124 on time-out, 125 when the guest died).
    Run {
        #[command(flatten)]
        guest: Guest,
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// The same, with a shell on this terminal.
    Shell {
        #[command(flatten)]
        guest: Guest,
    },
}

/// The machine and what is in it.
#[derive(clap::Args)]
struct Guest {
    /// One of Debian's kernels (-rt: with PREEMPT_RT; newest: of the newest
    /// release's backports, when it was first used), the file of an arm64 Image,
    /// or our bare-metal test guest ("probe").
    #[arg(long, default_value = "6.1", value_name = Kernel::USAGE)]
    kernel: Kernel,
    /// Real cores.
    #[arg(long, default_value_t = 4, value_name = "N")]
    cores: u32,
    /// Data-plane cores, such as 2-3: these are lent when they yield.
    #[arg(long, value_name = "LIST")]
    dp: Option<Cores>,
    /// Keep Linux's own work off the data-plane cores.
    #[arg(long)]
    isolate: bool,
    /// vCPUs beside the real cores.
    #[arg(long, default_value_t = 0, value_name = "M")]
    vcpus: u32,
    /// The same machine without our firmware.
    #[arg(long)]
    bare: bool,
    /// Deterministic: an instruction is a nanosecond, and every run of the same
    /// thing prints the same bytes.
    #[arg(long)]
    measured: bool,
    /// Metronome of --measured: the longest a core runs before the others
    /// have their turn, in virtual microseconds.
    #[arg(long, default_value_t = machine::TICK, value_name = "US")]
    tick: u32,
    /// Memory.
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    memory: String,
    /// QEMU's model of the cores.
    #[arg(long, default_value = "cortex-a76", value_name = "MODEL")]
    cpu: String,
    /// Further configuration of the firmware, such as "slice=50us".
    #[arg(long, default_value = "", value_name = "WORDS")]
    config: String,
    /// Put a file or directory into the guest, in /root or at DST.
    #[arg(long, value_name = "SRC[:DST]")]
    add: Vec<Add>,
    /// Unpack a Debian arm64 package, and what it depends on, in the guest.
    #[arg(long, value_name = "PACKAGE")]
    deb: Vec<String>,
    /// Load a kernel module, and what it depends on, before COMMAND runs;
    /// taichi-accel is our test driver, which holds locks.
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// Further arguments of Linux.
    #[arg(
        long,
        default_value = "",
        value_name = "ARGS",
        allow_hyphen_values = true
    )]
    append: String,
    /// End the guest after so many seconds of real time.
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// Write the console (firmware and kernel messages) to a file.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Run { guest, command } => {
            let machine = guest.machine(Duration::from_secs(1800));
            finish(&machine, &guest::run(&machine, &command, Streams::Ours)?)
        }
        Command::Shell { guest } => {
            let machine = guest.machine(Duration::from_secs(7 * 86_400));
            finish(&machine, &guest::shell(&machine)?)
        }
    }
}

/// Says why there is no status of the command, if so.
fn finish(machine: &Machine, outcome: &Outcome) -> Result<ExitCode> {
    match outcome.ending {
        Ending::Exit(_) => {}
        Ending::TimedOut => {
            eprintln!("taichi: time is up after {} s", machine.timeout.as_secs());
        }
        Ending::Died => {
            eprintln!("{}", outcome.tail().trim_end());
            eprintln!("taichi: the guest died; its console ends as above");
        }
    }
    Ok(ExitCode::from(outcome.ending.status()))
}

impl Guest {
    fn machine(self, timeout: Duration) -> Machine {
        Machine {
            kernel: self.kernel,
            cores: self.cores,
            dp: self.dp.unwrap_or_default(),
            isolate: self.isolate,
            vcpus: self.vcpus,
            bare: self.bare,
            measured: self.measured,
            tick: self.tick,
            memory: self.memory,
            cpu: self.cpu,
            config: self.config,
            append: self.append,
            add: self.add,
            debs: self.deb,
            modules: self.module,
            timeout: self.timeout.map_or(timeout, Duration::from_secs),
            log: self.log,
            ..Machine::default()
        }
    }
}
