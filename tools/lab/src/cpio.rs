// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tree of files, and its archive in the "newc" format that Linux unpacks as
//! its first file system (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The same tree always gives the same bytes: entries are sorted, times are 0,
//! everything belongs to root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Directories that are links into /usr on Debian.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Files of a guest by path, without a leading slash.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Directory,
    File { mode: u32, bytes: Vec<u8> },
    Link(String),
}

impl Tree {
    /// An empty tree with Debian's merged /usr.
    pub fn new() -> Self {
        let mut tree = Self::default();
        for name in MERGED {
            tree.directory(&format!("usr/{name}"));
            tree.nodes
                .insert(name.to_owned(), Node::Link(format!("usr/{name}")));
        }
        tree
    }

    /// Adds an empty directory and those above it.
    pub fn directory(&mut self, path: &str) {
        let path = merged(path);
        self.parents(&path);
        self.nodes.entry(path).or_insert(Node::Directory);
    }

    /// Adds or replaces a file with permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        let path = merged(path);
        self.parents(&path);
        self.nodes.insert(
            path,
            Node::File {
                mode,
                bytes: bytes.into(),
            },
        );
    }

    /// Adds or replaces a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        let path = merged(path);
        self.parents(&path);
        self.nodes.insert(path, Node::Link(target.to_owned()));
    }

    /// Whether something has this path.
    pub fn has(&self, path: &str) -> bool {
        self.nodes.contains_key(&merged(path))
    }

    /// Adds a file or directory of the host, with everything in it; paths for
    /// which `skip` is true are left out.
    ///
    /// # Errors
    /// Where something can't be read, or is no file, directory or link.
    pub fn add(&mut self, from: &Path, to: &str, skip: &dyn Fn(&str) -> bool) -> Result<()> {
        if skip(to) {
            return Ok(());
        }
        let context = || format!("reading {}", from.display());
        let meta = fs::symlink_metadata(from).with_context(context)?;
        if meta.is_symlink() {
            let target = fs::read_link(from).with_context(context)?;
            // A package's link must not replace a directory of another one.
            if !matches!(self.nodes.get(&merged(to)), Some(Node::Directory)) {
                self.link(to, &target.to_string_lossy());
            }
        } else if meta.is_dir() {
            if !to.is_empty() {
                self.directory(to);
            }
            for entry in fs::read_dir(from).with_context(context)? {
                let entry = entry.with_context(context)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let to = if to.is_empty() {
                    name
                } else {
                    format!("{to}/{name}")
                };
                self.add(&entry.path(), &to, skip)?;
            }
        } else {
            ensure!(
                meta.is_file(),
                "{} is not a file or directory",
                from.display()
            );
            let bytes = fs::read(from).with_context(context)?;
            self.file(to, meta.permissions().mode() & 0o7777, bytes);
        }
        Ok(())
    }

    /// The archive.
    ///
    /// # Errors
    /// With a file of 4 GiB or more.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (inode, (path, node)) in (1..).zip(&self.nodes) {
            let (mode, bytes): (u32, &[u8]) = match node {
                Node::Directory => (0o040_755, &[]),
                Node::File { mode, bytes } => (0o100_000 | mode, bytes),
                Node::Link(target) => (0o120_777, target.as_bytes()),
            };
            entry(&mut out, inode, mode, path, bytes)?;
        }
        entry(&mut out, 0, 0, "TRAILER!!!", &[])?;
        Ok(out)
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.nodes
                .entry(path[..at].to_owned())
                .or_insert(Node::Directory);
        }
    }
}

/// A path as it is on a system with a merged /usr.
fn merged(path: &str) -> String {
    let path = path.trim_matches('/');
    match path.split_once('/') {
        Some((first, _)) if MERGED.contains(&first) => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

fn entry(out: &mut Vec<u8>, inode: u32, mode: u32, path: &str, bytes: &[u8]) -> Result<()> {
    let size = u32::try_from(bytes.len()).with_context(|| format!("{path} is too big"))?;
    let name = u32::try_from(path.len() + 1)?;
    let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
    out.extend(b"070701");
    for field in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name, 0] {
        out.extend(format!("{field:08X}").bytes());
    }
    out.extend(path.bytes());
    out.push(0);
    pad(out);
    out.extend(bytes);
    pad(out);
    Ok(())
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_documented_layout() {
        let mut tree = Tree::default();
        tree.file("a/f", 0o755, *b"hello");
        let archive = tree.archive().unwrap();
        assert_eq!(archive.len() % 4, 0);
        // The directory first, then the file: 110 bytes of header each.
        assert_eq!(&archive[..14], b"07070100000001");
        assert_eq!(&archive[14..22], b"000041ED");
        assert_eq!(&archive[110..112], b"a\0");
        let file = &archive[112..];
        assert_eq!(&file[14..22], b"000081ED");
        assert_eq!(&file[54..62], b"00000005");
        assert_eq!(&file[110..114], b"a/f\0");
        assert_eq!(&file[116..121], b"hello");
        assert!(archive.windows(10).any(|w| w == b"TRAILER!!!"));
    }

    #[test]
    fn usr_is_merged_whoever_adds_what() {
        let mut tree = Tree::new();
        tree.file("/bin/x", 0o755, *b"1");
        tree.file("lib/aarch64-linux-gnu/y", 0o644, *b"2");
        assert!(
            tree.has("usr/bin/x") && tree.has("/bin/x") && tree.has("/usr/lib/aarch64-linux-gnu/y")
        );
        assert!(matches!(tree.nodes["bin"], Node::Link(_)));
    }

    #[test]
    fn host_files_keep_their_modes_and_order_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x"), "x").unwrap();
        fs::write(dir.path().join("skipped"), "x").unwrap();
        std::os::unix::fs::symlink("x", dir.path().join("l")).unwrap();
        fs::set_permissions(dir.path().join("x"), fs::Permissions::from_mode(0o4711)).unwrap();
        let mut tree = Tree::new();
        tree.add(dir.path(), "opt", &|p| p.ends_with("skipped"))
            .unwrap();
        assert!(matches!(
            tree.nodes["opt/x"],
            Node::File { mode: 0o4711, .. }
        ));
        assert!(matches!(&tree.nodes["opt/l"], Node::Link(t) if t == "x"));
        assert!(!tree.has("opt/skipped"));
        assert!(tree.add(&dir.path().join("none"), "y", &|_| false).is_err());
    }
}
