//! An edition from its publisher into our cache: whole archives taken apart, or files one by one.

use std::path::Path;

use super::asset::{Asset, provenance, record};
use super::cache::{self, create_dir, sha256_file, write_atomically};
use super::exchange::Request;
use super::registry::{Edition, Entry, Origin, Pinned};
use super::resolve::Hub;
use super::{archive, partial, python_index};
use crate::{Error, Result};

impl Hub {
    /// The edition from its publisher, into the cache. `None` if it is not published.
    pub(super) fn obtain(&self, entry: &Entry, edition: &Edition) -> Result<Option<Asset>> {
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
