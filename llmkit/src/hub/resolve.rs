//! From a name to verified local files: the order of places, and what each answered. Publishers are asked in `obtain.rs`.

use std::path::PathBuf;

use super::asset::{Asset, provenance, record};
use super::cache::{self, sha256_file};
use super::fetch::Client;
use super::provenance::Provenance;
use super::registry::{Edition, Entry, Kind, Pinned};
use super::{hugging_face, python_index};
use crate::{Error, Result};

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

    pub(super) fn directory(&self, entry: &Entry) -> PathBuf {
        self.cache.join("hub").join(&entry.name)
    }

    /// The edition as it lies in our cache. A file there with other bytes than it should have is removed.
    pub(super) fn cached(&self, entry: &Entry, edition: &Edition) -> Result<Option<Asset>> {
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
    pub(super) fn verified(
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
}
