//! How Jupyter learns of our kernels: one folder a kernel, in a data folder of this checkout alone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::place::{Place, write_atomically};
use crate::venv::Venv;

/// The kernel of this laboratory.
pub const LIVE: &str = "llmkit";
/// The stock evcxr kernel with the same prelude.
pub const STOCK: &str = "llmkit-stock";

const LOGO: &str = include_str!("../assets/logo.svg");

/// A kernel.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KernelSpec {
    /// Command line; `{connection_file}` stands for that file's path.
    pub argv: Vec<String>,
    /// Name shown to people.
    pub display_name: String,
    /// Language of the cells.
    pub language: String,
    /// `message` or `signal`.
    #[serde(default = "by_signal")]
    pub interrupt_mode: String,
    /// Variables added to the kernel's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

fn by_signal() -> String {
    "signal".to_owned()
}

/// Writes both kernelspecs of this checkout.
///
/// # Errors
/// If they cannot be written.
pub fn install(place: &Place) -> Result<()> {
    for (name, spec) in ours(place) {
        let dir = place.jupyter_dir().join("kernels").join(name);
        let json = serde_json::to_string_pretty(&spec).context("kernel.json")?;
        write_atomically(&dir.join("logo-svg.svg"), LOGO.as_bytes())?;
        write_atomically(&dir.join("kernel.json"), format!("{json}\n").as_bytes())?;
    }
    Ok(())
}

/// Whether both kernelspecs are as [`install`] would write them.
pub fn is_installed(place: &Place) -> bool {
    ours(place).into_iter().all(|(name, spec)| {
        let path = place.jupyter_dir().join("kernels").join(name);
        read(&path.join("kernel.json"))
            .is_ok_and(|found| found.argv == spec.argv && found.env == spec.env)
    })
}

fn ours(place: &Place) -> [(&'static str, KernelSpec); 2] {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let spec = |command: &str, display_name: &str| KernelSpec {
        argv: vec![
            text(&place.kernel()),
            command.to_owned(),
            "--connection-file".to_owned(),
            "{connection_file}".to_owned(),
            "--repo".to_owned(),
            text(&place.root),
        ],
        display_name: display_name.to_owned(),
        language: "rust".to_owned(),
        interrupt_mode: "message".to_owned(),
        env: BTreeMap::from([("LLMKIT_CACHE".to_owned(), text(&place.cache))]),
    };
    [
        (LIVE, spec("kernel", "Rust (llmkit)")),
        (STOCK, spec("stock", "Rust (evcxr)")),
    ]
}

/// `JUPYTER_PATH` with this checkout's kernels before whatever the user has there.
pub fn jupyter_path(place: &Place) -> OsString {
    let mut path = place.jupyter_dir().into_os_string();
    if let Some(more) = std::env::var_os("JUPYTER_PATH").filter(|more| !more.is_empty()) {
        path.push(":");
        path.push(more);
    }
    path
}

/// Finds a kernel by name: this checkout's, `JUPYTER_PATH`, the user's, the private environment's, the system's.
///
/// # Errors
/// If there is none of that name, or its kernel.json is broken.
pub fn find(place: &Place, name: &str) -> Result<KernelSpec> {
    let mut known = Vec::new();
    for dir in search_path(place) {
        let kernels = dir.join("kernels");
        let file = kernels.join(name).join("kernel.json");
        if file.is_file() {
            return read(&file);
        }
        for entry in std::fs::read_dir(&kernels).into_iter().flatten().flatten() {
            known.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    known.sort();
    known.dedup();
    bail!(
        "no kernel is named {name}; known: {}. `cargo lab setup` installs {LIVE} and {STOCK}",
        known.join(", ")
    )
}

fn search_path(place: &Place) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&jupyter_path(place)).collect();
    if let Some(dir) = std::env::var_os("JUPYTER_DATA_DIR") {
        dirs.push(dir.into());
    }
    dirs.extend(dirs::data_dir().map(|dir| dir.join("jupyter")));
    dirs.extend(Venv::find(place).map(|venv| venv.dir.join("share/jupyter")));
    dirs.extend(["/usr/local/share/jupyter", "/usr/share/jupyter"].map(PathBuf::from));
    dirs
}

fn read(file: &Path) -> Result<KernelSpec> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let spec: KernelSpec =
        serde_json::from_str(&text).with_context(|| format!("{} is broken", file.display()))?;
    if spec.argv.is_empty() {
        bail!("{} is broken: argv is empty", file.display());
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dir: &Path) -> Place {
        Place {
            root: dir.join("clone"),
            cache: dir.join("cache"),
            build_key: "k".into(),
        }
    }

    #[test]
    fn installed_kernels_are_found_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        assert!(!is_installed(&place));
        install(&place).unwrap();
        assert!(is_installed(&place));
        let spec = find(&place, LIVE).unwrap();
        assert_eq!(spec.argv[1], "kernel");
        assert_eq!(spec.interrupt_mode, "message");
        assert_eq!(find(&place, STOCK).unwrap().argv[1], "stock");

        let file = place.jupyter_dir().join("kernels/llmkit/kernel.json");
        std::fs::write(&file, "{\"argv\": [").unwrap();
        assert!(!is_installed(&place));
        assert!(find(&place, LIVE).is_err());
        install(&place).unwrap();
        assert!(is_installed(&place));
    }

    #[test]
    fn clones_do_not_share_kernels() {
        let dir = tempfile::tempdir().unwrap();
        let one = place(dir.path());
        let two = Place {
            root: dir.path().join("other"),
            ..one.clone()
        };
        install(&one).unwrap();
        assert!(!is_installed(&two));
    }

    #[test]
    fn an_unknown_kernel_is_answered_with_the_known_ones() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        install(&place).unwrap();
        let message = find(&place, "perl").unwrap_err().to_string();
        assert!(
            message.contains("perl") && message.contains(LIVE),
            "{message}"
        );
    }
}
