// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Running a guest: boots QEMU, hands on what the command prints as it comes,
//! and tells how it ended.

use std::env;
use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::cache::Cache;
use crate::components::{self, Component};
use crate::initramfs::{self, Contents, Session};
use crate::machine::{Files, Machine};
use crate::tools;

/// How often the guest's output is looked at.
const POLL: Duration = Duration::from_millis(10);
/// How long a guest that has told its status may take to switch off.
const GRACE: Duration = Duration::from_secs(20);
/// Bytes of the console that [`Outcome::tail`] shows.
const TAIL: usize = 4000;

/// Set by [`interrupt`].
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends guests that run, and those to come, as if their time were up. Safe in a
/// signal handler.
pub fn interrupt() {
    INTERRUPTED.store(true, Relaxed);
}

/// Whether [`interrupt`] was called: then how a guest ended says nothing about it.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Relaxed)
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The command ended with this status, and the guest switched off.
    Exit(u8),
    /// Time was up.
    TimedOut,
    /// The guest panicked, reset or switched off before the command's end.
    Died,
}

impl Ending {
    /// The status that `taichi lab run` exits with.
    pub fn status(self) -> u8 {
        match self {
            Self::Exit(status) => status,
            Self::TimedOut => 124,
            Self::Died => 125,
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// What the command wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What the command wrote to its standard error.
    pub stderr: Vec<u8>,
    /// The serial console: firmware and kernel messages.
    pub console: String,
}

impl Outcome {
    /// The command's output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The console's last lines.
    pub fn tail(&self) -> &str {
        let mut at = self.console.len().saturating_sub(TAIL);
        while !self.console.is_char_boundary(at) {
            at += 1;
        }
        let tail = &self.console[at..];
        if at == 0 {
            tail
        } else {
            tail.split_once('\n').map_or(tail, |(_, rest)| rest)
        }
    }

    /// Nothing for status 0, else an error that says everything.
    ///
    /// # Errors
    /// With any other ending.
    pub fn success(&self) -> Result<()> {
        if self.ending == Ending::Exit(0) {
            return Ok(());
        }
        bail!(
            "{:?}\n--- output\n{}\n--- errors\n{}\n--- console\n{}",
            self.ending,
            self.text(),
            String::from_utf8_lossy(&self.stderr),
            self.tail()
        )
    }
}

/// Where a guest's streams go while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// Nowhere; standard input is empty.
    Captured,
    /// To and from our own, where that keeps the run deterministic.
    Ours,
}

/// Runs `command` in a guest as root and waits for its end.
///
/// # Errors
/// Where the machine is described wrongly, set-up or a build fails, or QEMU
/// can't be run. A guest that ends badly is no error, but an [`Ending`].
pub fn run(machine: &Machine, command: &[String], streams: Streams) -> Result<Outcome> {
    // Input that comes when it likes would make no two runs the same. A terminal
    // stays ours, so that ctrl-C ends us; `shell` is for terminals.
    let input = streams == Streams::Ours && !machine.measured && !io::stdin().is_terminal();
    start(
        machine,
        Session::Command {
            words: command,
            input,
        },
        streams,
    )
}

/// Runs a shell in a guest, on our terminal.
///
/// # Errors
/// As [`run`].
pub fn shell(machine: &Machine) -> Result<Outcome> {
    let (rows, columns) = terminal_size();
    start(machine, Session::Terminal { rows, columns }, Streams::Ours)
}

/// Boots the kernel without an initramfs and waits for the machine's end: for
/// programs that aren't Linux. `stdout` is empty and the ending never an exit.
///
/// # Errors
/// As [`run`].
pub fn boot(machine: &Machine) -> Result<Outcome> {
    let place = Place::new(machine)?;
    let child = place.qemu(machine, None, &[])?.stdin(Stdio::null()).spawn();
    place.watch(machine, child.context("running QEMU")?, Streams::Captured)
}

fn start(machine: &Machine, session: Session, streams: Streams) -> Result<Outcome> {
    let place = Place::new(machine)?;
    let programs = if machine.programs {
        build::programs(&place.cache)?
    } else {
        Vec::new()
    };
    let devices = place.ports(&session);
    let (input, terminal) = match session {
        Session::Command { input, .. } => (input, false),
        Session::Terminal { .. } => (true, true),
    };
    let contents = Contents {
        kernel: &machine.kernel,
        modules: &machine.modules,
        programs: &programs,
        add: &machine.add,
        debs: &machine.debs,
        session,
    };
    let initrd = place.path("initrd");
    fs::write(&initrd, initramfs::build(&place.cache, &contents)?).context("writing an initrd")?;
    let mut command = place.qemu(machine, Some(&initrd), &devices)?;
    if !input {
        command.stdin(Stdio::null());
    }
    if !terminal {
        command.stdout(Stdio::null());
    }
    let child = command.spawn().context("running QEMU")?;
    place.watch(machine, child, streams)
}

/// The directory of one run, with what goes into QEMU and what comes out.
struct Place {
    cache: Cache,
    directory: tempfile::TempDir,
    kernel: Option<PathBuf>,
    firmware: Option<PathBuf>,
    console: PathBuf,
}

impl Place {
    /// Installs and builds all that the machine needs.
    fn new(machine: &Machine) -> Result<Self> {
        machine.check()?;
        let cache = Cache::open()?;
        components::ensure(&cache, &[Component::Qemu, Component::Busybox])?;
        let kernel = machine.kernel.image(&cache)?;
        let firmware = match (&machine.firmware, machine.bare) {
            (_, true) => None,
            (Some(path), false) => Some(path.clone()),
            (None, false) => Some(build::firmware(&cache)?.image),
        };
        let directory = run_directory()?;
        let console = machine
            .log
            .clone()
            .unwrap_or_else(|| directory.path().join("console"));
        Ok(Self {
            cache,
            directory,
            kernel,
            firmware,
            console,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Devices that carry the session's streams. The ports write to files,
    /// which never block, and do it while the guest waits (no ioeventfd), so
    /// that the host's speed can't be seen. No MSI: a run needs no LPIs.
    fn ports(&self, session: &Session) -> Vec<String> {
        let port = |number: u32, name: &str, backend: String| {
            [
                "-chardev".to_owned(),
                format!("{backend},id={name}"),
                "-device".to_owned(),
                format!("virtserialport,bus=ports.0,nr={number},chardev={name},name=taichi.{name}"),
            ]
        };
        let file = |name: &str| format!("file,path={}", self.path(name).display());
        let device = "virtio-serial-pci,id=ports,ioeventfd=off,vectors=0";
        let mut args = vec!["-device".to_owned(), device.to_owned()];
        for (number, name) in [(1, "out"), (2, "err"), (3, "status")] {
            args.extend(port(number, name, file(name)));
        }
        let stdio = "stdio,signal=off".to_owned();
        match session {
            Session::Command { input: false, .. } => {}
            Session::Command { input: true, .. } => args.extend(port(4, "in", stdio)),
            Session::Terminal { .. } => args.extend([
                "-chardev".to_owned(),
                format!("{stdio},id=terminal"),
                "-device".to_owned(),
                "virtconsole,bus=ports.0,nr=0,chardev=terminal".to_owned(),
            ]),
        }
        args
    }

    fn qemu(
        &self,
        machine: &Machine,
        initrd: Option<&Path>,
        devices: &[String],
    ) -> Result<process::Command> {
        let files = Files {
            kernel: self.kernel.as_deref(),
            firmware: self.firmware.as_deref(),
            initrd,
        };
        let errors = File::create(self.path("qemu"))?;
        let mut command = tools::qemu(&self.cache);
        command
            .args(machine.qemu_arguments(&files))
            .args(["-serial", &format!("file:{}", self.console.display())])
            .args(devices)
            .stderr(errors);
        Ok(command)
    }

    /// Waits for the end, copying the command's streams to ours if wanted.
    fn watch(&self, machine: &Machine, mut child: Child, streams: Streams) -> Result<Outcome> {
        let deadline = Instant::now() + machine.timeout;
        let mut out = Tail::new(self.path("out"));
        let mut err = Tail::new(self.path("err"));
        let mut told: Option<Instant> = None;
        let timed_out = loop {
            let ended = child.try_wait().context("waiting for QEMU")?.is_some();
            if streams == Streams::Ours {
                out.copy(&mut io::stdout().lock())?;
                err.copy(&mut io::stderr().lock())?;
            }
            if ended {
                break false;
            }
            if told.is_none() && self.status().is_some() {
                told = Some(Instant::now());
            }
            let over = told.is_some_and(|t| t.elapsed() > GRACE) || Instant::now() > deadline;
            if over || interrupted() {
                child.kill().context("ending QEMU")?;
                child.wait().context("ending QEMU")?;
                break true;
            }
            thread::sleep(POLL);
        };
        self.outcome(timed_out)
    }

    /// The command's status, once the guest told it.
    fn status(&self) -> Option<u8> {
        fs::read_to_string(self.path("status"))
            .ok()?
            .strip_suffix('\n')?
            .parse()
            .ok()
    }

    fn outcome(&self, timed_out: bool) -> Result<Outcome> {
        let read = |name| fs::read(self.path(name)).unwrap_or_default();
        let console = fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        let complaint = String::from_utf8_lossy(&read("qemu")).into_owned();
        if console.is_empty() && complaint.contains("qemu-system") {
            bail!("QEMU refused: {}", complaint.trim());
        }
        let ending = match (self.status(), timed_out) {
            (Some(status), _) => Ending::Exit(status),
            (None, true) => Ending::TimedOut,
            (None, false) => Ending::Died,
        };
        Ok(Outcome {
            ending,
            stdout: read("out"),
            stderr: read("err"),
            console,
        })
    }
}

/// An empty directory for one run, named after our process; those of processes
/// that were killed are removed.
fn run_directory() -> Result<tempfile::TempDir> {
    const PREFIX: &str = "taichi-run-";
    for entry in fs::read_dir(env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if process.is_some_and(|p| !Path::new("/proc").join(p).exists()) {
            // Another user's, perhaps; then it isn't ours to remove.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", process::id()))
        .tempdir()
        .context("making a directory for a run")
}

/// A file that grows, copied on as it does.
struct Tail {
    path: PathBuf,
    at: u64,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, at: 0 }
    }

    /// Writes what is new to `to`. A reader that went away is no error: the
    /// command isn't stopped for it.
    fn copy(&mut self, to: &mut impl Write) -> Result<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).context("reading the guest's output"),
        };
        file.seek(SeekFrom::Start(self.at))?;
        let mut new = Vec::new();
        file.read_to_end(&mut new)?;
        self.at += new.len() as u64;
        match to.write_all(&new).and_then(|()| to.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("writing the guest's output"),
        }
    }
}

/// Rows and columns of our terminal, 24 and 80 where it doesn't say.
fn terminal_size() -> (u16, u16) {
    let ask = || {
        if !io::stdin().is_terminal() {
            return None;
        }
        let out = process::Command::new("stty")
            .arg("size")
            .stdin(Stdio::inherit())
            .output()
            .ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        let (rows, columns) = text.trim().split_once(' ')?;
        Some((rows.parse().ok()?, columns.parse().ok()?))
    };
    ask().unwrap_or((24, 80))
}
