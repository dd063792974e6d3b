//! Files and folders that are whole or not there: written beside, then renamed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Where the temporary one goes: the same directory, so that a rename is enough.
fn directory(path: &Path) -> &Path {
    let parent = path.parent().unwrap_or(Path::new("."));
    match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    }
}

/// Writes a file through `write`; an older one of that name stays until all is on the disk.
///
/// # Errors
/// [`Error::Io`] if the disk is full, say; what `write` says. Nothing is left behind then.
pub(crate) fn file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let directory = directory(path);
    let file = tempfile::NamedTempFile::new_in(directory)
        .map_err(Error::io("create a file in", directory))?;
    let handle = file
        .as_file()
        .try_clone()
        .map_err(Error::io("write", path))?;
    let mut writer = BufWriter::with_capacity(1 << 20, handle);
    write(&mut writer)?;
    writer.flush().map_err(Error::io("write", path))?;
    // A disk that is full may say so only here.
    file.as_file()
        .sync_all()
        .map_err(Error::io("write", path))?;
    set_readable(file.as_file(), path)?;
    file.persist(path)
        .map_err(|error| Error::io("write", path)(error.error))?;
    Ok(())
}

/// Fills a new folder through `fill`, which gets the path it has until it is whole.
///
/// # Errors
/// [`Error::Argument`] if there is something of that name, [`Error::Io`], what `fill` says. Nothing is left behind then.
pub(crate) fn folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        let name = format!("folder {}", path.display());
        return Err(Error::argument(
            name,
            "a name that is not taken",
            "one that is",
        ));
    }
    let directory = directory(path);
    let prefix = format!(
        ".{}-",
        path.file_name().unwrap_or_default().to_string_lossy()
    );
    let temporary = tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(directory)
        .map_err(Error::io("create a folder in", directory))?;
    let inside: PathBuf = temporary.path().join("folder");
    std::fs::create_dir(&inside).map_err(Error::io("create directory", &inside))?;
    fill(&inside)?;
    std::fs::rename(&inside, path).map_err(Error::io("write", path))
}

/// Temporary files are private; what they become is as readable as other files.
#[cfg(unix)]
fn set_readable(file: &File, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(0o644);
    file.set_permissions(permissions)
        .map_err(Error::io("write", path))
}

#[cfg(not(unix))]
fn set_readable(_: &File, _: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn what_fails_leaves_nothing_behind_and_the_old_one_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("x");
        let full = |_: &Path| Err(Error::Interrupted("test".into()));
        let write = |text: &'static str, fails: bool| {
            file(&path, |out| {
                out.write_all(text.as_bytes())
                    .map_err(Error::io("write", "x"))?;
                if fails {
                    Err(Error::Interrupted("test".into()))
                } else {
                    Ok(())
                }
            })
        };
        assert!(write("first", true).is_err());
        assert!(names(place.path()).is_empty());
        write("second", false).unwrap();
        assert!(write("third", true).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
        assert!(folder(&place.path().join("f"), full).is_err());
        assert_eq!(names(place.path()), ["x"]);
        assert!(
            folder(&path, |_| Ok(()))
                .unwrap_err()
                .to_string()
                .contains("not taken")
        );
        folder(&place.path().join("f"), |inside| {
            std::fs::write(inside.join("y"), "z").map_err(Error::io("write", "y"))
        })
        .unwrap();
        assert_eq!(
            std::fs::read_to_string(place.path().join("f/y")).unwrap(),
            "z"
        );
        assert!(file(&place.path().join("no/such/place"), |_| Ok(())).is_err());
    }
}
