//! The private Python environment with JupyterLab and nbconvert: nothing of it leaks into the user's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo;
use crate::place::{Place, key, write_atomically};

/// Everything pip may install, with the hash of every file.
const REQUIREMENTS: &str = include_str!("../requirements.txt");

/// Lab-wide defaults of JupyterLab's settings; the user's own settings win.
const SETTINGS: &str = r#"{
  "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}
}
"#;

/// Pythons to try, oldest supported version first known to work.
const CANDIDATES: [&str; 6] = [
    "python3",
    "python3.13",
    "python3.12",
    "python3.11",
    "python3.10",
    "python",
];

/// A Python environment, made or still to be made.
#[derive(Debug, Clone)]
pub struct Venv {
    /// Its folder in the cache.
    pub dir: PathBuf,
    /// The Python that makes it.
    base: PathBuf,
    /// Version of that Python.
    pub version: String,
}

impl Venv {
    /// The environment for the Python found on this machine.
    ///
    /// # Errors
    /// If there is no Python ≥ 3.10.
    pub fn find(place: &Place) -> Result<Venv> {
        let mut found = Vec::new();
        for candidate in CANDIDATES {
            let Some((base, version)) = interpreter(candidate) else {
                continue;
            };
            if is_supported(&version) {
                let name = key(&[
                    REQUIREMENTS.as_bytes(),
                    SETTINGS.as_bytes(),
                    version.as_bytes(),
                    b" ",
                    base.as_os_str().as_encoded_bytes(),
                ]);
                let dir = place.cache.join("venv").join(name);
                return Ok(Venv { dir, base, version });
            }
            found.push(format!("{candidate} is {version}"));
        }
        let found = match found.is_empty() {
            true => "none was found".to_owned(),
            false => found.join(", "),
        };
        bail!(
            "JupyterLab needs Python 3.10 or later, but {found}; install one (no root is needed with uv or pyenv)"
        )
    }

    /// The Python that it is made with.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The environment's own Python.
    pub fn python(&self) -> PathBuf {
        self.dir.join("bin/python")
    }

    /// Whether setup was completed.
    pub fn is_ready(&self) -> bool {
        self.stamp().is_file() && self.python().exists()
    }

    fn stamp(&self) -> PathBuf {
        self.dir.join("llmkit-complete")
    }

    /// Makes the environment if it is missing; what an earlier attempt left half-done is made afresh.
    ///
    /// # Errors
    /// If Python's tools fail; their messages went to stderr.
    pub fn ensure(&self, place: &Place) -> Result<()> {
        if self.is_ready() {
            return Ok(());
        }
        if cargo::is_offline() {
            bail!("JupyterLab is not installed; {}", cargo::OFFLINE_HINT);
        }
        let _lock = place.lock("venv")?;
        if self.is_ready() {
            return Ok(());
        }
        if self.dir.exists() {
            std::fs::remove_dir_all(&self.dir)
                .with_context(|| format!("remove {}", self.dir.display()))?;
        }
        let parent = place.cache.join("venv");
        std::fs::create_dir_all(&parent).with_context(|| format!("create {}", parent.display()))?;
        let requirements = parent.join("requirements.txt");
        write_atomically(&requirements, REQUIREMENTS.as_bytes())?;
        let uses_uv = answers(Command::new("uv").arg("--version"));
        eprintln!(
            "python: JupyterLab into a private environment with {} (Python {}), about a minute",
            if uses_uv { "uv" } else { "pip" },
            self.version
        );
        if uses_uv {
            run(Command::new("uv")
                .args(["venv", "--quiet", "--python"])
                .arg(&self.base)
                .arg(&self.dir))?;
            run(Command::new("uv")
                .args(["pip", "install", "--quiet", "--require-hashes", "--python"])
                .arg(self.python())
                .arg("--requirement")
                .arg(&requirements))?;
        } else {
            run(Command::new(&self.base).args(["-m", "venv"]).arg(&self.dir))?;
            run(Command::new(self.python())
                .args(["-m", "pip", "install", "--require-hashes", "--no-input"])
                // Python compiles what it imports; the rest of the packages never is.
                .arg("--no-compile")
                .args(["--progress-bar", "off", "--quiet", "--requirement"])
                .arg(&requirements))?;
        }
        let settings = self.dir.join("share/jupyter/lab/settings/overrides.json");
        write_atomically(&settings, SETTINGS.as_bytes())?;
        // What the checkout's notebooks need is now known to start, not only to be unpacked.
        let jupyter = self.jupyter_version()?;
        write_atomically(&self.stamp(), jupyter.as_bytes())
    }

    /// JupyterLab's version, by starting it.
    ///
    /// # Errors
    /// If it does not start.
    pub fn jupyter_version(&self) -> Result<String> {
        let out = Command::new(self.python())
            .args([
                "-c",
                "import jupyterlab, nbconvert; print(jupyterlab.__version__)",
            ])
            .output()
            .with_context(|| format!("start {}", self.python().display()))?;
        if !out.status.success() {
            bail!(
                "JupyterLab does not start: {}; run `cargo lab clean`, then `cargo lab setup`",
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }
}

/// Path and version of a Python, if `name` is one that can make environments.
fn interpreter(name: &str) -> Option<(PathBuf, String)> {
    let out = Command::new(name)
        .args(["-c", "import sys, venv, ensurepip; print(sys.executable); print('.'.join(map(str, sys.version_info[:3])))"])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    let (path, version) = text.trim().split_once('\n')?;
    (out.status.success()).then(|| (PathBuf::from(path), version.to_owned()))
}

fn is_supported(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|part| part.parse().ok());
    let (major, minor): (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (major, minor) >= (3, 10)
}

fn answers(command: &mut Command) -> bool {
    (command.stdout(Stdio::null()).stderr(Stdio::null()).status()).is_ok_and(|s| s.success())
}

fn run(command: &mut Command) -> Result<()> {
    let name = Path::new(command.get_program()).display().to_string();
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start {name}"))?;
    if !status.success() {
        bail!(
            "{name} failed ({status}) to make the private Python environment; see its messages above.\n\
             A mirror or a proxy can be named in PIP_INDEX_URL (UV_INDEX_URL) and HTTPS_PROXY."
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_supported("3.10.0"));
        assert!(is_supported("3.9.18") == is_supported("3.9"));
        assert!(!is_supported("3.9.18"));
        assert!(!is_supported("2.7"));
        assert!(!is_supported("nonsense"));
        assert!(is_supported("4.0"));
    }

    #[test]
    fn every_requirement_is_pinned_and_hashed() {
        let mut blocks = 0;
        let mut is_hashed = true;
        for line in REQUIREMENTS.lines() {
            if line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                assert!(is_hashed, "no hash before {line}");
                assert!(line.contains("=="), "not pinned: {line}");
                blocks += 1;
                is_hashed = false;
            }
            is_hashed |= line.contains("--hash=sha256:");
            assert!(!line.contains("://"), "an address: {line}");
        }
        assert!(is_hashed && blocks > 50);
        for needed in ["\njupyterlab==", "\nnbconvert==", "\nnbclient=="] {
            assert!(REQUIREMENTS.contains(needed));
        }
    }
}
