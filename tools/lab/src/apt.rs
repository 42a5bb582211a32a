// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian packages, without touching the host's own.
//!
//! apt and dpkg-deb run with a configuration, sources, lists and an (empty)
//! package state of ours, as any user. From the host's apt come the mirrors,
//! the keyrings and the proxies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use crate::cache::Cache;
use crate::progress;

/// Lists older than this are fetched again before something is installed.
const STALE: Duration = Duration::from_secs(12 * 3600);

/// Whose programs a package holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The machine that the lab runs on (amd64).
    Host,
    /// The guest (arm64).
    Guest,
}

/// Which of Debian's suites is preferred. The names stand in the stamps of what
/// is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12 with its security updates.
    Stable,
    /// Its backports.
    Backports,
    /// The backports of Debian 13, for its kernel.
    TrixieBackports,
}

impl Suite {
    /// The release that it belongs to, by Debian's code name.
    fn release(self) -> &'static str {
        match self {
            Self::Stable | Self::Backports => "bookworm",
            Self::TrixieBackports => "trixie",
        }
    }

    /// apt's state for the release. Each has its own, for apt would take
    /// everything from the newer one.
    fn directory(self) -> &'static str {
        match self {
            Self::Stable | Self::Backports => "apt",
            Self::TrixieBackports => "apt-trixie",
        }
    }
}

/// One package file, as resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `amd64`, `arm64` or `all`.
    pub arch: String,
}

impl Package {
    /// Takes apart `name_version_arch.deb`.
    fn from_file_name(file: &str) -> Option<Self> {
        let stem = file.strip_suffix(".deb")?;
        let mut parts = stem.split('_');
        let package = Self {
            name: parts.next()?.to_owned(),
            version: parts.next()?.replace("%3a", ":"),
            arch: parts.next()?.to_owned(),
        };
        parts.next().is_none().then_some(package)
    }

    /// The word that makes `apt-get download` fetch exactly this one.
    fn download_word(&self) -> String {
        match self.arch.as_str() {
            "all" => format!("{}={}", self.name, self.version),
            arch => format!("{}:{arch}={}", self.name, self.version),
        }
    }

    /// A name for the directory that it is unpacked in.
    pub fn directory(&self) -> String {
        format!(
            "{}_{}_{}",
            self.name,
            self.version.replace(':', "%3a"),
            self.arch
        )
    }
}

/// A private apt in the cache, for one suite.
#[derive(Debug)]
pub struct Apt {
    root: PathBuf,
    suite: Suite,
}

impl Apt {
    /// Prepares the private state and fetches the package lists where they are
    /// missing or old. The cache's lock must be held.
    ///
    /// # Errors
    /// Where the host has no apt, knows no Debian mirror, or the mirror can't
    /// be reached.
    pub fn open(cache: &Cache, suite: Suite) -> Result<Self> {
        let apt = Self {
            root: cache.path(suite.directory()),
            suite,
        };
        for dir in ["etc", "lists/partial", "archives/partial", "host", "guest"] {
            let dir = apt.root.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        fs::write(apt.root.join("status"), "")?;
        let sources = sources(suite.release())?;
        let list = apt.root.join("etc/sources.list");
        let changed = fs::read_to_string(&list).ok().as_deref() != Some(&sources);
        if changed {
            fs::write(&list, &sources)?;
        }
        let settings = host_settings()?;
        for side in [Side::Host, Side::Guest] {
            fs::write(apt.config(side), configuration(&apt.root, side, &settings))?;
        }
        let stamp = apt.root.join("updated");
        let fresh = fs::metadata(&stamp)
            .and_then(|m| m.modified())
            .is_ok_and(|then| {
                SystemTime::now()
                    .duration_since(then)
                    .is_ok_and(|age| age < STALE)
            });
        if changed || !fresh {
            apt.update()?;
            fs::write(stamp, "")?;
        }
        Ok(apt)
    }

    fn config(&self, side: Side) -> PathBuf {
        self.root.join(match side {
            Side::Host => "host.conf",
            Side::Guest => "guest.conf",
        })
    }

    fn command(&self, side: Side) -> Command {
        let mut command = Command::new("apt-get");
        command
            .env("APT_CONFIG", self.config(side))
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    fn update(&self) -> Result<()> {
        progress::step(format!(
            "fetching the package lists of Debian's {}",
            self.suite.release()
        ));
        let spinner = progress::spinner("apt-get update");
        let out = self
            .command(Side::Host)
            .args(["-qq", "update"])
            .output()
            .context(NO_APT)?;
        spinner.finish_and_clear();
        let text = String::from_utf8_lossy(&out.stderr);
        // apt-get succeeds when just some lists failed.
        ensure!(
            out.status.success() && !text.contains("Failed to fetch"),
            "apt-get update failed; are the mirrors in {} reachable?\n{text}",
            self.root.join("etc/sources.list").display()
        );
        Ok(())
    }

    /// All packages that `wanted` needs, itself included, as on a machine on
    /// which nothing is installed; recommendations are left out.
    ///
    /// # Errors
    /// Where a package doesn't exist or can't be installed.
    pub fn resolve(&self, side: Side, wanted: &[&str]) -> Result<Vec<Package>> {
        let mut command = self.command(side);
        command.args([
            "-qq",
            "-y",
            "--no-install-recommends",
            "--print-uris",
            "install",
        ]);
        if self.suite != Suite::Stable {
            command.args(["-t", &format!("{}-backports", self.suite.release())]);
        }
        let out = command.args(wanted).output().context(NO_APT)?;
        ensure!(
            out.status.success(),
            "no way to install {}: {}",
            wanted.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        );
        let text = String::from_utf8(out.stdout).context("apt-get printed no UTF-8")?;
        let mut packages = Vec::new();
        for line in text.lines().filter(|l| l.starts_with('\'')) {
            let file = line
                .split_ascii_whitespace()
                .nth(1)
                .and_then(Package::from_file_name);
            packages.push(file.with_context(|| format!("apt-get printed {line}"))?);
        }
        packages.sort();
        Ok(packages)
    }

    /// Fetches package files and returns them in the order of `packages`;
    /// apt checks their signatures and sums.
    ///
    /// # Errors
    /// Where a file can't be fetched or isn't what the list says.
    pub fn download(&self, side: Side, packages: &[Package], what: &str) -> Result<Vec<PathBuf>> {
        if packages.is_empty() {
            // apt-get takes no packages for a mistake.
            return Ok(Vec::new());
        }
        let directory = self.root.join("archives");
        let mut child = self
            .command(side)
            .args(["-q=2", "-o", "APT::Status-Fd=1", "download"])
            .args(packages.iter().map(Package::download_word))
            .current_dir(&directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(NO_APT)?;
        let bar = progress::bar(format!("fetching {what}"), 100);
        if let Some(out) = child.stdout.take() {
            for line in BufReader::new(out).lines() {
                if let Some(percent) = percent(&line?) {
                    bar.set_position(percent);
                }
            }
        }
        let out = child.wait_with_output()?;
        bar.finish_and_clear();
        ensure!(
            out.status.success(),
            "fetching {what} failed; try again\n{}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
        packages.iter().map(|p| find(&directory, p)).collect()
    }
}

const NO_APT: &str = "running apt-get; the lab installs Debian packages into its cache with it";

/// The percentage in a line of apt's status protocol (`dlstatus:1:12.5:…`).
fn percent(line: &str) -> Option<u64> {
    let number = line.strip_prefix("dlstatus:")?.split(':').nth(1)?;
    number.split('.').next()?.parse().ok()
}

/// The file of a package; apt may write `:` and `~` in it encoded or not.
fn find(directory: &Path, package: &Package) -> Result<PathBuf> {
    let Package {
        name,
        version,
        arch,
    } = package;
    let plain = version.replace(':', "%3a");
    for version in [plain.clone(), plain.replace('~', "%7e").replace('+', "%2b")] {
        let path = directory.join(format!("{name}_{version}_{arch}.deb"));
        if path.exists() {
            return Ok(path);
        }
    }
    bail!(
        "apt-get fetched no file for {name} {version} in {}",
        directory.display()
    )
}

/// Unpacks package files over one another and removes them.
///
/// # Errors
/// Where dpkg-deb is missing or fails (a full disk, most often).
pub fn unpack(files: &[PathBuf], into: &Path, what: &str) -> Result<()> {
    let bar = progress::bar(format!("unpacking {what}"), files.len() as u64);
    for file in files {
        let out = Command::new("dpkg-deb")
            .arg("-x")
            .arg(file)
            .arg(into)
            .output();
        let out = out.context("running dpkg-deb")?;
        ensure!(
            out.status.success(),
            "unpacking {}: {}",
            file.display(),
            String::from_utf8_lossy(&out.stderr).trim()
        );
        bar.inc(1);
    }
    bar.finish_and_clear();
    for file in files {
        fs::remove_file(file).with_context(|| format!("removing {}", file.display()))?;
    }
    Ok(())
}

/// Our sources: a release, its security updates and backports, from where the
/// host gets its own Debian.
fn sources(release: &str) -> Result<String> {
    let out = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"])
        .output()
        .context(NO_APT)?;
    let known = mirrors(&String::from_utf8_lossy(&out.stdout));
    let mut text = String::new();
    for (kind, suite) in [
        ("", ""),
        ("", "-updates"),
        ("", "-backports"),
        ("-security", "-security"),
    ] {
        let fallback = format!("http://deb.debian.org/debian{kind}/");
        let uri = known.get(kind).map_or(fallback.as_str(), String::as_str);
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let signed = match Path::new(keyring).exists() {
            true => format!("[signed-by={keyring}] "),
            false => String::new(),
        };
        writeln!(text, "deb {signed}{uri} {release}{suite} main")?;
    }
    Ok(text)
}

/// The mirrors of Debian proper (key "") and of its security updates (key
/// "-security") in what apt prints about its lists.
fn mirrors(targets: &str) -> BTreeMap<&'static str, String> {
    let mut known = BTreeMap::new();
    for line in targets.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(uri), Some(release)) = (words.next(), words.next()) else {
            continue;
        };
        let kind = match uri.trim_end_matches('/').rsplit('/').next() {
            Some("debian") => "",
            Some("debian-security") if release.ends_with("-security") => "-security",
            _ => continue,
        };
        known.entry(kind).or_insert_with(|| uri.to_owned());
    }
    known
}

/// The host's settings on how to reach mirrors (proxies and the like), as
/// lines of a configuration file.
fn host_settings() -> Result<String> {
    let out = Command::new("apt-config")
        .arg("dump")
        .output()
        .context(NO_APT)?;
    let keep = |line: &&str| {
        line.starts_with("Acquire::")
            && ![
                "Acquire::IndexTargets",
                "Acquire::CompressionTypes",
                "Acquire::Changelogs",
            ]
            .iter()
            .any(|p| line.starts_with(p))
    };
    Ok(String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter(keep)
        .collect::<Vec<_>>()
        .join("\n"))
}

/// The whole configuration of one side; the host's files aren't read beside it.
fn configuration(root: &Path, side: Side, settings: &str) -> String {
    let root = root.display();
    let (own, name) = match side {
        Side::Host => ("amd64", "host"),
        Side::Guest => ("arm64", "guest"),
    };
    format!(
        r#"{settings}
APT::Architecture "{own}";
APT::Architectures {{ "amd64"; "arm64"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/{name}";
Dir::Cache::archives "{root}/archives";
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::sourcelist "{root}/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::Etc::trusted "/etc/apt/trusted.gpg";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_download_is_no_failure() {
        let apt = Apt {
            root: "/nowhere".into(),
            suite: Suite::Stable,
        };
        let files = apt.download(Side::Guest, &[], "nothing").unwrap();
        assert!(files.is_empty());
    }

    #[test]
    fn package_files_are_taken_apart() {
        let p = Package::from_file_name("zlib1g_1%3a1.2.13.dfsg-1_arm64.deb").unwrap();
        assert_eq!(
            (p.name.as_str(), p.version.as_str()),
            ("zlib1g", "1:1.2.13.dfsg-1")
        );
        assert_eq!(p.download_word(), "zlib1g:arm64=1:1.2.13.dfsg-1");
        assert_eq!(p.directory(), "zlib1g_1%3a1.2.13.dfsg-1_arm64");
        assert_eq!(Package::from_file_name("zlib1g_1.deb"), None);
        assert_eq!(Package::from_file_name("README"), None);
    }

    #[test]
    fn mirrors_of_the_host_are_taken_over() {
        let known = mirrors(
            "http://m/debian/ bookworm\nhttp://n/debian/ bookworm-updates\n\
             https://x/apt/ cloud-sdk-bookworm\nhttp://s/debian-security/ bookworm-security\n",
        );
        assert_eq!(known[""], "http://m/debian/");
        assert_eq!(known["-security"], "http://s/debian-security/");
        assert_eq!(known.len(), 2);
    }

    #[test]
    fn progress_is_read() {
        assert_eq!(
            percent("dlstatus:2:82.6855:Retrieving file 2 of 2"),
            Some(82)
        );
        assert_eq!(percent("pmstatus:x:1"), None);
    }
}
