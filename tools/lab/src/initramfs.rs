// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's file system: busybox, an init, our programs, and what the user
//! adds.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::components::Component;
use crate::cpio::Tree;
use crate::debs;
use crate::driver;
use crate::kernel::Kernel;

/// Modules that the guest needs to talk to us, as far as they aren't built in.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_console"];

/// A file or directory of the host that the guest gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// Where it is on the host.
    pub from: PathBuf,
    /// Where the guest sees it.
    pub to: String,
}

impl FromStr for Add {
    type Err = anyhow::Error;

    /// `SRC` or `SRC:DST`; without a `DST`, it goes to /root, where commands run.
    fn from_str(text: &str) -> Result<Self> {
        let (from, to) = text.split_once(':').unwrap_or((text, ""));
        let from = PathBuf::from(from);
        let to = match (to, from.file_name()) {
            ("", Some(name)) => format!("/root/{}", name.to_string_lossy()),
            ("", None) => bail!("{text} names no file; write SRC:DST"),
            (to, _) => to.to_owned(),
        };
        Ok(Self { from, to })
    }
}

/// What the guest's first process runs.
#[derive(Clone, Debug)]
pub enum Session<'a> {
    /// A command, with its output on virtio ports.
    Command {
        /// The command and its arguments.
        words: &'a [String],
        /// Whether its input comes from a port too; else it is empty.
        input: bool,
    },
    /// A shell on a terminal of this many rows and columns.
    Terminal {
        /// Lines of the terminal.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
}

/// Everything in the guest's file system.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The kernel, for its modules.
    pub kernel: &'a Kernel,
    /// Modules beyond those that the lab needs; our test driver may be one.
    pub modules: &'a [String],
    /// Our own programs, put in /usr/bin.
    pub programs: &'a [PathBuf],
    /// Files of the user.
    pub add: &'a [Add],
    /// Debian packages.
    pub debs: &'a [String],
    /// What runs.
    pub session: Session<'a>,
}

/// Builds the archive.
///
/// # Errors
/// Where a file can't be read or a package can't be had.
pub fn build(cache: &Cache, contents: &Contents) -> Result<Vec<u8>> {
    let mut tree = Tree::new();
    for directory in [
        "dev",
        "proc",
        "sys",
        "tmp",
        "run",
        "root",
        "etc/taichi",
        "var/tmp",
    ] {
        tree.directory(directory);
    }
    debs::add(cache, contents.debs, &mut tree)?;
    busybox(cache, &mut tree)?;
    modules(cache, contents, &mut tree)?;
    for program in contents.programs {
        let name = program
            .file_name()
            .context("a program without a name")?
            .to_string_lossy();
        tree.add(program, &format!("usr/bin/{name}"), &|_| false)?;
    }
    for Add { from, to } in contents.add {
        tree.add(from, to.trim_matches('/'), &|_| false)?;
    }
    let command = match &contents.session {
        Session::Command { words, input } => {
            if *input {
                tree.file("etc/taichi/input", 0o644, "");
            }
            format!("exec {}", quote(words))
        }
        Session::Terminal { rows, columns } => {
            tree.file(
                "etc/taichi/terminal",
                0o644,
                format!("rows {rows} cols {columns}\n"),
            );
            "echo 'Leave with exit or ctrl-D.'\nexec sh -l".to_owned()
        }
    };
    tree.file(
        "etc/taichi/command",
        0o755,
        format!("#!/bin/sh\n{command}\n"),
    );
    tree.file("etc/profile", 0o644, "PS1='guest:\\w# '\n");
    for (path, line) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\n"),
        ("etc/hosts", "127.0.0.1 localhost taichi\n"),
    ] {
        if !tree.has(path) {
            tree.file(path, 0o644, line);
        }
    }
    tree.file("init", 0o755, include_str!("init.sh"));
    tree.archive()
}

/// Puts modules into the tree, with a list in the order in which they load.
fn modules(cache: &Cache, contents: &Contents, tree: &mut Tree) -> Result<()> {
    let mut names = MODULES.to_vec();
    names.extend(contents.modules.iter().map(String::as_str));
    let mut list = String::new();
    let mut modules = contents.kernel.modules(cache, &names)?;
    if contents.modules.iter().any(|name| driver::is_named(name)) {
        modules.push(driver::module(cache, contents.kernel)?);
    }
    for module in modules {
        tree.file(
            &format!("usr/lib/modules/taichi/{}.ko", module.name),
            0o644,
            module.bytes,
        );
        list += &module.name;
        list.push('\n');
    }
    tree.file("etc/taichi/modules", 0o644, list);
    Ok(())
}

/// busybox, with a link for each of its applets that no package provides.
fn busybox(cache: &Cache, tree: &mut Tree) -> Result<()> {
    let root = cache.path(Component::Busybox.directory());
    let path = ["bin/busybox", "usr/bin/busybox"].map(|p| root.join(p));
    let bytes = path
        .iter()
        .find_map(|p: &PathBuf| fs::read(p as &Path).ok());
    let bytes = bytes.with_context(|| format!("no busybox in {}", root.display()))?;
    for applet in applets(&bytes) {
        if !tree.has(&format!("usr/bin/{applet}")) && !tree.has(&format!("usr/sbin/{applet}")) {
            tree.link(&format!("usr/bin/{applet}"), "busybox");
        }
    }
    tree.file("usr/bin/busybox", 0o755, bytes);
    Ok(())
}

/// The applets in a busybox: it holds their sorted names, the first of which
/// are `[` and `[[`, each with a zero byte behind, and another one at the end.
fn applets(busybox: &[u8]) -> Vec<String> {
    const FIRST: &[u8] = b"\0[\0[[\0";
    let Some(at) = busybox.windows(FIRST.len()).position(|w| w == FIRST) else {
        return vec!["sh".to_owned()];
    };
    busybox[at + 1..]
        .split(|&b| b == 0)
        .take_while(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| name != "busybox")
        .collect()
}

/// Words as a shell reads them back.
fn quote(words: &[String]) -> String {
    let quoted = words
        .iter()
        .map(|w| format!("'{}'", w.replace('\'', r"'\''")));
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        let words = ["a b", "it's", "$x", ""].map(String::from);
        let out = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("printf '%s|' {}", quote(&words)))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), "a b|it's|$x||");
    }

    #[test]
    fn additions_have_a_place() {
        let add = |t: &str| Add::from_str(t).unwrap();
        assert_eq!(
            add("/x/tool"),
            Add {
                from: "/x/tool".into(),
                to: "/root/tool".into()
            }
        );
        assert_eq!(
            add("a:/etc/b"),
            Add {
                from: "a".into(),
                to: "/etc/b".into()
            }
        );
        assert!(Add::from_str("/..").is_err());
    }

    #[test]
    fn applets_are_read_from_the_program() {
        assert_eq!(
            applets(b"xx\0[\0[[\0cat\0sh\0\0yy\0"),
            ["[", "[[", "cat", "sh"]
        );
        assert_eq!(applets(b"other"), ["sh"]);
    }
}
