//! The step `scaffold`: what `cargo lab new` makes passes its tests as it is.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Count, stream};
use crate::place::Place;
use crate::{cargo, new};

/// A method made by `cargo lab new` in a copy of the tree passes its tests as it is.
///
/// The copy has always the same place, so that only what changed is compiled.
pub(super) fn run(place: &Place, count: &mut Count) -> Result<bool> {
    let copy = place.root.join("target/lab/scaffold");
    if copy.exists() {
        std::fs::remove_dir_all(&copy).with_context(|| format!("remove {}", copy.display()))?;
    }
    copy_tree(&place.root, &copy)?;
    keep_apart(&copy)?;
    new::scaffold(&copy, "quant/scaffolded_method")?;
    let place = Place {
        root: copy,
        ..place.clone()
    };
    let mut passed = new::finish(&place)?;
    for target in [&["--lib", "quant::method"][..], &["--test", "tree"]] {
        let mut command = cargo::command(&place, "test");
        command.args(["--locked", "-p", "llmkit", "--features", "notebook"]);
        passed &= stream(command.args(target), &mut std::io::stdout(), count)?;
    }
    Ok(passed)
}

/// Gives the crates of a copied tree a setting of their own. Cargo would compile them to where the tree's own are, as they have the same
/// names and the same place in their workspace, and each would have to be compiled again after the other. The settings are not the tree's.
fn keep_apart(copy: &Path) -> Result<()> {
    let path = copy.join(".cargo/config.toml");
    let settings = "\n[profile.dev.package.llmkit]\ndebug = 0\n\n[profile.dev.package.llmkit-shared]\ndebug = \"line-tables-only\"\n";
    (std::fs::OpenOptions::new().append(true).open(&path))
        .and_then(|mut file| file.write_all(settings.as_bytes()))
        .with_context(|| format!("change {}", path.display()))
}

/// Copies a checkout without what git and cargo keep in it.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let copy = || -> std::io::Result<()> {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == "target" || name == ".git" {
                continue;
            }
            let (kind, target) = (entry.file_type()?, to.join(&name));
            if kind.is_dir() {
                copy_tree(&entry.path(), &target).map_err(std::io::Error::other)?;
            } else if kind.is_file() {
                std::fs::copy(entry.path(), target)?;
            }
        }
        Ok(())
    };
    copy().with_context(|| format!("copy {}", from.display()))
}
