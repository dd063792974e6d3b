//! Taking files out of archives that nobody vouches for.
//!
//! Nothing an archive says decides where we write: each wanted member goes to a file name of our own choosing, through a
//! temporary file, after its size and sha256 were checked. On top of that an archive is refused as a whole if it
//! shows any sign of malice or damage: absolute paths, `..`, links that leave it, a name twice, overlapping
//! entries, more entries or more bytes than an honest archive of its size holds, or a truncated end.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cache::hex;
use super::registry::Pinned;
use crate::{Error, Result, interrupt};

/// What an honest archive stays within.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Entries in all.
    pub entries: usize,
    /// Bytes in all, uncompressed.
    pub bytes: u64,
    /// Uncompressed bytes for each compressed one. (Text compresses 3 – 10 times, zeros 1000 times.)
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries: 50_000,
            bytes: 8 << 30,
            ratio: 100,
        }
    }
}

/// Small archives may well compress a few kilobytes of blanks: the ratio counts from this size on.
const RATIO_FROM: u64 = 1 << 20;

/// Takes `members` out of `archive` (a wheel or zip, or a gzipped tar, told by `name`) into `directory`, under their
/// own file names. All or nothing.
///
/// # Errors
/// [`Error::Archive`] if the archive is refused, [`Error::Checksum`] if a member's bytes are not the pinned ones,
/// [`Error::Io`] if the disk fails. In all cases `directory` holds nothing new.
pub(super) fn extract(
    archive: &Path,
    name: &str,
    members: &[Pinned],
    directory: &Path,
    limits: Limits,
) -> Result<Vec<PathBuf>> {
    let refuse = |reason: String| Error::Archive {
        archive: name.to_owned(),
        reason,
    };
    let mut taken: Vec<Option<tempfile::NamedTempFile>> = members.iter().map(|_| None).collect();
    let mut take = |path: &str, content: &mut dyn Read| -> Result<()> {
        if let Some(at) = members.iter().position(|member| member.path == path) {
            taken[at] = Some(copy_verified(content, &members[at], name, directory)?);
        }
        Ok(())
    };
    if name.ends_with(".whl") || name.ends_with(".zip") {
        from_zip(archive, limits, &refuse, &mut take)?;
    } else if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
        from_tar_gz(archive, limits, &refuse, &mut take)?;
    } else {
        return Err(refuse("expected a .whl, .zip or .tar.gz file".to_owned()));
    }
    if let Some(at) = taken.iter().position(Option::is_none) {
        return Err(refuse(format!("it has no member {}", members[at].path)));
    }
    let mut paths = Vec::new();
    for (file, member) in taken.into_iter().flatten().zip(members) {
        let path = directory.join(member.file_name());
        file.persist(&path)
            .map_err(|error| Error::io("write", &path)(error.error))?;
        paths.push(path);
    }
    Ok(paths)
}

type Take<'a> = &'a mut dyn FnMut(&str, &mut dyn Read) -> Result<()>;
type Refuse<'a> = &'a dyn Fn(String) -> Error;

fn from_zip(archive: &Path, limits: Limits, refuse: Refuse, take: Take) -> Result<()> {
    let file = File::open(archive).map_err(Error::io("open", archive))?;
    let size = file.metadata().map_err(Error::io("read", archive))?.len();
    let damaged = |error: zip::result::ZipError| refuse(format!("damaged or truncated: {error}"));
    let mut zip = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(damaged)?;
    if zip.has_duplicate_names() {
        return Err(refuse("it has two members of one name".to_owned()));
    }
    if zip.len() > limits.entries {
        return Err(refuse(format!("it has {} entries", zip.len())));
    }
    if zip.has_overlapping_files().map_err(damaged)? {
        return Err(refuse("its entries overlap".to_owned()));
    }
    // First all names and sizes, as the directory states them; only then any content.
    let mut names = Vec::with_capacity(zip.len());
    let mut stated = 0u64;
    for at in 0..zip.len() {
        let entry = zip.by_index_raw(at).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        check_name(&name).map_err(refuse)?;
        if entry.is_symlink() {
            return Err(refuse(format!("{name} is a symbolic link")));
        }
        if entry.encrypted() {
            return Err(refuse(format!("{name} is encrypted")));
        }
        stated = stated.saturating_add(entry.size());
        names.push(name);
    }
    check_total(stated, size, limits).map_err(refuse)?;
    for (at, name) in names.iter().enumerate() {
        let mut entry = zip.by_index(at).map_err(damaged)?;
        let honest = entry.size();
        // Checked again while reading: the directory may lie.
        take(name, &mut (&mut entry).take(honest.saturating_add(1)))?;
    }
    Ok(())
}

fn from_tar_gz(archive: &Path, limits: Limits, refuse: Refuse, take: Take) -> Result<()> {
    let file = File::open(archive).map_err(Error::io("open", archive))?;
    let size = file.metadata().map_err(Error::io("read", archive))?.len();
    let damaged =
        |error: std::io::Error| refuse(format!("damaged, truncated or too large: {error}"));
    let unpacked = Capped {
        inner: flate2::read::GzDecoder::new(std::io::BufReader::new(file)),
        compressed: size,
        read: 0,
        limits,
    };
    let mut tar = tar::Archive::new(unpacked);
    let mut names = HashSet::new();
    for entry in tar.entries().map_err(damaged)? {
        interrupt::check("unpack")?;
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8(entry.path_bytes().into_owned())
            .map_err(|_| refuse("a member's name is not UTF-8".to_owned()))?;
        check_name(&name).map_err(refuse)?;
        if names.len() >= limits.entries {
            return Err(refuse(format!(
                "it has more than {} entries",
                limits.entries
            )));
        }
        let kind = entry.header().entry_type();
        let plain = name
            .trim_start_matches("./")
            .trim_end_matches('/')
            .to_owned();
        if !kind.is_dir() && !names.insert(plain.clone()) {
            return Err(refuse(format!("it has two members named {name}")));
        }
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            check_link(&plain, &target, kind.is_symlink()).map_err(refuse)?;
        } else if kind.is_file() {
            take(&plain, &mut entry)?;
        } else if !kind.is_dir() && !kind.is_pax_global_extensions() {
            return Err(refuse(format!(
                "{name} is a device or another special file"
            )));
        }
    }
    // The tar ends before the gzip stream does: read on to its checksum, so that a truncated file is noticed.
    let mut rest = tar.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(damaged)?;
    Ok(())
}

/// Copies a member to a temporary file in `directory`; never a byte more than is pinned.
fn copy_verified(
    content: &mut dyn Read,
    member: &Pinned,
    archive: &str,
    directory: &Path,
) -> Result<tempfile::NamedTempFile> {
    let file = || format!("{archive}: {}", member.path);
    let refuse = |reason: String| Error::Archive {
        archive: archive.to_owned(),
        reason,
    };
    let mut out = tempfile::NamedTempFile::new_in(directory)
        .map_err(Error::io("create a file in", directory))?;
    let mut hash = Sha256::new();
    let mut bytes = 0u64;
    let mut buffer = vec![0; 1 << 18];
    loop {
        interrupt::check("unpack")?;
        let count = content
            .read(&mut buffer)
            .map_err(|error| refuse(format!("{} is damaged or truncated: {error}", member.path)))?;
        if count == 0 {
            break;
        }
        bytes += count as u64;
        if member.bytes > 0 && bytes > member.bytes {
            return Err(refuse(format!(
                "{} is larger than the pinned {} bytes",
                member.path, member.bytes
            )));
        }
        hash.update(&buffer[..count]);
        out.write_all(&buffer[..count])
            .map_err(Error::io("write", directory))?;
    }
    let got = hex(&hash.finalize());
    match &member.sha256 {
        Some(expected) if *expected == got => Ok(out),
        Some(expected) => Err(Error::Checksum {
            file: file(),
            expected: expected.clone(),
            got,
        }),
        None => Err(refuse(format!("no sha256 is pinned for {}", member.path))),
    }
}

/// A name that stays inside the archive, on every system.
fn check_name(name: &str) -> std::result::Result<(), String> {
    let is_drive = name.as_bytes().get(1) == Some(&b':');
    if name.is_empty() || name.contains(['\0', '\\']) || name.starts_with('/') || is_drive {
        return Err(format!("the name {name:?} is not a relative path"));
    }
    if name.split('/').any(|part| part == "..") {
        return Err(format!("the name {name:?} leaves the archive"));
    }
    Ok(())
}

/// A link is never made and never followed; one that points outside marks the archive as hostile.
fn check_link(name: &str, target: &[u8], is_symbolic: bool) -> std::result::Result<(), String> {
    let hostile = || format!("the link {name:?} leaves the archive");
    let target = std::str::from_utf8(target).map_err(|_| hostile())?;
    if target.is_empty() || target.starts_with('/') || target.contains(['\0', '\\', ':']) {
        return Err(hostile());
    }
    // A symbolic link counts from its own folder, a hard link from the archive's root.
    let mut depth = if is_symbolic {
        name.matches('/').count()
    } else {
        0
    };
    for part in target.split('/') {
        match part {
            ".." => depth = depth.checked_sub(1).ok_or_else(hostile)?,
            "" | "." => {}
            _ => depth += 1,
        }
    }
    Ok(())
}

fn check_total(bytes: u64, compressed: u64, limits: Limits) -> std::result::Result<(), String> {
    if bytes > limits.bytes {
        return Err(format!("it unpacks to more than {} bytes", limits.bytes));
    }
    if bytes > RATIO_FROM && bytes / limits.ratio > compressed {
        return Err(format!(
            "it unpacks to more than {} times its size",
            limits.ratio
        ));
    }
    Ok(())
}

/// A reader that fails once more comes out than an honest archive would hold.
struct Capped<R> {
    inner: R,
    compressed: u64,
    read: u64,
    limits: Limits,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        check_total(self.read, self.compressed, self.limits).map_err(std::io::Error::other)?;
        Ok(count)
    }
}
