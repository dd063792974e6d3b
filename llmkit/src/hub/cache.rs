//! The local side: checksums, the cache directory, its locks.
//!
//! ```text
//! <cache>/hub/<name>/<edition>/<file>             verified files, renamed into place when whole
//! <cache>/hub/<name>/<edition>/provenance.json    written last
//! <cache>/hub/<name>/<edition>/<file>.part[.json] a download to be resumed
//! <cache>/locks/<name>.lock                       held (flock) while a download runs; the system frees it if we die
//! ```
//! Everything here may be deleted at any time.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::progress::Progress;
use crate::{Error, Result, interrupt};

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// sha256 of a file, in hexadecimal. A file already hashed by this process and unchanged since (length and
/// modification time) is not read again.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Interrupted`].
pub fn sha256_file(path: &Path) -> Result<String> {
    type Known = HashMap<PathBuf, (u64, Option<SystemTime>, String)>;
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let meta = fs::metadata(path).map_err(Error::io("read", path))?;
    let (bytes, modified) = (meta.len(), meta.modified().ok());
    let known = || {
        KNOWN
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    };
    if let Some((its_bytes, its_time, sha256)) =
        known().as_ref().and_then(|known| known.get(path)).cloned()
        && (its_bytes, its_time) == (bytes, modified)
    {
        return Ok(sha256);
    }
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut progress = Progress::new(
        format!("verify {}", path.file_name().unwrap_or_default().display()),
        bytes,
        "B",
    );
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let count = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        done += count as u64;
        progress.set(done)?;
    }
    let sha256 = hex(&hash.finalize());
    known()
        .get_or_insert_default()
        .insert(path.to_owned(), (bytes, modified, sha256.clone()));
    Ok(sha256)
}

/// Writes a whole file or nothing: a temporary file in the same directory, then a rename.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)
        .map_err(Error::io("create a file in", directory))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.persist(path)
        .map_err(|error| Error::io("write", path)(error.error))?;
    Ok(())
}

/// The cache directory: `LLMKIT_CACHE`, else `llmkit` in the user's cache directory (XDG).
///
/// # Errors
/// [`Error::NotFound`] if neither is known.
pub fn directory() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LLMKIT_CACHE").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let base = dirs::cache_dir().ok_or_else(|| Error::NotFound {
        what: "a cache directory".to_owned(),
        tried: vec![
            "LLMKIT_CACHE: not set".to_owned(),
            "the user's cache directory: none".to_owned(),
        ],
    })?;
    Ok(base.join("llmkit"))
}

pub(super) fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create directory", path))
}

/// A lock on `name`, held until dropped. Waits for whoever holds it, saying so; the stop button ends the wait.
pub(super) fn lock(cache: &Path, name: &str) -> Result<File> {
    let directory = cache.join("locks");
    create_dir(&directory)?;
    let path = directory.join(format!("{name}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    let mut progress = Progress::new(format!("wait for another process to fetch {name}"), 0, "s");
    let mut waited = Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                interrupt::check(&format!("wait for {}", path.display()))?;
                std::thread::sleep(Duration::from_millis(100));
                waited += Duration::from_millis(100);
                progress.set(waited.as_secs())?;
            }
            // Some network file systems have no locks: downloads are atomic anyway, at worst done twice.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                return Ok(file);
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_hashed_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_file(&path).unwrap(), abc);
        assert_eq!(sha256_file(&path).unwrap(), abc);
        fs::write(&path, b"").unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_file(&path).unwrap(), empty);
        assert!(matches!(
            sha256_file(&dir.path().join("none")),
            Err(Error::Io { .. })
        ));
    }

    #[test]
    fn a_lock_file_left_by_a_dead_process_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        create_dir(&dir.path().join("locks")).unwrap();
        fs::write(dir.path().join("locks/x.lock"), b"4242").unwrap();
        lock(dir.path(), "x").unwrap();
    }

    #[test]
    fn a_second_holder_waits() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path(), "x").unwrap();
        let root = dir.path().to_owned();
        let waiter =
            std::thread::spawn(move || lock(&root, "x").map(|_| std::time::Instant::now()));
        std::thread::sleep(Duration::from_millis(250));
        assert!(!waiter.is_finished());
        let freed = std::time::Instant::now();
        drop(held);
        assert!(waiter.join().unwrap().unwrap() > freed);
    }
}
