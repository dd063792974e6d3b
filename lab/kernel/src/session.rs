//! A session: what Jupyter's environment says of it, how it is handed to a spare, and which environments are alike.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::snapshot::{self, SESSION_VAR};
use crate::work::session_file;

/// The lab's process; spares live as long as it does.
pub const LAB_VAR: &str = "LLMKIT_LAB_PID";
/// Set to leave no spare behind.
pub const NO_SPARE_VAR: &str = "LLMKIT_NO_SPARE";
/// Set to start from nothing even where a spare is warm.
pub const COLD_VAR: &str = "LLMKIT_COLD_START";

/// Variables that belong to one session and travel in its [`Handover`].
pub const SESSION_VARS: &[&str] = &[
    "LLMKIT_PARAMS",
    "LLMKIT_NOTEBOOK",
    "LLMKIT_FIGURES",
    "LLMKIT_RESULTS",
];

/// What a launcher tells a spare.
#[derive(Serialize, Deserialize)]
pub struct Handover {
    pub connection_file: PathBuf,
    session: Value,
    pub directory: PathBuf,
}

impl Handover {
    /// The session that this process was started for.
    pub fn of(connection_file: &Path) -> Result<Handover> {
        Ok(Handover {
            connection_file: connection_file.to_path_buf(),
            session: session()?,
            directory: std::env::current_dir()?,
        })
    }

    /// Writes the session where the process that runs cells finds it.
    pub fn write(&self) -> Result<()> {
        let path = session_file();
        fs::write(&path, self.session.to_string())
            .with_context(|| format!("write {}", path.display()))
    }
}

/// The session as the environment describes it.
fn session() -> Result<Value> {
    let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let params: Value = match text("LLMKIT_PARAMS") {
        Some(json) => serde_json::from_str(&json).context("LLMKIT_PARAMS is not JSON")?,
        None => json!({}),
    };
    Ok(json!({
        "notebook": text("LLMKIT_NOTEBOOK").or_else(|| text("JPY_SESSION_NAME")),
        "params": params,
        "directory": std::env::current_dir()?,
        "figures": text("LLMKIT_FIGURES"),
        "results": text("LLMKIT_RESULTS"),
    }))
}

/// A short name for what of the environment a cell can see; spares serve only launchers that share it.
pub fn fingerprint() -> String {
    let mut hash = Sha256::new();
    // Set by shells, front ends and outer cargos, differently for each caller; no cell depends on them.
    let ignored = |name: &str| {
        SESSION_VARS.contains(&name)
            || [
                "JPY_", "JUPYTER", "CARGO", "RUST_", "RUSTUP_", "PYDEVD_", "CLICOLOR",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            || [
                "_",
                "PWD",
                "OLDPWD",
                "SHLVL",
                "PATH",
                "VIRTUAL_ENV",
                "TERM",
                "COLUMNS",
                "LINES",
                "FORCE_COLOR",
                "PAGER",
                "GIT_PAGER",
                "MPLBACKEND",
                "LD_LIBRARY_PATH",
                "RUSTC",
                "EVCXR_CONFIG_DIR",
                "EVCXR_TMPDIR",
                SESSION_VAR,
                LAB_VAR,
                NO_SPARE_VAR,
                COLD_VAR,
                snapshot::SNAPSHOT_VAR,
                snapshot::HOME_VAR,
            ]
            .contains(&name)
    };
    let variables: BTreeMap<OsString, OsString> = std::env::vars_os()
        .filter(|(name, _)| !ignored(&name.to_string_lossy()))
        .collect();
    for (name, value) in &variables {
        hash.update(name.as_encoded_bytes());
        hash.update([0]);
        hash.update(value.as_encoded_bytes());
        hash.update([0]);
    }
    hash.finalize()[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
