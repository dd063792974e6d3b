//! What a name stands for: files, and where they come from. A user's own files as well.

use std::path::{Path, PathBuf};

use super::cache::sha256_file;
use super::folder;
use super::provenance::{FileRecord, Provenance, Weights};
use super::registry::{self, Edition, Entry, Kind};
use crate::{Error, Result};

/// A model or a corpus as local, verified files.
#[derive(Debug, Clone)]
pub struct Asset {
    /// The files; the main one first.
    pub files: Vec<PathBuf>,
    /// Where they come from.
    pub provenance: Provenance,
}

impl Asset {
    /// The main file.
    pub fn path(&self) -> &Path {
        // An asset is only ever made with at least one file.
        self.files.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// The file of this name, if it is one of ours.
    pub fn file(&self, name: &str) -> Option<&Path> {
        self.files
            .iter()
            .find(|path| path.file_name().is_some_and(|its| its == name))
            .map(PathBuf::as_path)
    }

    /// The main file's text, exactly as it is (line ends included).
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read or is not UTF-8.
    pub fn text(&self) -> Result<String> {
        std::fs::read_to_string(self.path()).map_err(Error::io("read", self.path()))
    }

    /// Shows the provenance line in a notebook.
    pub fn evcxr_display(&self) {
        println!("{}", self.provenance);
    }
}

/// A file's name and hash, for its provenance.
pub(super) fn record(path: &Path, sha256: String) -> FileRecord {
    let name = path.file_name().unwrap_or_default();
    FileRecord {
        name: name.to_string_lossy().into_owned(),
        sha256,
    }
}

/// Where an edition's `files` come from; `commit` is what a branch was resolved to.
pub(super) fn provenance(
    entry: &Entry,
    edition: &Edition,
    commit: Option<String>,
    files: Vec<FileRecord>,
) -> Provenance {
    Provenance {
        name: entry.name.clone(),
        source: edition.source(),
        revision: commit.unwrap_or_else(|| edition.revision().to_owned()),
        files,
        weights: edition.weights.clone(),
        licence: entry.licence.clone(),
    }
}

/// A user's own file, or folder with a checkpoint (see [`folder`]).
pub(super) fn from_path(path: &Path, kind: Kind) -> Result<Asset> {
    let is_checkpoint =
        path.extension().is_some_and(|it| it == "safetensors") || folder::is_index(path);
    let files: Vec<PathBuf> = match kind {
        Kind::Corpus if path.is_dir() => {
            return Err(Error::argument(
                "path",
                "a text file",
                format!("the directory {}", path.display()),
            ));
        }
        Kind::Model if path.is_dir() => folder::files(path)?,
        Kind::Model if is_checkpoint => folder::with_companions(path.to_owned())?,
        _ => vec![path.to_owned()],
    };
    let mut records = Vec::new();
    for file in &files {
        let kind = std::fs::metadata(file).map_err(Error::io("read", file))?;
        if !kind.is_file() {
            // A pipe would be waited for, a device may never end.
            let got = match kind.is_dir() {
                true => "a directory",
                false => "a pipe, a device or a socket",
            };
            return Err(Error::Format {
                file: file.display().to_string(),
                expected: "a regular file".to_owned(),
                got: got.to_owned(),
            });
        }
        records.push(record(file, sha256_file(file)?));
    }
    // A file that we know by its bytes is named for what it is.
    let known = registry::all().into_iter().find_map(|entry| {
        let edition = entry.editions.iter().find(|edition| {
            edition.files.len() <= records.len()
                && edition
                    .files
                    .iter()
                    .zip(&records)
                    .all(|(file, record)| file.sha256.as_ref() == Some(&record.sha256))
        })?;
        Some(provenance(&entry, edition, None, records.clone()))
    });
    let own = Provenance {
        name: path.display().to_string(),
        source: "file".to_owned(),
        revision: String::new(),
        files: records.clone(),
        weights: None::<Weights>,
        licence: "unknown".to_owned(),
    };
    Ok(Asset {
        files,
        provenance: known.unwrap_or(own),
    })
}
