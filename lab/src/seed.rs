//! What cargo compiled for `cargo lab` itself, handed on: the kernel and the library need some ninety of the same units, in the same
//! profile, in another directory.
//!
//! cargo knows a unit by its name and hash and by times of files, not by where they lie, so copies that keep their times count
//! as compiled. What does not fit (other features, a path compiled in) is compiled as if nothing had been there.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use crate::place::Place;

/// Folders of a profile's directory that hold what is compiled and what cargo knows of it.
const PARTS: [&str; 3] = ["deps", "build", ".fingerprint"];
/// How the name of an unfinished copy begins.
const DRAFT: &str = ".seed";
/// Units of our own: they lie in a checkout, and others may build into the same directory.
const OURS: [&str; 2] = ["llmkit", "libllmkit"];

/// Fills the build directory from the one that this program was compiled into, if there is nothing yet.
///
/// # Errors
/// If the copy cannot be made; nothing of it stays.
pub fn seed(place: &Place) -> Result<()> {
    let program = std::env::current_exe().context("find the running program")?;
    let Some(from) = program.parent() else {
        return Ok(());
    };
    let Some(profile) = from.file_name() else {
        return Ok(());
    };
    let to = place.build_dir().join(profile);
    if to.exists() || !from.join(".fingerprint").is_dir() {
        return Ok(());
    }
    fs::create_dir_all(place.build_dir())
        .with_context(|| format!("create {}", place.build_dir().display()))?;
    copy_parts(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// All [`PARTS`] or nothing: half of a unit would be taken for a whole one.
fn copy_parts(from: &Path, to: &Path) -> io::Result<()> {
    let beside = to.parent().unwrap_or(Path::new("."));
    // What one that was killed has left; whoever fills the directory holds its lock.
    for entry in fs::read_dir(beside)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(DRAFT) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let draft = tempfile::Builder::new().prefix(DRAFT).tempdir_in(beside)?;
    for part in PARTS {
        copy_tree(&from.join(part), &draft.path().join(part))?;
    }
    fs::rename(draft.path(), to)?;
    // It has another name now.
    let _ = draft.keep();
    Ok(())
}

/// Folders and files with their times and permissions, without links and [`OURS`].
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if OURS.iter().any(|it| name.to_string_lossy().starts_with(it)) {
            continue;
        }
        let (kind, target) = (entry.file_type()?, to.join(&name));
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            let changed = entry.metadata()?.modified()?;
            fs::copy(entry.path(), &target)?;
            fs::File::open(&target)?.set_modified(changed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_copied_whole_with_their_times_and_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b/debug"));
        let then =
            std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        for name in [
            "deps/libserde-1.rlib",
            "build/ring-1/out/x.o",
            ".fingerprint/serde-1/lib",
            ".fingerprint/llmkit-lab-1/bin",
            "deps/libllmkit-1.rlib",
            "incremental/x",
        ] {
            let path = from.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, name).unwrap();
            let file = fs::File::open(&path).unwrap();
            file.set_modified(then).unwrap();
        }
        fs::create_dir_all(dir.path().join("b/.seed-of-one-killed/deps")).unwrap();
        copy_parts(&from, &to).unwrap();
        for name in [
            "deps/libserde-1.rlib",
            "build/ring-1/out/x.o",
            ".fingerprint/serde-1/lib",
        ] {
            assert_eq!(fs::read_to_string(to.join(name)).unwrap(), name);
            assert_eq!(
                fs::metadata(to.join(name)).unwrap().modified().unwrap(),
                then
            );
        }
        for name in [
            "deps/libllmkit-1.rlib",
            ".fingerprint/llmkit-lab-1",
            "incremental",
        ] {
            assert!(!to.join(name).exists(), "{name}");
        }
        assert!(!dir.path().join("b/.seed-of-one-killed").exists());
        // Without one of its parts nothing is left behind.
        fs::remove_dir_all(from.join("build")).unwrap();
        let missing = dir.path().join("c/debug");
        fs::create_dir(dir.path().join("c")).unwrap();
        assert!(copy_parts(&from, &missing).is_err());
        assert_eq!(fs::read_dir(dir.path().join("c")).unwrap().count(), 0);
    }
}
