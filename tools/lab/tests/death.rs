// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The firmware dies, in every way that it may: it must leave an epitaph on
//! the console and in RAM, and reset the machine. The probe makes a firmware
//! die that is built for it. `cargo xtask test` runs these; alone:
//! `cargo test -p taichi-lab --features guest --test death`.
#![cfg(feature = "guest")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use taichi_lab::{Cache, Kernel, Machine, build, guest, tools};

/// `taichi_abi::epitaph`: what the ABI says, in numbers of our own.
const STONE: usize = 0x2000;
const TEXT: usize = 32;
const END: &str = "end of the epitaph";
/// Trace records in an epitaph.
const TRACED: usize = 32;

fn machine(firmware: PathBuf, how: &str) -> Machine {
    let probe = build::probe(&Cache::open().unwrap()).unwrap().image;
    Machine {
        kernel: Kernel::File(probe),
        firmware: Some(firmware),
        cores: 2,
        vcpus: 1,
        append: format!("die={how}"),
        timeout: Duration::from_secs(120),
        ..Machine::default()
    }
}

fn mortal() -> PathBuf {
    build::mortal_firmware(&Cache::open().unwrap())
        .unwrap()
        .image
}

fn option(name: &str, value: impl Into<String>) -> [String; 2] {
    [name.to_owned(), value.into()]
}

/// What is left of a machine.
struct Remains {
    /// The console.
    console: String,
    /// Why QEMU stopped: its SHUTDOWN event's `reason`.
    end: String,
    /// The firmware's RAM from the stone on.
    stone: Vec<u8>,
}

impl Remains {
    /// The stone's text: what a reader who trusts the header sees.
    fn text(&self) -> &str {
        assert_eq!(&self.stone[..8], b"EPITAPH\0", "{}", self.console);
        let length = u32::from_le_bytes(self.stone[8..12].try_into().unwrap());
        str::from_utf8(&self.stone[TEXT..TEXT + length as usize]).unwrap()
    }
}

/// Boots the mortal firmware below the probe, which makes it die.
fn dies(how: &str) -> Remains {
    autopsy(machine(mortal(), how))
}

/// Boots a machine that dies; QEMU stops at the reset.
fn autopsy(mut machine: Machine) -> Remains {
    let directory = tempfile::tempdir().unwrap();
    let (socket, memory) = (directory.path().join("qmp"), directory.path().join("ram"));
    // An address in RAM is the firmware's; where in it, its symbols say.
    let stone = symbol("__stone_start") + RAM;
    let listener = UnixListener::bind(&socket).unwrap();
    machine.qemu = [
        option("-qmp", format!("unix:{}", socket.display())),
        option("-action", "reboot=shutdown,shutdown=pause"),
    ]
    .concat();
    let autopsy = thread::spawn({
        let memory = memory.clone();
        move || Autopsy::new(&listener).perform(stone, &memory)
    });
    let console = guest::boot(&machine).unwrap().console;
    let end = autopsy.join().unwrap();
    Remains {
        console,
        end,
        stone: fs::read(memory).unwrap(),
    }
}

/// Where QEMU puts the firmware: at the first 2 MiB boundary after the bottom of
/// RAM, where the tree is.
const RAM: u64 = 0x4020_0000;

/// The link-time address of one of the mortal firmware's symbols.
fn symbol(name: &str) -> u64 {
    let cache = Cache::open().unwrap();
    let elf = build::mortal_firmware(&cache).unwrap().elf;
    let nm = tools::cross(&cache, "nm");
    let out = Command::new(nm).arg(elf).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let line = text
        .lines()
        .find(|line| line.ends_with(&format!(" {name}")));
    let address = line.and_then(|line| line.split(' ').next());
    u64::from_str_radix(address.expect("a symbol of the firmware"), 16).unwrap()
}

/// The first 8 bytes of a program's build id, which its ELF note holds.
fn build_id(image: &Path) -> String {
    let bytes = fs::read(image).unwrap();
    // Length of the name, of the id, NT_GNU_BUILD_ID; the name.
    let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let at = bytes.windows(16).position(|window| window == note).unwrap();
    bytes[at + 16..at + 24]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// QEMU's monitor.
struct Autopsy {
    lines: std::io::Lines<BufReader<UnixStream>>,
    stream: UnixStream,
}

impl Autopsy {
    /// QEMU comes to us.
    fn new(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut new = Self { lines, stream };
        new.command(json!({ "execute": "qmp_capabilities" }));
        new
    }

    fn command(&mut self, command: Value) {
        // In one piece: after "quit" QEMU is gone before a line's end comes.
        let line = format!("{command}\n");
        self.stream.write_all(line.as_bytes()).unwrap();
    }

    /// Waits for a message that has what `key` names; gives it.
    fn wait(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let messages = self.lines.by_ref().map_while(Result::ok);
        let mut messages = messages.filter_map(|line| serde_json::from_str(&line).ok());
        messages.find(|message| wanted(message))
    }

    /// Waits for the machine's end, saves its stone, and lets QEMU go.
    fn perform(mut self, stone: u64, memory: &Path) -> String {
        let end = self.wait(|message| message["event"] == "SHUTDOWN");
        // Time was up; QEMU is gone.
        let Some(end) = end else {
            fs::write(memory, []).unwrap();
            return "none".to_owned();
        };
        // It says so before it stops.
        self.wait(|message| message["event"] == "STOP").unwrap();
        let arguments = json!({ "val": stone, "size": STONE, "filename": memory });
        self.command(json!({ "execute": "pmemsave", "arguments": arguments, "id": 1 }));
        self.wait(|message| message["id"] == 1).unwrap();
        self.command(json!({ "execute": "quit" }));
        // Till the end: QEMU forgets commands of a monitor that went away.
        self.wait(|_| false);
        end["data"]["reason"].as_str().unwrap_or("?").to_owned()
    }
}

/// An epitaph that says all, the same on the console and in RAM, and a reset.
fn dies_well(how: &str, reason: &[&str]) -> String {
    let remains = dies(how);
    let console = &remains.console;
    assert_eq!(remains.end, "guest-reset", "{console}");
    let text = remains.text();
    let printed = console.replace("\r\n", "\n");
    assert!(printed.contains(text), "{console}\n--- in RAM\n{text}");
    let line = |start: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(start));
        found.unwrap_or_else(|| panic!("no \"{start}\"\n{text}"))
    };
    assert!(line("taichi: the firmware died on core ").starts_with('0'));
    let id = build_id(&mortal());
    assert!(
        line("build: ").starts_with(&format!("{id},")),
        "{id}\n{text}"
    );
    let said = line("reason: ");
    assert!(
        reason.iter().all(|part| said.contains(part)),
        "{reason:?}\n{text}"
    );
    line("ESR_EL2 0x");
    line("ELR_EL1 0x");
    // What the probe called before the call that was the last.
    let records = text
        .lines()
        .filter(|line| line.ends_with(" Psci 0xff 0x84000000"));
    assert_eq!(records.count(), TRACED, "{text}");
    line(END);
    text.to_owned()
}

/// The same, for a fault: all registers are there, and one has its address.
fn faults(how: &str, reason: &[&str]) {
    let text = dies_well(how, reason);
    let words: Vec<&str> = text.split_whitespace().collect();
    let register = |name: &str| {
        let at = words.iter().position(|word| *word == name);
        words[at.unwrap_or_else(|| panic!("no {name}\n{text}")) + 1]
    };
    let general: Vec<_> = (0..31).map(|n| register(&format!("x{n}"))).collect();
    let fault = register("FAR_EL2");
    let has = general.contains(&fault) || register("SP") == fault;
    assert!(has, "no register has {fault}\n{text}");
}

#[test]
fn of_a_panic() {
    dies_well("panic", &["panic: a guest asked for it, at ", "faults.rs:"]);
}

#[test]
fn of_a_state_that_can_t_be() {
    dies_well("give-up", &["a guest asked to give up, at "]);
}

#[test]
fn of_a_load_from_nowhere() {
    faults("load", &["load from ", "translation fault", "vector 4"]);
}

#[test]
fn of_a_store_to_its_instructions() {
    faults("store-text", &["store to ", "permission fault"]);
}

#[test]
fn of_executing_its_data() {
    faults("run-data", &["instruction fetch from ", "permission fault"]);
}

#[test]
fn of_a_stack_that_overflows() {
    faults("stack", &["stack overflow on core 0: store to "]);
}

#[test]
fn of_a_fault_while_it_writes_the_epitaph() {
    let remains = dies("again");
    assert_eq!(remains.end, "guest-reset", "{}", remains.console);
    let text = remains.text();
    for part in [
        "\nreason: load from ",
        "\ncut off by another; reason: load from ",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains(END), "{text}");
    let printed = remains.console.replace("\r\n", "\n");
    assert!(printed.contains(text), "{printed}\n--- in RAM\n{text}");
}

#[test]
fn of_a_fault_in_all_that_follows() {
    let remains = dies("always");
    assert_eq!(remains.end, "guest-reset", "{}", remains.console);
    let text = remains.text();
    assert!(text.contains("\nreason: load from "), "{text}");
}

/// The second core dies as soon as the first does; the first's epitaph is whole.
#[test]
fn on_two_cores_at_once() {
    dies_well("both", &["panic: a guest asked for it"]);
}

/// A CP core, two DP cores and a vCPU print for ever while the boot core dies.
/// None of them gets a word in once the epitaph has begun.
#[test]
fn while_all_others_run() {
    let (cores, dp) = (4, "2-3".parse().unwrap());
    let machine = Machine {
        cores,
        dp,
        ..machine(mortal(), "chat")
    };
    let remains = autopsy(machine);
    let console = remains.console.replace("\r\n", "\n");
    assert_eq!(remains.end, "guest-reset", "{console}");
    for cpu in 1..=cores {
        assert!(console.contains(&format!("chat of {cpu}\n")), "{console}");
    }
    let (_, epitaph) = console
        .split_once("taichi: the firmware died on core 0")
        .unwrap();
    assert!(!epitaph.contains("chat"), "{console}");
    assert!(console.contains(remains.text()), "{console}");
}

#[test]
fn of_a_redistributor_that_never_wakes_up() {
    let remains = dies("asleep");
    assert_eq!(remains.end, "guest-reset", "{}", remains.console);
    let text = remains.text();
    for part in [
        "died on core 1;",
        "redistributor of this core doesn't wake up",
        END,
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn and_the_next_run_tells_of_it() {
    let mut machine = machine(mortal(), "load");
    machine.qemu = option("-action", "reboot=reset").into();
    let console = guest::boot(&machine).unwrap().console.replace("\r\n", "\n");
    let (_, second) = console.split_once(END).unwrap();
    let told = "taichi: the last run died: load from ";
    assert!(second.contains(told), "{console}");
    // Linux, here the probe, reads all of it.
    assert!(second.contains(", age 1:\n"), "{console}");
    for line in [
        "| reason: load from ",
        "| x28 ",
        "| ESR_EL2 ",
        "| end of the epitaph",
    ] {
        assert!(second.contains(line), "{line}\n{console}");
    }
    assert!(second.contains("done 1 passed 0 failed"), "{console}");
}

/// Boots with these bytes where a stone would be; gives the console.
fn finds(stone: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stone");
    fs::write(&path, stone).unwrap();
    let mut machine = machine(mortal(), "not");
    let at = symbol("__stone_start") + RAM;
    let loader = format!("loader,addr={at:#x},force-raw=on,file={}", path.display());
    machine.qemu = option("-device", loader).into();
    guest::boot(&machine).unwrap().console
}

#[test]
fn and_only_a_sound_epitaph_is_believed() {
    let stone = dies("load").stone;
    let sound = finds(&stone);
    assert!(sound.contains("the last run died: load from "), "{sound}");
    let told = |age: u8| {
        let mut stone = stone.clone();
        stone[16] = age;
        stone
    };
    let second = finds(&told(1));
    assert!(!second.contains("the last run died"), "{second}");
    assert!(second.contains(", age 2:"), "{second}");
    let mut flipped = stone.clone();
    flipped[TEXT + 100] ^= 1;
    for nothing in [flipped, vec![0x55; STONE]] {
        let console = finds(&nothing);
        assert!(!console.contains("the last run died"), "{console}");
        assert!(
            console.contains("no old epitaph; 0 bytes are not 0"),
            "{console}"
        );
    }
}

#[test]
fn but_not_if_it_is_built_for_use() {
    let cache = Cache::open().unwrap();
    let release = build::firmware(&cache).unwrap();
    let machine = machine(release.image.clone(), "panic");
    let console = guest::boot(&machine).unwrap().console;
    let refused = "FAIL die: the firmware lives on and answers -1";
    assert!(console.contains(refused), "{console}");
    // What the mortal one has in it, this one has not.
    let has = |file: &Path, what: &str| {
        let bytes = fs::read(file).unwrap();
        bytes
            .windows(what.len())
            .any(|window| window == what.as_bytes())
    };
    let mortal = build::mortal_firmware(&cache).unwrap();
    for what in ["a guest asked", "built for tests"] {
        assert!(has(&mortal.image, what), "{what}");
        assert!(!has(&release.image, what), "{what}");
    }
    assert!(has(&mortal.elf, "faults.rs") && !has(&release.elf, "faults.rs"));
}
