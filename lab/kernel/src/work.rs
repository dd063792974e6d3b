//! What one kernel keeps in the temporary directory while it runs.

use std::fs;
use std::path::{Path, PathBuf};

/// Prefix of what a kernel keeps in the temporary directory; its process id follows.
const PREFIX: &str = "llmkit-kernel-";

/// This process's working directory: evcxr's crate, sockets, the session file.
pub fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()))
}

/// This process's session file.
pub fn session_file() -> PathBuf {
    directory().join("session.json")
}

/// Removes the working directories of kernels that ended without doing so themselves (killed, crashed).
pub fn sweep_dead_kernels() {
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name
            .strip_prefix(PREFIX)
            .and_then(|pid| pid.parse::<u32>().ok())
        else {
            continue;
        };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            // Somebody else's on a shared machine stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
