//! `manifest.json`: for each saved figure what it is, where it came from, and the checksums of its files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fonts;
use super::save::{sweep, write_whole};
use super::spec::Figure;
use crate::{Error, Result, session};

/// One figure's line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub title: String,
    pub files: BTreeMap<String, FileEntry>,
    pub inches: (f64, f64),
    pub venue: String,
    pub fonts: Vec<String>,
    pub notebook: Option<String>,
    pub parameters: BTreeMap<String, Value>,
    pub seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    pub machine: Machine,
    pub git: Option<Git>,
    /// UTC, to the second: `2026-11-23T01:01:01Z`.
    pub date: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    pub sha256: String,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub cpu: String,
    pub threads: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Git {
    pub commit: String,
    /// Whether tracked files other than figures differ from the commit.
    pub dirty: bool,
}

/// All lines, by stem.
pub(super) type Manifest = BTreeMap<String, Entry>;

impl Entry {
    /// The line of `figure`, saved in this session now.
    pub fn now(figure: &Figure, files: BTreeMap<String, FileEntry>, inches: (f64, f64)) -> Entry {
        let session = session::current();
        let thousandths = |value: f64| (value * 1000.0).round() / 1000.0;
        Entry {
            title: figure.title.clone(),
            files,
            inches: (thousandths(inches.0), thousandths(inches.1)),
            venue: figure.venue.name().into(),
            fonts: vec![fonts::NAME.into()],
            notebook: session.notebook.as_deref().map(portable),
            parameters: session.params.clone(),
            seed: figure.seed,
            notes: figure.notes(),
            machine: Machine {
                cpu: cpu_model(),
                threads: std::thread::available_parallelism().map_or(1, usize::from),
            },
            git: git_state(&session::root()),
            date: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        }
    }

    /// Whether only date and commit differ.
    fn says_the_same_as(&self, other: &Entry) -> bool {
        let timeless = |entry: &Entry| Entry {
            git: None,
            date: String::new(),
            ..entry.clone()
        };
        timeless(self) == timeless(other)
    }
}

/// Holds the directory's manifest against other processes until dropped.
///
/// # Errors
/// [`Error::Io`] if the lock file cannot be made or locked.
pub(super) fn lock(figures: &Path) -> Result<File> {
    let path = figures.join(".manifest.lock");
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    file.lock().map_err(Error::io("lock", &path))?;
    Ok(file)
}

/// Reads the manifest; none = empty.
///
/// # Errors
/// [`Error::Io`]; [`Error::Json`] if it is not a manifest (it is then left as it is).
pub(super) fn read(figures: &Path) -> Result<Manifest> {
    let path = figures.join("manifest.json");
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|source| Error::Json {
            context: path.display().to_string(),
            source,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Manifest::new()),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Sets the line of `stem`, unless only date and commit would change. Only under [`lock`].
///
/// # Errors
/// As [`read`].
pub(super) fn record(figures: &Path, stem: &str, entry: Entry) -> Result<()> {
    let mut manifest = read(figures)?;
    sweep(figures);
    if let Some(directory) = figures.join(stem).parent() {
        sweep(directory);
    }
    if manifest
        .get(stem)
        .is_some_and(|old| old.says_the_same_as(&entry))
    {
        return Ok(());
    }
    manifest.insert(stem.to_owned(), entry);
    let json = serde_json::to_string_pretty(&manifest).map_err(|source| Error::Json {
        context: "manifest.json".into(),
        source,
    })?;
    write_whole(&figures.join("manifest.json"), (json + "\n").as_bytes())
}

/// A notebook's path as it is in any checkout: relative to the root, or its name alone.
fn portable(notebook: &str) -> String {
    let path = Path::new(notebook);
    if path.is_relative() {
        return notebook.to_owned();
    }
    let inside = path
        .strip_prefix(session::root())
        .ok()
        .map(Path::to_path_buf);
    let name = || path.file_name().map(Into::into);
    inside
        .or_else(name)
        .unwrap_or_default()
        .display()
        .to_string()
}

fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

/// Commit and cleanness of the checkout at `root`; `None` without git or outside a checkout.
fn git_state(root: &Path) -> Option<Git> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(root)
            .args(arguments)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let changes = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ".",
        ":(exclude)figures",
    ])?;
    Some(Git {
        commit,
        dirty: !changes.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notebooks_are_named_portably() {
        assert_eq!(portable("quant/gptq.ipynb"), "quant/gptq.ipynb");
        assert_eq!(portable("/somewhere/else/gptq.ipynb"), "gptq.ipynb");
    }
}
