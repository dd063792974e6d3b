//! `cargo lab clean`: what setup made is removed, nothing else, and never outside the cache.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::bench;
use crate::place::{PARTS, Place};
use crate::setup;
use crate::venv::Venv;

/// Arguments of `cargo lab clean`.
#[derive(Debug, Clone, clap::Args)]
pub struct CleanArgs {
    /// Everything, of all checkouts and versions, downloaded models included
    #[arg(long)]
    all: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Removes the cache parts of this checkout, or all of them.
///
/// # Errors
/// If the cache root does not look like ours, or something cannot be removed.
pub fn command(place: &Place, args: &CleanArgs) -> Result<()> {
    if !place.cache.exists() {
        println!(
            "nothing to remove: {} does not exist",
            place.cache.display()
        );
        return Ok(());
    }
    if !place.owns_cache() {
        bail!(
            "{} does not look like llmkit's cache (its CACHEDIR.TAG is missing or not ours); remove it by hand, or check LLMKIT_CACHE",
            place.cache.display()
        );
    }
    let doomed = if args.all {
        PARTS.map(|part| place.cache.join(part)).to_vec()
    } else {
        parts_of_checkout(place)
    };
    let mut freed = 0;
    for path in doomed {
        if !path.exists() {
            continue;
        }
        let bytes = size(&path);
        freed += bytes;
        println!("{}: {}", path.display(), human(bytes));
        if !args.dry_run {
            remove(place, &path)?;
        }
    }
    let verb = if args.dry_run { "would free" } else { "freed" };
    println!("{verb} {}", human(freed));
    if !args.all && place.cache.join("hub").exists() {
        println!("models and corpora are kept; `cargo lab clean --all` removes them too");
    }
    Ok(())
}

fn parts_of_checkout(place: &Place) -> Vec<PathBuf> {
    let mut parts = vec![place.cache.join("build").join(&place.build_key)];
    // Only the kernel knows which snapshot is this checkout's.
    if let Ok((snapshot, _)) = setup::snapshot_state(place)
        && snapshot.starts_with(place.cache.join("snapshot"))
        && snapshot != place.cache.join("snapshot")
    {
        parts.push(snapshot);
    }
    parts.extend(Venv::find(place).map(|venv| venv.dir));
    parts.extend(bench::peers_dir(place));
    parts.push(place.jupyter_dir());
    parts
}

/// Removes one part; a symbolic link is removed itself, never what it points to.
fn remove(place: &Place, path: &Path) -> Result<()> {
    let inside = path.strip_prefix(&place.cache).ok();
    let first = inside.and_then(|inside| inside.components().next());
    let is_part = first.is_some_and(|first| PARTS.iter().any(|part| first.as_os_str() == *part));
    let has_dots = path.components().any(|part| part.as_os_str() == "..");
    if !is_part || has_dots {
        bail!(
            "{} is no part of the cache; nothing was removed",
            path.display()
        );
    }
    let meta = std::fs::symlink_metadata(path);
    let removed = match meta {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    removed.with_context(|| {
        format!(
            "remove {} (does a kernel still use it? close it and try again)",
            path.display()
        )
    })
}

/// Bytes below a path, every file once however many names it has; symbolic links are not followed.
fn size(path: &Path) -> u64 {
    fn add(path: &Path, seen: &mut HashSet<(u64, u64)>) -> u64 {
        let Ok(meta) = std::fs::symlink_metadata(path) else {
            return 0;
        };
        if !seen.insert((meta.dev(), meta.ino())) {
            return 0;
        }
        if !meta.is_dir() {
            return meta.len();
        }
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| add(&entry.path(), seen)).sum()
    }
    add(path, &mut HashSet::new())
}

fn human(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b if b >= 1e3 => format!("{:.1} kB", b / 1e3),
        b => format!("{b} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            root: dir.path().join("clone"),
            cache: dir.path().join("cache"),
            build_key: "key".into(),
        };
        (dir, place)
    }

    fn all(dry_run: bool) -> CleanArgs {
        CleanArgs { all: true, dry_run }
    }

    fn fill(place: &Place, files: &[&str]) {
        for file in files {
            let path = place.cache.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
    }

    #[test]
    fn a_cache_that_is_not_ours_is_refused() {
        let (_dir, place) = place();
        fill(&place, &["build/key/a", "hub/model"]);
        let message = command(&place, &all(false)).unwrap_err().to_string();
        assert!(message.contains("CACHEDIR.TAG"), "{message}");
        assert!(place.cache.join("hub/model").exists());
    }

    #[test]
    fn only_known_parts_go() {
        let (_dir, place) = place();
        place.open_cache().unwrap();
        fill(
            &place,
            &["build/key/a", "hub/model", "thesis.txt", "photos/a"],
        );
        command(&place, &all(true)).unwrap();
        assert!(
            place.cache.join("hub/model").exists(),
            "a dry run removes nothing"
        );
        command(&place, &all(false)).unwrap();
        assert!(!place.cache.join("hub").exists() && !place.cache.join("build").exists());
        assert!(place.cache.join("thesis.txt").exists() && place.cache.join("photos/a").exists());
    }

    #[test]
    fn this_checkout_s_parts_go_and_others_stay() {
        let (_dir, place) = place();
        place.open_cache().unwrap();
        fill(
            &place,
            &[
                "build/key/a",
                "build/other/a",
                "hub/model",
                "jupyter/other/k",
            ],
        );
        std::fs::create_dir_all(place.jupyter_dir()).unwrap();
        let args = CleanArgs {
            all: false,
            dry_run: false,
        };
        command(&place, &args).unwrap();
        assert!(!place.cache.join("build/key").exists() && !place.jupyter_dir().exists());
        for kept in ["build/other/a", "hub/model", "jupyter/other/k"] {
            assert!(place.cache.join(kept).exists(), "{kept}");
        }
    }

    #[test]
    fn what_links_point_to_is_never_touched() {
        let (dir, place) = place();
        place.open_cache().unwrap();
        let precious = dir.path().join("precious");
        std::fs::create_dir_all(&precious).unwrap();
        std::fs::write(precious.join("data"), "x").unwrap();
        std::os::unix::fs::symlink(&precious, place.cache.join("hub")).unwrap();
        std::fs::create_dir_all(place.cache.join("run")).unwrap();
        std::os::unix::fs::symlink(&precious, place.cache.join("run/link")).unwrap();
        command(&place, &all(false)).unwrap();
        assert!(precious.join("data").exists());
        assert!(std::fs::symlink_metadata(place.cache.join("hub")).is_err());
    }

    #[test]
    fn paths_outside_are_refused() {
        let (dir, place) = place();
        for path in [
            dir.path().to_owned(),
            place.cache.clone(),
            place.cache.join("mine"),
            place.cache.join("build/../../clone"),
        ] {
            assert!(remove(&place, &path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_file_with_two_names_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), vec![0; 5000]).unwrap();
        let alone = size(dir.path());
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert!(size(dir.path()) - alone < 5000);
        assert_eq!(human(1_500_000), "1.5 MB");
        assert_eq!(human(3), "3 B");
    }
}
