//! Where things are: the checkout, and the cache that can be deleted at any time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Folders the lab keeps in its cache; nothing else in there is ever removed.
pub const PARTS: [&str; 7] = ["build", "snapshot", "venv", "jupyter", "run", "hub", "lock"];

/// First line of the file that marks a cache root as ours (see <https://bford.info/cachedir/>).
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55";
const TAG_OWNER: &str = "# This directory is llmkit's cache; it is safe to delete at any time.";

/// The checkout a command works on and the cache it uses.
#[derive(Debug, Clone)]
pub struct Place {
    /// Top of the checkout.
    pub root: PathBuf,
    /// `LLMKIT_CACHE`, else `llmkit` in the user's cache directory.
    pub cache: PathBuf,
    /// Names what was compiled by this compiler from this Cargo.lock.
    pub build_key: String,
}

impl Place {
    /// Finds the checkout around the working directory and the cache.
    ///
    /// # Errors
    /// If the working directory is in no checkout, or there is no compiler or cache directory.
    pub fn find() -> Result<Place> {
        let here = std::env::current_dir().context("the working directory is gone")?;
        let started_in = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let root = (here.ancestors())
            .chain(started_in.iter().flat_map(|dir| dir.ancestors()))
            .find(|dir| is_checkout(dir))
            .with_context(|| {
                format!(
                    "{} is not inside an llmkit checkout; change into one",
                    here.display()
                )
            })?;
        Place::at(root)
    }

    /// The place of the checkout at `root`.
    ///
    /// # Errors
    /// As [`Place::find`].
    pub fn at(root: &Path) -> Result<Place> {
        let root = root
            .canonicalize()
            .with_context(|| format!("read {}", root.display()))?;
        let cache = match std::env::var_os("LLMKIT_CACHE").filter(|dir| !dir.is_empty()) {
            Some(dir) => std::path::absolute(dir).context("LLMKIT_CACHE")?,
            None => dirs::cache_dir()
                .context("no cache directory is known for this user; set LLMKIT_CACHE to one")?
                .join("llmkit"),
        };
        let lock = root.join("Cargo.lock");
        let lock = std::fs::read(&lock).with_context(|| format!("read {}", lock.display()))?;
        let rustc = rustc_version(&root)?;
        // The kernel names the target directory in the same way (`snapshot::build_directory`).
        let build_key = key(&[rustc.trim().as_bytes(), &lock]);
        Ok(Place {
            root,
            cache,
            build_key,
        })
    }

    /// Cargo's target directory for everything the lab compiles: the user's `CARGO_TARGET_DIR` if set.
    pub fn build_dir(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => self.root.join(dir),
            None => self.cache.join("build").join(&self.build_key),
        }
    }

    /// What Jupyter is told about this checkout: kernelspecs, and the kernel binary they start.
    pub fn jupyter_dir(&self) -> PathBuf {
        let name = key(&[self.root.as_os_str().as_encoded_bytes()]);
        self.cache.join("jupyter").join(name)
    }

    /// The kernel binary of this checkout (a copy, so that building does not disturb running kernels).
    pub fn kernel(&self) -> PathBuf {
        self.jupyter_dir().join("bin/llmkit-kernel")
    }

    /// Folder of the notebooks.
    pub fn notebooks(&self) -> PathBuf {
        self.root.join("notebooks")
    }

    /// Creates the cache root and marks it as ours.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn open_cache(&self) -> Result<()> {
        std::fs::create_dir_all(&self.cache).with_context(|| {
            format!(
                "create {}; set LLMKIT_CACHE to a directory that can be written",
                self.cache.display()
            )
        })?;
        let tag = self.cache.join("CACHEDIR.TAG");
        if !tag.exists() {
            write_atomically(&tag, format!("{TAG}\n{TAG_OWNER}\n").as_bytes())?;
        }
        Ok(())
    }

    /// Whether the cache root carries our mark.
    pub fn owns_cache(&self) -> bool {
        std::fs::read_to_string(self.cache.join("CACHEDIR.TAG"))
            .is_ok_and(|text| text.starts_with(TAG) && text.contains(TAG_OWNER))
    }

    /// Waits until no other process works on `part`; the lock ends when the file is dropped, or its process dies.
    ///
    /// # Errors
    /// If the lock file cannot be opened.
    pub fn lock(&self, part: &str) -> Result<File> {
        self.open_cache()?;
        let dir = self.cache.join("lock");
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let path = dir.join(part);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("waiting for another lab process that works on {part} …");
            file.lock()
                .with_context(|| format!("lock {}", path.display()))?;
        }
        Ok(file)
    }
}

fn is_checkout(dir: &Path) -> bool {
    dir.join("llmkit/Cargo.toml").is_file() && dir.join("lab/Cargo.toml").is_file()
}

/// `rustc -vV` as the checkout's toolchain file selects it.
///
/// # Errors
/// If there is no compiler.
pub fn rustc_version(root: &Path) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = Command::new(&rustc)
        .arg("-vV")
        .current_dir(root)
        .output()
        .with_context(|| {
            format!(
                "start {}; install Rust with rustup first",
                rustc.to_string_lossy()
            )
        })?;
    if !out.status.success() {
        bail!("rustc -vV: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A short name for some content: 16 hexadecimal digits of its sha256, one part after the other.
pub fn key(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    let digest = hasher.finalize();
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Writes a file so that nobody ever sees half of it.
///
/// # Errors
/// If the directory cannot be created or the file not written.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(content)?;
        // Temporary files are private; what they become follows the user's habits for new files.
        file.as_file().set_permissions(readable())?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("write {}", path.display()))
}

fn readable() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_head_of_the_sha256() {
        // sha256("abc") = ba7816bf 8f01cfea …, the first example of FIPS 180-2.
        assert_eq!(key(&[b"ab", b"c"]), "ba7816bf8f01cfea");
    }

    #[test]
    fn a_cache_is_ours_only_when_marked() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            root: dir.path().into(),
            cache: dir.path().join("cache"),
            build_key: "k".into(),
        };
        assert!(!place.owns_cache());
        place.open_cache().unwrap();
        assert!(place.owns_cache());
        std::fs::write(place.cache.join("CACHEDIR.TAG"), format!("{TAG}\n")).unwrap();
        assert!(!place.owns_cache(), "a tag of somebody else's cache");
    }

    #[test]
    fn a_lock_is_free_again_after_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            root: dir.path().into(),
            cache: dir.path().join("cache"),
            build_key: "k".into(),
        };
        let held = place.lock("venv").unwrap();
        let again = File::open(place.cache.join("lock/venv")).unwrap();
        assert!(again.try_lock().is_err());
        drop(held);
        assert!(again.try_lock().is_ok());
    }
}
