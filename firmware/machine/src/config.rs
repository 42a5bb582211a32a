// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The firmware's options: the one grammar, its defaults and its limits.
//!
//! Options are words separated by white space, `key=value` or a plain flag:
//!
//! ```text
//! vcpus=4 dp=2-5,7 slice=50us slice-max=1ms patience=4ms look=5us spin console=none
//! ```
//!
//! | option | meaning | default | limits |
//! | --- | --- | --- | --- |
//! | `vcpus=N` | extra CPUs that Linux gets | 0 | 0 to 16 |
//! | `dp=LIST` | data-plane cores | none | cores of the machine, not its boot core |
//! | `slice=T` | first slice of a lent core | 50us | 1us to 1s |
//! | `slice-max=T` | what the slice doubles up to | 1ms, or `slice` if that is more | `slice` to 10s |
//! | `patience=T` | a ready vCPU that waited this long takes a CP core by force | 4ms | 100us to 10s |
//! | `look=T` | how soon kernel code that is in the way is looked at again | 5us | 1us to 1s |
//! | `spin` | idle cores spin at EL2 and never execute WFI | off | |
//! | `console=C` | where the firmware prints: `tree`, `none`, `0xADDRESS` of a PL011 | `tree` | |
//!
//! A time is a number and a unit (`ns`, `us`, `ms`, `s`). Every option is given
//! at most once. They stand in `/chosen/taichi`, or else in the kernel's
//! command line as `taichi="…"`.

use crate::affinity::CoreSet;
use core::fmt;
use core::ops::Range;

/// Where the firmware prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Console {
    /// The UART that `/chosen/stdout-path` names.
    #[default]
    Tree,
    /// Nowhere.
    None,
    /// A PL011 at this physical address.
    Pl011(u64),
}

/// What the options say. [`Config::default`] is a machine without vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Extra CPUs that Linux gets.
    pub vcpus: u8,
    /// Data-plane cores: lent when they yield or idle, never taken.
    pub dp: CoreSet,
    /// The first slice of a lent core, in ns.
    pub slice_ns: u64,
    /// The longest slice, in ns.
    pub slice_max_ns: u64,
    /// How long a ready vCPU waits before it takes a CP core by force, in ns.
    pub patience_ns: u64,
    /// How soon kernel code that somebody's core is wanted from is looked at
    /// again, in ns; 1 us to 1 s.
    pub look_ns: u64,
    /// Idle cores spin at EL2 and never execute WFI: for measuring under
    /// instruction-counted emulation.
    pub spin: bool,
    /// Where the firmware prints.
    pub console: Console,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vcpus: 0,
            dp: CoreSet::EMPTY,
            slice_ns: 50 * US,
            slice_max_ns: MS,
            patience_ns: 4 * MS,
            look_ns: 5 * US,
            spin: false,
            console: Console::Tree,
        }
    }
}

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// The most vCPUs.
pub const MAX_VCPUS: u8 = taichi_abi::MAX_VCPUS as u8;

/// What is wrong with the options; says which word it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError<'a> {
    /// No option has this name.
    UnknownKey(&'a str),
    /// The same option twice.
    Twice(&'a str),
    /// The option needs a value, or takes none.
    Form(&'a str),
    /// The value of the option can't be read; the last field says what it
    /// should look like.
    Value(&'a str, &'a str, &'static str),
    /// `slice` is longer than `slice-max`.
    SliceOrder,
    /// There are no so many cores as this number in `dp` asks for.
    NoSuchCore(usize, usize),
    /// The boot core can't be a DP core while there are vCPUs.
    BootCore(usize),
}

impl fmt::Display for ConfigError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownKey(key) => write!(
                f,
                "unknown option `{key}`; there are vcpus, dp, slice, slice-max, patience, look, spin, \
                 console"
            ),
            Self::Twice(key) => write!(f, "option `{key}` is given twice"),
            Self::Form("spin") => f.write_str("option `spin` takes no value"),
            Self::Form(key) => write!(f, "option `{key}` needs a value: `{key}=…`"),
            Self::Value(key, value, expected) => {
                write!(f, "`{key}={value}`: the value must be {expected}")
            }
            Self::SliceOrder => f.write_str("`slice` is longer than `slice-max`"),
            Self::NoSuchCore(core, cores) => {
                write!(
                    f,
                    "`dp` names core {core}, but the cores are 0 to {}",
                    cores - 1
                )
            }
            Self::BootCore(core) => write!(
                f,
                "`dp` names core {core}, the boot core; with vCPUs it must stay a CP core, \
                 because their device interrupts go there"
            ),
        }
    }
}

impl core::error::Error for ConfigError<'_> {}

/// Names of the options, in the order of the bits that say which were given.
const KEYS: [&str; 8] = [
    "vcpus",
    "dp",
    "slice",
    "slice-max",
    "patience",
    "look",
    "spin",
    "console",
];

/// Reads options.
///
/// # Errors
/// The first word that is wrong, or two that contradict each other. Whether
/// they fit the machine says [`Config::check`].
pub fn parse(words: &str) -> Result<Config, ConfigError<'_>> {
    let mut config = Config::default();
    let mut slice_max = None;
    let mut given = 0u32;
    for word in words.split_ascii_whitespace() {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        let index = KEYS
            .iter()
            .position(|&k| k == key)
            .ok_or(ConfigError::UnknownKey(key))?;
        if given & 1 << index != 0 {
            return Err(ConfigError::Twice(key));
        }
        given |= 1 << index;
        if (key == "spin") != value.is_none() {
            return Err(ConfigError::Form(key));
        }
        let value = value.unwrap_or("");
        let bad = |expected| ConfigError::Value(key, value, expected);
        let time = |low, high, expected| {
            duration(value)
                .filter(|t| (low..=high).contains(t))
                .ok_or(bad(expected))
        };
        match key {
            "vcpus" => {
                config.vcpus = decimal(value)
                    .filter(|&n| n <= u64::from(MAX_VCPUS))
                    .ok_or(bad("a number from 0 to 16"))? as u8;
            }
            "dp" => {
                config.dp = value
                    .parse()
                    .map_err(|_| bad("a list of cores such as 2-5,7 with numbers from 0 to 15"))?;
            }
            "slice" => config.slice_ns = time(US, S, "a time from 1us to 1s, such as 50us")?,
            "slice-max" => {
                slice_max = Some(time(US, 10 * S, "a time from 1us to 10s, such as 1ms")?);
            }
            "patience" => {
                config.patience_ns =
                    time(100 * US, 10 * S, "a time from 100us to 10s, such as 4ms")?;
            }
            "look" => config.look_ns = time(US, S, "a time from 1us to 1s, such as 5us")?,
            "spin" => config.spin = true,
            _ => {
                config.console = console(value).ok_or(bad(
                    "tree, none, or the address of a PL011 such as 0x9000000",
                ))?;
            }
        }
    }
    config.slice_max_ns = slice_max.unwrap_or(config.slice_max_ns.max(config.slice_ns));
    if config.slice_ns > config.slice_max_ns {
        return Err(ConfigError::SliceOrder);
    }
    Ok(config)
}

impl Config {
    /// Whether the options fit a machine with this number of cores that boots
    /// on `boot_core`.
    ///
    /// # Errors
    /// A DP core that the machine doesn't have; a boot core that is a DP core
    /// while there are vCPUs (so at least one CP core remains for them).
    pub fn check(&self, cores: usize, boot_core: usize) -> Result<(), ConfigError<'static>> {
        if let Some(core) = self.dp.iter().find(|&core| core >= cores) {
            return Err(ConfigError::NoSuchCore(core, cores.max(1)));
        }
        if self.vcpus > 0 && self.dp.contains(boot_core) {
            return Err(ConfigError::BootCore(boot_core));
        }
        Ok(())
    }
}

/// A plain decimal number; `str::parse` would take a sign too.
fn decimal(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

/// A time with its unit, in ns; `None` also where that overflows.
fn duration(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits)? {
        "ns" => 1,
        "us" => US,
        "ms" => MS,
        "s" => S,
        _ => return None,
    };
    decimal(digits)?.checked_mul(unit)
}

fn console(text: &str) -> Option<Console> {
    match text {
        "tree" => Some(Console::Tree),
        "none" => Some(Console::None),
        _ => {
            let digits = text.strip_prefix("0x").filter(|d| !d.starts_with('+'))?;
            let address = u64::from_str_radix(digits, 16).ok()?;
            (address % 4096 == 0).then_some(Console::Pl011(address))
        }
    }
}

/// Finds `taichi="…"` or `taichi=word` in a kernel command line: the options,
/// and the bytes to cut out so that Linux doesn't see them.
///
/// Quotes work as in Linux (`lib/cmdline.c`): white space between them does
/// not end a parameter. After `--` come arguments of init. A quote that is
/// never closed reaches to the end.
pub fn find_in_bootargs(bootargs: &str) -> Option<(&str, Range<usize>)> {
    let bytes = bootargs.as_bytes();
    let mut start = 0;
    loop {
        start += bytes
            .get(start..)?
            .iter()
            .position(|b| !b.is_ascii_whitespace())?;
        let mut quoted = false;
        let length = bytes[start..]
            .iter()
            .position(|&b| {
                quoted ^= b == b'"';
                b.is_ascii_whitespace() && !quoted
            })
            .unwrap_or(bytes.len() - start);
        let end = start + length;
        let word = &bootargs[start..end];
        if word == "--" {
            return None;
        }
        if let Some(value) = word.strip_prefix("taichi=") {
            let value = value.strip_prefix('"').unwrap_or(value);
            let value = value.strip_suffix('"').unwrap_or(value);
            return Some((value, cut(bytes, start, end)));
        }
        start = end;
    }
}

/// The bytes `start..end` and the white space on one side of them.
fn cut(bytes: &[u8], start: usize, end: usize) -> Range<usize> {
    let blank = |b: &u8| b.is_ascii_whitespace();
    let after = bytes[end..].iter().take_while(|b| blank(b)).count();
    if after > 0 {
        return start..end + after;
    }
    let before = bytes[..start].iter().rev().take_while(|b| blank(b)).count();
    start - before..end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::{String, ToString};

    #[test]
    fn every_option() {
        let all = "vcpus=4 dp=2-5,7\tslice=20us slice-max=2s  patience=100000ns look=9us spin console=none ";
        let expect = Config {
            vcpus: 4,
            dp: CoreSet(0b1011_1100),
            slice_ns: 20_000,
            slice_max_ns: 2_000_000_000,
            patience_ns: 100_000,
            look_ns: 9_000,
            spin: true,
            console: Console::None,
        };
        assert_eq!(parse(all), Ok(expect));
        assert_eq!(parse(""), Ok(Config::default()));
        assert_eq!(
            parse("console=0x9000000").unwrap().console,
            Console::Pl011(0x900_0000)
        );
        assert_eq!(parse("slice=5ms").unwrap().slice_max_ns, 5_000_000);
    }

    #[test]
    fn every_error_names_its_word() {
        for (words, word) in [
            ("vcpu=4", "`vcpu`"),
            ("vcpus=1 vcpus=1", "`vcpus`"),
            ("vcpus", "`vcpus`"),
            ("spin=1", "`spin`"),
            ("vcpus=17", "`vcpus=17`"),
            ("vcpus=+1", "`vcpus=+1`"),
            ("vcpus=", "`vcpus=`"),
            ("dp=4-2", "`dp=4-2`"),
            ("slice=50", "`slice=50`"),
            ("slice=us", "`slice=us`"),
            ("slice=2s", "`slice=2s`"),
            ("slice=0us", "`slice=0us`"),
            (
                "patience=18446744073709551615s",
                "`patience=18446744073709551615s`",
            ),
            ("slice=2ms slice-max=1ms", "`slice`"),
            ("console=uart", "`console=uart`"),
            ("console=0x1", "`console=0x1`"),
            ("=", "``"),
        ] {
            let message = parse(words).unwrap_err().to_string();
            assert!(message.contains(word), "{words}: {message}");
        }
    }

    #[test]
    fn options_that_do_not_fit_the_machine() {
        let config = |words| parse(words).unwrap();
        assert_eq!(config("vcpus=2 dp=1-3").check(4, 0), Ok(()));
        assert_eq!(config("dp=0-3").check(4, 0), Ok(()));
        assert_eq!(
            config("dp=1-4").check(4, 0),
            Err(ConfigError::NoSuchCore(4, 4))
        );
        assert_eq!(
            config("vcpus=1 dp=0-3").check(4, 0),
            Err(ConfigError::BootCore(0))
        );
        assert_eq!(
            config("vcpus=1 dp=3").check(4, 3),
            Err(ConfigError::BootCore(3))
        );
        let message = config("dp=4").check(4, 0).unwrap_err().to_string();
        assert!(
            message.contains("core 4") && message.contains("0 to 3"),
            "{message}"
        );
    }

    #[test]
    fn options_in_a_command_line() {
        let find = |line: &'static str| {
            find_in_bootargs(line).map(|(words, range)| {
                let mut rest = String::from(line);
                rest.replace_range(range, "");
                (words, rest)
            })
        };
        let found = |words, rest: &str| Some((words, rest.to_string()));
        assert_eq!(
            find("a taichi=\"vcpus=2 dp=1\" b"),
            found("vcpus=2 dp=1", "a b")
        );
        assert_eq!(find("taichi=vcpus=2 b"), found("vcpus=2", "b"));
        assert_eq!(find("a  taichi=\"\""), found("", "a"));
        assert_eq!(find("taichi="), found("", ""));
        assert_eq!(find("a taichi=\"vcpus=2 b"), found("vcpus=2 b", "a"));
        assert_eq!(
            find("x=\"a taichi=1\" taichi=2"),
            found("2", "x=\"a taichi=1\"")
        );
        for without in [
            "",
            "  ",
            "taichi",
            "ataichi=1",
            "x=\"taichi=1\"",
            "a -- taichi=1",
            "é",
        ] {
            assert_eq!(find(without), None, "{without}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_result(text in ".*") {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.to_string().is_empty());
            }
            if let Some((words, range)) = find_in_bootargs(&text) {
                prop_assert!(text[range].contains(words));
            }
        }

        #[test]
        fn times_have_their_unit(n in 1u64..1_000_000, unit in 0usize..4) {
            let (name, factor) = [("ns", 1), ("us", US), ("ms", MS), ("s", S)][unit];
            let text = std::format!("{n}{name}");
            prop_assert_eq!(duration(&text), Some(n * factor));
        }

        #[test]
        fn cutting_leaves_the_other_words(before in "[a-z =]{0,20}", after in "[a-z =]{0,20}") {
            prop_assume!(!before.contains("taichi") && !before.contains("--"));
            let line = std::format!("{before} taichi=\"vcpus=1 spin\" {after}");
            let (words, range) = find_in_bootargs(&line).unwrap();
            prop_assert_eq!(words, "vcpus=1 spin");
            let rest = std::format!("{}{}", &line[..range.start], &line[range.end..]);
            let expect = std::format!("{before} {after}");
            prop_assert!(rest.split_whitespace().eq(expect.split_whitespace()));
        }
    }
}
