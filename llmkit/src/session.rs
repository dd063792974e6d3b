//! The notebook session a computation runs in: its name, its parameters, where its figures go.
//!
//! The kernel writes one JSON file and names it in `LLMKIT_SESSION`; without it (tests, scripts, the stock kernel)
//! the environment is read instead: `LLMKIT_PARAMS` (a JSON object), `LLMKIT_NOTEBOOK` or Jupyter's
//! `JPY_SESSION_NAME`, `LLMKIT_FIGURES`, `LLMKIT_RESULTS`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// What is known of the running session.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Session {
    /// Notebook path as the front end names it, if any.
    #[serde(default)]
    pub notebook: Option<String>,
    /// Parameters given from outside, overriding a notebook's defaults.
    #[serde(default)]
    pub params: BTreeMap<String, serde_json::Value>,
    /// Working directory of the session.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// Where figures are saved instead of `<root>/figures`.
    #[serde(default)]
    pub figures: Option<PathBuf>,
    /// Where results and the ledger are written instead of `<root>/data/results`.
    #[serde(default)]
    pub results: Option<PathBuf>,
}

static SESSION: OnceLock<Session> = OnceLock::new();

/// The session, read once at first use.
pub fn current() -> &'static Session {
    SESSION.get_or_init(|| {
        let session = from_file().unwrap_or_else(from_environment);
        if let Some(directory) = &session.directory {
            // A warm kernel was started elsewhere; relative paths in cells mean the notebook's folder.
            if let Err(error) = std::env::set_current_dir(directory) {
                eprintln!("llmkit: cannot enter {}: {error}", directory.display());
            }
        }
        session
    })
}

fn from_file() -> Option<Session> {
    let path = std::env::var_os("LLMKIT_SESSION")?;
    let text = std::fs::read_to_string(&path).ok()?;
    match serde_json::from_str(&text) {
        Ok(session) => Some(session),
        Err(error) => {
            eprintln!(
                "llmkit: {}: {error}; using the environment instead",
                Path::new(&path).display()
            );
            None
        }
    }
}

fn from_environment() -> Session {
    let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let params = match text("LLMKIT_PARAMS").map(|json| serde_json::from_str(&json)) {
        None => BTreeMap::new(),
        Some(Ok(params)) => params,
        Some(Err(error)) => {
            eprintln!("llmkit: LLMKIT_PARAMS is not a JSON object: {error}; ignored");
            BTreeMap::new()
        }
    };
    Session {
        notebook: text("LLMKIT_NOTEBOOK").or_else(|| text("JPY_SESSION_NAME")),
        params,
        directory: None,
        figures: text("LLMKIT_FIGURES").map(PathBuf::from),
        results: text("LLMKIT_RESULTS").map(PathBuf::from),
    }
}

/// A notebook parameter: the value given from outside (`cargo lab run --param name=value`), else `default`.
///
/// A value that does not convert to `T` is reported on stderr and the default is used.
///
/// ```
/// let bits: u32 = llmkit::session::param("bits", 4);
/// assert_eq!(bits, 4);
/// ```
pub fn param<T: serde::de::DeserializeOwned + std::fmt::Debug>(name: &str, default: T) -> T {
    let Some(value) = current().params.get(name) else {
        return default;
    };
    match serde_json::from_value(value.clone()) {
        Ok(value) => value,
        Err(error) => {
            eprintln!("llmkit: parameter {name} = {value}: {error}; using {default:?}");
            default
        }
    }
}

/// The checkout the session belongs to: the nearest directory upwards that has `llmkit/` and `notebooks/`,
/// else the working directory.
pub fn root() -> PathBuf {
    current();
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    here.ancestors()
        .find(|dir| dir.join("llmkit/Cargo.toml").is_file() && dir.join("notebooks").is_dir())
        .unwrap_or(&here)
        .to_path_buf()
}

/// Directory that figures are saved under.
pub fn figures_dir() -> PathBuf {
    current()
        .figures
        .clone()
        .unwrap_or_else(|| root().join("figures"))
}

/// Directory that results and the ledger are written under.
pub fn results_dir() -> PathBuf {
    current()
        .results
        .clone()
        .unwrap_or_else(|| root().join("data/results"))
}
