// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Linux kernels: the arm64 Image in whatever it is packed, and modules in the
//! order of their dependencies.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use crate::build;
use crate::cache::Cache;
use crate::components::{self, Component};

/// Which kernel the guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Debian 12's own.
    Debian61,
    /// The same with PREEMPT_RT.
    Debian61Rt,
    /// The one of Debian 12's backports.
    Debian612,
    /// The same with PREEMPT_RT.
    Debian612Rt,
    /// The newest that Debian has for a stable release (in the backports of
    /// Debian 13) when it was installed; [`Kernel::release`] tells which.
    DebianNewest,
    /// Our bare-metal test guest, which is no Linux.
    Probe,
    /// None at all, to see what the firmware says.
    None,
    /// A file: an arm64 Image. It gets no modules.
    File(PathBuf),
}

impl FromStr for Kernel {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = [Self::Probe, Self::None];
        let mut named = Self::DEBIAN.into_iter().chain(named);
        Ok(named
            .find(|kernel| kernel.to_string() == text)
            .unwrap_or_else(|| Self::File(text.into())))
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian61 => f.write_str("6.1"),
            Self::Debian61Rt => f.write_str("6.1-rt"),
            Self::Debian612 => f.write_str("6.12"),
            Self::Debian612Rt => f.write_str("6.12-rt"),
            Self::DebianNewest => f.write_str("newest"),
            Self::Probe => f.write_str("probe"),
            Self::None => f.write_str("none"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Kernel {
    /// Debian's kernels, oldest first.
    pub const DEBIAN: [Self; 5] = [
        Self::Debian61,
        Self::Debian61Rt,
        Self::Debian612,
        Self::Debian612Rt,
        Self::DebianNewest,
    ];

    /// What a user may write for a kernel.
    pub const USAGE: &str = "6.1|6.1-rt|6.12|6.12-rt|newest|PATH";

    /// The component that holds it, for Debian's kernels.
    pub fn component(&self) -> Option<Component> {
        match self {
            Self::Debian61 => Some(Component::Kernel61),
            Self::Debian61Rt => Some(Component::Kernel61Rt),
            Self::Debian612 => Some(Component::Kernel612),
            Self::Debian612Rt => Some(Component::Kernel612Rt),
            Self::DebianNewest => Some(Component::KernelNewest),
            Self::Probe | Self::None | Self::File(_) => None,
        }
    }

    /// The file with the raw Image, if there is to be one; installs or builds
    /// what is missing.
    ///
    /// # Errors
    /// Where that fails, or there is no such file.
    pub fn image(&self, cache: &Cache) -> Result<Option<PathBuf>> {
        let path = match (self, self.component()) {
            (Self::None, _) => return Ok(None),
            (_, Some(component)) => {
                components::ensure(cache, &[component])?;
                cache.path(component.directory()).join("Image")
            }
            (Self::File(path), _) => path.clone(),
            _ => build::probe(cache)?.image,
        };
        let names = Self::DEBIAN.map(|k| k.to_string()).join(", ");
        ensure!(
            path.is_file(),
            "no kernel in {}; there are also {names}, probe and none",
            path.display()
        );
        Ok(Some(path))
    }

    /// What `uname -r` prints under it, for one of Debian's kernels that is
    /// installed.
    pub fn release(&self, cache: &Cache) -> Option<String> {
        let modules = cache
            .path(self.component()?.directory())
            .join("lib/modules");
        let entry = fs::read_dir(modules).ok()?.next()?.ok()?;
        Some(entry.file_name().to_string_lossy().into_owned())
    }

    /// Modules `names` and those they need, each after what it needs; files
    /// that are built in or missing are left out.
    ///
    /// # Errors
    /// Where a module file can't be read.
    pub fn modules(&self, cache: &Cache, names: &[&str]) -> Result<Vec<Module>> {
        let Some(component) = self.component() else {
            return Ok(Vec::new());
        };
        let root = cache.path(component.directory());
        let mut files = BTreeMap::new();
        list_modules(&root.join("lib/modules"), &mut files)?;
        let mut order = Vec::new();
        for name in names {
            add_module(name, &files, &mut order)?;
        }
        Ok(order)
    }
}

/// A module, unpacked.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name, with `_` for `-`.
    pub name: String,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

/// Checks an unpacked kernel package and puts its raw Image beside `lib/modules`.
///
/// # Errors
/// Where the package has no kernel of `series` (the beginning of a version), or
/// packed in an unknown way.
pub fn finish(root: &Path, series: &str) -> Result<()> {
    // Newer packages have all in one directory below /usr.
    let merged = root.join("usr/lib/modules");
    if merged.is_dir() {
        fs::create_dir_all(root.join("lib"))?;
        fs::rename(merged, root.join("lib/modules")).context("moving a kernel's modules")?;
    }
    let Some(packed) = packed_image(root, series)? else {
        bail!("the package holds no kernel {series}x: has Debian moved on?");
    };
    let image = unpack_image(fs::read(&packed)?)?;
    fs::write(root.join("Image"), image)?;
    // Device trees of a hundred boards.
    fs::remove_dir_all(root.join("usr")).context("pruning a kernel package")?;
    Ok(fs::remove_file(packed)?)
}

/// The `vmlinuz` of a kernel whose version begins with `series`: in /boot, or
/// with its modules.
fn packed_image(root: &Path, series: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(root.join("lib/modules"))? {
        let entry = entry?;
        let release = entry.file_name().to_string_lossy().into_owned();
        if !release.starts_with(series) {
            continue;
        }
        let places = [
            root.join("boot").join(format!("vmlinuz-{release}")),
            entry.path().join("vmlinuz"),
        ];
        if let Some(path) = places.into_iter().find(|p| p.is_file()) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Whether these are the first bytes of an arm64 Image (Linux,
/// Documentation/arch/arm64/booting.rst).
fn is_image(bytes: &[u8]) -> bool {
    bytes.get(56..60) == Some(b"ARM\x64")
}

/// The raw Image in a `vmlinuz`: as it is, with gzip, or as an EFI zboot
/// program around gzip.
fn unpack_image(bytes: Vec<u8>) -> Result<Vec<u8>> {
    if is_image(&bytes) {
        return Ok(bytes);
    }
    let mut packed = bytes.as_slice();
    if bytes.get(4..8) == Some(b"zimg") {
        // Linux, drivers/firmware/efi/libstub/zboot-header.S
        let word = |at: usize| -> Option<usize> {
            let word: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_le_bytes(word)).ok()
        };
        let range = word(8).zip(word(12)).context("a cut zboot header")?;
        packed = bytes
            .get(range.0..range.0.saturating_add(range.1))
            .context("a cut zboot file")?;
    }
    let mut image = Vec::new();
    flate2::read::GzDecoder::new(packed)
        .read_to_end(&mut image)
        .context("a kernel that is neither a raw Image nor packed with gzip")?;
    ensure!(is_image(&image), "a kernel that is no arm64 Image");
    Ok(image)
}

/// Collects module files below `directory` by name.
fn list_modules(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("reading modules in {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list_modules(&entry.path(), files)?;
        } else if let Some((name, "ko" | "ko.xz")) =
            entry.file_name().to_string_lossy().split_once('.')
        {
            files.insert(name.replace('-', "_"), entry.path());
        }
    }
    Ok(())
}

fn add_module(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    order: &mut Vec<Module>,
) -> Result<()> {
    let name = name.replace('-', "_");
    if order.iter().any(|m| m.name == name) {
        return Ok(());
    }
    let Some(path) = files.get(&name) else {
        return Ok(());
    };
    let bytes = read_module(path).with_context(|| format!("reading {}", path.display()))?;
    for needed in dependencies(&bytes) {
        add_module(&needed, files, order)?;
    }
    order.push(Module { name, bytes });
    Ok(())
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    if path.extension().is_none_or(|e| e != "xz") {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    lzma_rs::xz_decompress(&mut bytes.as_slice(), &mut plain)
        .map_err(|e| anyhow::anyhow!("unpacking: {e:?}"))?;
    Ok(plain)
}

/// The names in `depends=` of a module's .modinfo section.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let list = module[at + KEY.len()..]
        .split(|&b| b == 0)
        .next()
        .unwrap_or_default();
    let list = String::from_utf8_lossy(list);
    list.split(',')
        .filter(|n| !n.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn image() -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[56..60].copy_from_slice(b"ARM\x64");
        image
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        z.write_all(bytes).unwrap();
        z.finish().unwrap()
    }

    #[test]
    fn images_are_found_in_their_wrapping() {
        assert_eq!(unpack_image(image()).unwrap(), image());
        let z = gzip(&image());
        assert_eq!(unpack_image(z.clone()).unwrap(), image());
        let mut zboot = b"MZ\0\0zimg".to_vec();
        zboot.extend(64u32.to_le_bytes());
        zboot.extend(u32::try_from(z.len()).unwrap().to_le_bytes());
        zboot.resize(64, 0);
        zboot.extend(&z);
        assert_eq!(unpack_image(zboot.clone()).unwrap(), image());
        zboot.truncate(70);
        assert!(unpack_image(zboot).is_err());
        assert!(unpack_image(gzip(b"no kernel")).is_err());
        assert!(unpack_image(Vec::new()).is_err());
    }

    #[test]
    fn names_lead_to_kernels_and_back() {
        for name in ["6.1", "6.1-rt", "6.12", "6.12-rt", "newest", "none", "a/b"] {
            let Ok(kernel) = Kernel::from_str(name);
            assert_eq!(kernel.to_string(), name);
            assert_eq!(matches!(kernel, Kernel::File(_)), name == "a/b");
        }
    }

    #[test]
    fn usage_names_debians_kernels() {
        let names = Kernel::DEBIAN.map(|k| k.to_string()).join("|");
        assert_eq!(Kernel::USAGE, format!("{names}|PATH"));
    }

    /// Debian's two ways to lay out a kernel.
    #[test]
    fn kernels_of_old_and_new_packages_are_found() {
        for (vmlinuz, modules) in [
            ("boot/vmlinuz-6.1.0-rt", "lib/modules/6.1.0-rt/x.ko"),
            ("usr/lib/modules/7.3/vmlinuz", "usr/lib/modules/7.3/x.ko"),
        ] {
            let root = tempfile::tempdir().unwrap();
            for (file, bytes) in [(vmlinuz, image()), (modules, vec![]), ("usr/x", vec![])] {
                let path = root.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            assert!(finish(root.path(), "5.").is_err());
            finish(root.path(), "").unwrap();
            assert_eq!(fs::read(root.path().join("Image")).unwrap(), image());
            assert!(!root.path().join("usr").exists());
            let mut files = BTreeMap::new();
            list_modules(&root.path().join("lib/modules"), &mut files).unwrap();
            assert_eq!(files.into_keys().collect::<Vec<_>>(), ["x"]);
        }
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let dir = tempfile::tempdir().unwrap();
        for (name, depends) in [("c-a", "b,d"), ("b", "d"), ("d", "")] {
            let path = dir.path().join(format!("{name}.ko"));
            fs::write(path, format!("x\0depends={depends}\0name=x\0")).unwrap();
        }
        let mut files = BTreeMap::new();
        list_modules(dir.path(), &mut files).unwrap();
        let mut order = Vec::new();
        for name in ["c-a", "built_in"] {
            add_module(name, &files, &mut order).unwrap();
        }
        let names: Vec<_> = order.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["d", "b", "c_a"]);
    }
}
