// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The book: it builds without a complaint, holds every page in docs/, and all
//! its links lead somewhere.
//!
//! Links are checked in what mdBook wrote, where they and the names of headings
//! are plain attributes, and nobody need know how it makes them. Link checkers
//! on crates.io bring an HTTP client, which takes minutes to build.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::install::MDBOOK;
use crate::build;
use crate::cache::Cache;

/// Builds the book and checks it.
///
/// # Errors
/// A line for everything that is wrong.
pub fn check(cache: &Cache) -> Result<()> {
    let docs = build::workspace().join("docs");
    let book = build::target_directory().join("book");
    let out = Command::new(MDBOOK.ensure(cache)?)
        .args(["build", "--dest-dir"])
        .args([&book, &docs])
        .stdin(Stdio::null())
        .output()
        .context("running mdbook")?;
    let log = String::from_utf8_lossy(&out.stderr);
    let mut levels = log.lines().filter_map(|l| l.split_whitespace().next());
    let complains = levels.any(|level| level == "WARN" || level == "ERROR");
    let fine = out.status.success() && !complains;
    ensure!(fine, "mdbook: {}", log.trim());

    let mut wrong = left_out(&docs, &book)?;
    wrong.extend(dead_links(&pages(&book)?, |path| book.join(path).is_file()));
    wrong.extend(dead_links_in_readme()?);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// Pages of docs/ that the book lacks, because SUMMARY.md does.
fn left_out(docs: &Path, book: &Path) -> Result<Vec<String>> {
    let pages = files(docs, "md")?.into_iter();
    let lacking = pages.filter(|page| {
        let built = match page.file_name().and_then(|n| n.to_str()) {
            Some("SUMMARY.md") => return false,
            Some("README.md") => page.with_file_name("index.html"),
            _ => page.with_extension("html"),
        };
        !book.join(built).is_file()
    });
    Ok(lacking
        .map(|page| format!("docs/{}: not in SUMMARY.md", page.display()))
        .collect())
}

/// The built pages by path. The page for printing is all the others again, and
/// the one for errors is served at any place.
fn pages(book: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let pages = files(book, "html")?.into_iter();
    pages
        .filter(|page| !["404.html", "print.html"].iter().any(|n| page.ends_with(n)))
        .map(|page| {
            let text = fs::read_to_string(book.join(&page))
                .with_context(|| format!("reading {}", page.display()))?;
            Ok((page, text))
        })
        .collect()
}

/// Links in `pages` to a file that `exists` denies or a heading that isn't there.
fn dead_links(pages: &BTreeMap<PathBuf, String>, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut dead = Vec::new();
    for (page, text) in pages {
        for link in attributes(text, "href").chain(attributes(text, "src")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if file.contains(':') {
                continue;
            }
            let target = if file.is_empty() {
                page.clone()
            } else {
                relative(page, file)
            };
            let has = |text: &String| attributes(text, "id").any(|id| id == heading);
            let alive = (pages.contains_key(&target) || exists(&target))
                && (heading.is_empty() || pages.get(&target).is_some_and(has));
            if !alive {
                dead.push(format!("{}: {link} leads nowhere", page.display()));
            }
        }
    }
    dead
}

/// The values of an attribute in a page.
fn attributes<'a>(html: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let start = format!(" {name}=\"");
    let found: Vec<_> = html
        .match_indices(&start)
        .map(|(at, s)| at + s.len())
        .collect();
    found
        .into_iter()
        .filter_map(|at| html[at..].split_once('"').map(|(value, _)| value))
}

/// Where a link in `page` leads, without `..` on the way.
fn relative(page: &Path, link: &str) -> PathBuf {
    let mut target = page.parent().unwrap_or(Path::new("")).to_path_buf();
    for part in Path::new(link).components() {
        match part {
            Component::CurDir => {}
            // From the book's root this leaves the book: a path that isn't in it.
            Component::ParentDir if target.pop() => {}
            part => target.push(part),
        }
    }
    target
}

/// The README is no page of the book, but it is what everybody reads first.
fn dead_links_in_readme() -> Result<Vec<String>> {
    let root = build::workspace();
    let text = fs::read_to_string(root.join("README.md")).context("reading README.md")?;
    let links = text
        .match_indices("](")
        .filter_map(|(at, _)| text[at + 2..].split_once(')'))
        .map(|(link, _)| link);
    Ok(links
        .filter(|link| !link.contains(':') && !root.join(link).exists())
        .map(|link| format!("README.md: {link} leads nowhere"))
        .collect())
}

/// All files below `root` with an extension, by their paths from there.
fn files(root: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let (mut files, mut directories) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(directory) = directories.pop() {
        let path = root.join(&directory);
        for entry in fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))? {
            let entry = entry?;
            let name = directory.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                directories.push(name);
            } else if name.extension().is_some_and(|e| e == extension) {
                files.push(name);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_are_found_and_live_ones_pass() {
        let page = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
        let pages = BTreeMap::from([
            page(
                "index.html",
                r##"<h2 id="one"><a href="#one"> <a href="d/x.html#two"> <img src="p.svg">
                    <a href="https://x.org/y#z"> <a href="#gone"> <a href="lost.html">"##,
            ),
            page(
                "d/x.html",
                r#"<b id="two"> <a href="../index.html#one"> <a href="../index.html#two">
                   <a href="../../p.svg">"#,
            ),
        ]);
        let dead = dead_links(&pages, |path| path == Path::new("p.svg"));
        assert_eq!(
            dead,
            [
                "d/x.html: ../index.html#two leads nowhere",
                "d/x.html: ../../p.svg leads nowhere",
                "index.html: #gone leads nowhere",
                "index.html: lost.html leads nowhere",
            ]
        );
    }
}
