//! A partial download on disk: the bytes that came, their running hash, and what they are a part of.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cache::{hex, write_atomically};
use super::exchange::{CHUNK, Failure, failed};
use super::url;
use crate::{Error, Result};

/// What a `.part` is a part of.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sidecar {
    url: String,
    /// ETag, if the server gave one.
    validator: Option<String>,
}

/// The file being downloaded, hashed as it grows.
pub(super) struct Partial {
    path: PathBuf,
    url: String,
    file: File,
    /// Bytes that are there.
    pub(super) bytes: u64,
    hash: Sha256,
    /// ETag of what they are bytes of.
    pub(super) validator: Option<String>,
}

impl Partial {
    pub(super) fn open(path: &Path, url: &str) -> Result<Partial> {
        let sidecar: Option<Sidecar> = fs::read(sidecar_path(path))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok());
        // Without a record of where they came from, bytes are worth nothing.
        let sidecar = sidecar.filter(|it| it.url == url::shown(url));
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(Error::io("open", path))?;
        let mut hash = Sha256::new();
        let mut bytes = 0;
        if sidecar.is_some() {
            let mut buffer = vec![0; CHUNK];
            loop {
                match file.read(&mut buffer).map_err(Error::io("read", path))? {
                    0 => break,
                    count => hash.update(&buffer[..count]),
                }
            }
            bytes = file.metadata().map_err(Error::io("read", path))?.len();
        } else {
            file.set_len(0).map_err(Error::io("truncate", path))?;
        }
        Ok(Partial {
            path: path.to_owned(),
            url: url::shown(url),
            file,
            bytes,
            hash,
            validator: sidecar.and_then(|it| it.validator),
        })
    }

    pub(super) fn restart(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .map_err(Error::io("truncate", &self.path))?;
        self.bytes = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    pub(super) fn remember(&mut self, validator: Option<String>) -> Result<()> {
        let path = sidecar_path(&self.path);
        let sidecar = Sidecar {
            url: self.url.clone(),
            validator: validator.clone(),
        };
        let json = serde_json::to_vec(&sidecar).map_err(|source| Error::Json {
            context: path.display().to_string(),
            source,
        })?;
        write_atomically(&path, &json)?;
        self.validator = validator;
        Ok(())
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(Error::io("write", &self.path))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Compares the hash of all with the pinned or stated one. A resumed file that does not match is thrown away and
    /// tried once more from its start: its first part may have been another version.
    pub(super) fn finish(
        self,
        url: &str,
        stated: Option<String>,
        was_resumed: bool,
    ) -> std::result::Result<String, Failure> {
        self.file
            .sync_all()
            .map_err(Error::io("write", &self.path))?;
        let got = hex(&self.hash.finalize());
        let Some(expected) = stated else {
            discard(&self.path);
            let reason = "neither our table nor the server states a sha256 for it; refused";
            return Err(failed(url, reason).into());
        };
        if got == expected {
            return Ok(got);
        }
        discard(&self.path);
        let error = Error::Checksum {
            file: url::shown(url),
            expected,
            got,
        };
        Err(if was_resumed {
            Failure::Passing(error)
        } else {
            Failure::Final(error)
        })
    }
}

pub(super) fn sidecar_path(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

/// Removes a file that may not be there; one that stays is overwritten or rejected later.
pub(super) fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Removes a partial file and what is remembered of it.
pub(super) fn discard(part: &Path) {
    remove(part);
    remove(&sidecar_path(part));
}
