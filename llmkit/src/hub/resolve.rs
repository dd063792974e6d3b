//! From a name to verified local files: the order of places, and what each answered.

use std::path::{Path, PathBuf};

use super::cache::{self, create_dir, sha256_file, write_atomically};
use super::fetch::{Client, Request};
use super::provenance::{FileRecord, Provenance, Weights};
use super::registry::{Edition, Entry, Kind, Origin, Pinned};
use super::{archive, folder, hugging_face, partial, python_index};
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

/// The places to look in. [`Hub::from_env`] reads the environment once; tests make their own.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    pub cache: PathBuf,
    pub data: Option<PathBuf>,
    pub is_offline: bool,
    pub hugging_face: hugging_face::Settings,
    pub python_index: String,
    pub client: Client,
}

/// Whether `LLMKIT_OFFLINE` (or Hugging Face's own `HF_HUB_OFFLINE`) forbids the network.
fn is_offline() -> bool {
    ["LLMKIT_OFFLINE", "HF_HUB_OFFLINE"].iter().any(|name| {
        std::env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false" | "no"))
    })
}

impl Hub {
    pub(super) fn from_env() -> Result<Hub> {
        Ok(Hub {
            cache: cache::directory()?,
            data: std::env::var_os("LLMKIT_DATA")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            is_offline: is_offline(),
            hugging_face: hugging_face::Settings::from_env(),
            python_index: python_index::url_from_env(),
            client: Client::from_env(),
        })
    }

    /// Local files for `entry`: data directory, cache, Hugging Face, package index.
    pub(super) fn resolve(&self, entry: &Entry) -> Result<Asset> {
        let mut tried = Vec::new();
        if let Some(asset) = self.in_data_directory(entry, &mut tried)? {
            return Ok(asset);
        }
        if let Some(asset) = self.in_cache(entry, &mut tried)? {
            return Ok(asset);
        }
        let mut is_unwritable = None;
        for edition in &entry.editions {
            match self.obtain(entry, edition) {
                Ok(Some(asset)) => return Ok(asset),
                Ok(None) => {}
                Err(error @ Error::Interrupted(_)) => return Err(error),
                Err(error) => {
                    tried.push(format!(
                        "{} {}: {error}",
                        edition.source(),
                        edition.revision()
                    ));
                    if matches!(error, Error::Io { .. }) {
                        is_unwritable = Some(error);
                    }
                }
            }
        }
        // A full or read-only disk is the news, wherever else was looked.
        match is_unwritable {
            Some(error) if tried.len() == 1 => Err(error),
            _ => Err(Error::NotFound {
                what: format!(
                    "{} {:?}",
                    match entry.kind {
                        Kind::Model => "model",
                        Kind::Corpus => "corpus",
                    },
                    entry.name
                ),
                tried,
            }),
        }
    }

    fn in_data_directory(&self, entry: &Entry, tried: &mut Vec<String>) -> Result<Option<Asset>> {
        let Some(data) = &self.data else {
            tried.push("LLMKIT_DATA: not set".to_owned());
            return Ok(None);
        };
        let mut answers = Vec::new();
        for edition in &entry.editions {
            for folder in [data.join(&entry.name), data.clone()] {
                for by_path in [true, false] {
                    let files = edition.files.iter().map(|file| {
                        let name = if by_path {
                            &file.path
                        } else {
                            file.file_name()
                        };
                        (file, folder.join(name))
                    });
                    let mut answer = None;
                    match self.verified(entry, edition, files.collect(), &mut answer)? {
                        Some(asset) => return Ok(Some(asset)),
                        None => answers.extend(answer),
                    }
                }
            }
        }
        answers.dedup();
        if answers.is_empty() {
            answers.push("no such file".to_owned());
        }
        tried.push(format!(
            "LLMKIT_DATA={}: {}",
            data.display(),
            answers.join("; ")
        ));
        Ok(None)
    }

    fn in_cache(&self, entry: &Entry, tried: &mut Vec<String>) -> Result<Option<Asset>> {
        for edition in &entry.editions {
            if let Some(asset) = self.cached(entry, edition)? {
                return Ok(Some(asset));
            }
        }
        tried.push(format!(
            "cache {}: not there",
            self.directory(entry).display()
        ));
        Ok(None)
    }

    fn directory(&self, entry: &Entry) -> PathBuf {
        self.cache.join("hub").join(&entry.name)
    }

    /// The edition as it lies in our cache. A file there with other bytes than it should have is removed.
    fn cached(&self, entry: &Entry, edition: &Edition) -> Result<Option<Asset>> {
        let directory = self.directory(entry).join(edition.key());
        let files: Vec<_> = edition
            .files
            .iter()
            .map(|file| (file, directory.join(file.file_name())))
            .collect();
        if !files.iter().all(|(_, path)| path.is_file()) {
            return Ok(None);
        }
        let record: Option<Provenance> = std::fs::read(directory.join("provenance.json"))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok());
        let Some(record) = record.filter(|record| record.files.len() == files.len()) else {
            return Ok(None);
        };
        for ((file, path), record) in files.iter().zip(&record.files) {
            let expected = file.sha256.as_ref().unwrap_or(&record.sha256);
            if sha256_file(path)? != *expected {
                std::fs::remove_file(path).map_err(Error::io("remove the damaged", path))?;
                return Ok(None);
            }
        }
        Ok(Some(Asset {
            files: files.into_iter().map(|(_, path)| path).collect(),
            provenance: Provenance {
                name: entry.name.clone(),
                ..record
            },
        }))
    }

    /// An asset of files that exist and have the pinned bytes; else what was wrong with the first that does not.
    fn verified(
        &self,
        entry: &Entry,
        edition: &Edition,
        files: Vec<(&Pinned, PathBuf)>,
        answer: &mut Option<String>,
    ) -> Result<Option<Asset>> {
        let mut records = Vec::new();
        for (file, path) in &files {
            let Some(expected) = &file.sha256 else {
                return Ok(None);
            };
            if !path.is_file() {
                return Ok(None);
            }
            let got = sha256_file(path)?;
            if got != *expected {
                *answer = Some(format!(
                    "{} has sha256 {got}, not {expected}",
                    path.display()
                ));
                return Ok(None);
            }
            records.push(record(path, got));
        }
        Ok(Some(Asset {
            provenance: provenance(entry, edition, None, records),
            files: files.into_iter().map(|(_, path)| path).collect(),
        }))
    }

    /// The edition from its publisher, into the cache. `None` if it is not published.
    fn obtain(&self, entry: &Entry, edition: &Edition) -> Result<Option<Asset>> {
        if let Origin::DataDirectory { .. } = edition.origin {
            return Ok(None);
        }
        if let Some(asset) = self.in_hugging_face_cache(entry, edition)? {
            return Ok(Some(asset));
        }
        if self.is_offline {
            return Err(Error::Network {
                url: edition.source(),
                reason: "not asked: LLMKIT_OFFLINE is set".to_owned(),
            });
        }
        let _held = cache::lock(&self.cache, &entry.name)?;
        // Someone else may have fetched it while we waited.
        if let Some(asset) = self.cached(entry, edition)? {
            return Ok(Some(asset));
        }
        let directory = self.directory(entry).join(edition.key());
        create_dir(&directory)?;
        let fetched = self.fetch(entry, edition, &directory);
        if fetched.is_err() {
            // Only an empty directory goes: a partial download stays for the next attempt.
            let _ = std::fs::remove_dir(&directory);
            let _ = std::fs::remove_dir(self.directory(entry));
        }
        fetched.map(Some)
    }

    fn fetch(&self, entry: &Entry, edition: &Edition, directory: &Path) -> Result<Asset> {
        let mut commit = None;
        let mut records = Vec::new();
        let mut paths = Vec::new();
        match &edition.archive {
            Some(pinned) => {
                let part = directory.join(format!("{}.part", pinned.file_name()));
                let request = self.request(edition, pinned)?;
                let received = self
                    .client
                    .download(&request, &part, pinned, &label(pinned))?;
                commit = received.commit;
                let unpacked = archive::extract(
                    &part,
                    pinned.file_name(),
                    &edition.files,
                    directory,
                    archive::Limits::default(),
                );
                partial::discard(&part);
                paths = unpacked?;
                for path in &paths {
                    records.push(record(path, sha256_file(path)?));
                }
            }
            None => {
                for file in &edition.files {
                    let path = directory.join(file.file_name());
                    let known = file.sha256.as_ref().filter(|_| path.is_file());
                    let sha256 = match known {
                        Some(sha256) if sha256_file(&path)? == *sha256 => sha256.clone(),
                        _ => {
                            let part = directory.join(format!("{}.part", file.file_name()));
                            let request = self.request(edition, file)?;
                            let received =
                                self.client.download(&request, &part, file, &label(file))?;
                            std::fs::rename(&part, &path).map_err(Error::io("write", &path))?;
                            commit = commit.or(received.commit);
                            received.sha256
                        }
                    };
                    records.push(record(&path, sha256));
                    paths.push(path);
                }
            }
        }
        let provenance = provenance(entry, edition, commit, records);
        let json = serde_json::to_vec_pretty(&provenance).map_err(|source| Error::Json {
            context: "provenance".to_owned(),
            source,
        })?;
        write_atomically(&directory.join("provenance.json"), &json)?;
        Ok(Asset {
            files: paths,
            provenance,
        })
    }

    fn request(&self, edition: &Edition, file: &Pinned) -> Result<Request> {
        match &edition.origin {
            Origin::HuggingFace {
                repository,
                is_dataset,
                revision,
            } => Ok(self
                .hugging_face
                .request(repository, *is_dataset, revision, &file.path)),
            Origin::PythonIndex { package, .. } => {
                python_index::request(&self.client, &self.python_index, package, file)
            }
            Origin::DataDirectory { description } => Err(Error::NotFound {
                what: description.clone(),
                tried: vec!["it is not published".to_owned()],
            }),
        }
    }

    /// Files that Hugging Face's own tools have already fetched; used in place, or taken apart into our cache.
    fn in_hugging_face_cache(&self, entry: &Entry, edition: &Edition) -> Result<Option<Asset>> {
        let Origin::HuggingFace {
            repository,
            is_dataset,
            revision,
        } = &edition.origin
        else {
            return Ok(None);
        };
        let Some(snapshot) = self
            .hugging_face
            .snapshot(repository, *is_dataset, revision)
        else {
            return Ok(None);
        };
        let Some(pinned) = &edition.archive else {
            let files = edition
                .files
                .iter()
                .map(|file| (file, snapshot.join(&file.path)));
            return self.verified(entry, edition, files.collect(), &mut None);
        };
        let path = snapshot.join(&pinned.path);
        if !path.is_file() || Some(sha256_file(&path)?) != pinned.sha256 {
            return Ok(None);
        }
        let directory = self.directory(entry).join(edition.key());
        let _held = cache::lock(&self.cache, &entry.name)?;
        create_dir(&directory)?;
        let limits = archive::Limits::default();
        let files = archive::extract(
            &path,
            pinned.file_name(),
            &edition.files,
            &directory,
            limits,
        )?;
        let mut records = Vec::new();
        for path in &files {
            records.push(record(path, sha256_file(path)?));
        }
        Ok(Some(Asset {
            files,
            provenance: provenance(entry, edition, None, records),
        }))
    }
}

fn label(file: &Pinned) -> String {
    format!("download {}", file.file_name())
}

fn record(path: &Path, sha256: String) -> FileRecord {
    let name = path.file_name().unwrap_or_default();
    FileRecord {
        name: name.to_string_lossy().into_owned(),
        sha256,
    }
}

fn provenance(
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
    let known = super::registry::all().into_iter().find_map(|entry| {
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
