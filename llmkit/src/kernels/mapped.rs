//! Files mapped into memory: weights are read from the page cache where they are used, without a copy of the file.
//!
//! A limitation that cannot be had otherwise: who cuts a file short while it is mapped makes the next read beyond its new end
//! kill the process (SIGBUS), and who writes into it changes the weights. Programs that replace files do it by renaming, which is
//! safe: the mapping keeps the old file. Everything else about a file is checked by its readers as for bytes in memory.

#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::{Error, Result};

/// The bytes of a file: mapped, or held in memory.
pub enum Mapped {
    /// Of a file.
    File(Mmap),
    /// Of no file: in tests, and of files without a byte, which cannot be mapped.
    Memory(Vec<u8>),
}

impl Mapped {
    /// Maps a file, for reading.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened or mapped (a directory, a pipe).
    pub fn open(path: &Path) -> Result<Mapped> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        if file.metadata().map_err(Error::io("read", path))?.len() == 0 {
            return Ok(Mapped::Memory(Vec::new()));
        }
        // SAFETY: the mapping is private and never written to. That nobody else shortens or rewrites the file while it is mapped
        // cannot be enforced; it is the documented limitation at the head of this file.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Mapped::File(map))
    }

    /// Gives the memory of a `part` back, if it is one of this file's: until it is read again, it is in the page cache only.
    pub fn release(&self, part: &[u8]) {
        #[cfg(unix)]
        if let Mapped::File(map) = self
            && let Some(start) = part.as_ptr().addr().checked_sub(map.as_ptr().addr())
            && start + part.len() <= map.len()
        {
            // SAFETY: the mapping is of a file and never written to: pages that were dropped come back as they were. It is a matter of
            // memory only: where the system will not, all goes on.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, part.len())
            };
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Mapped::File(map) => map,
            Mapped::Memory(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_its_bytes_and_outlives_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, b"abc").unwrap();
        let mapped = Mapped::open(&path).unwrap();
        std::fs::write(folder.path().join("new"), b"xyz").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(
            &*mapped, b"abc",
            "a file replaced by renaming stays as it was"
        );
        assert_eq!(&*Mapped::open(&path).unwrap(), b"xyz");
    }

    #[test]
    fn what_was_released_is_there_when_it_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let bytes: Vec<u8> = (0..50_000).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mapped = Mapped::open(&path).unwrap();
        assert_eq!(*mapped, *bytes);
        for part in [0..0, 0..50_000, 5_000..20_001, 49_999..50_000] {
            mapped.release(&mapped[part]);
            assert_eq!(*mapped, *bytes);
        }
        // Another's bytes are left alone.
        mapped.release(&bytes);
        mapped.release(&[]);
        assert_eq!(bytes[4_999], (4_999 % 251) as u8);
    }

    #[test]
    fn nothing_to_map_is_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert!(Mapped::open(&path).unwrap().is_empty());
        for odd in [folder.path(), &folder.path().join("none")] {
            let error = Mapped::open(odd).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
        }
    }
}
