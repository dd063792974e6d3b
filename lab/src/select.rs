//! Which notebooks a command means: `all`, an area, a stem, a file or a folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::place::Place;

/// The notebooks that `words` name, each once, in order.
///
/// # Errors
/// If a word names nothing.
pub fn notebooks(place: &Place, words: &[String]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for word in words {
        let some = resolve(place, word)?;
        if some.is_empty() {
            bail!("{word}: there is no notebook in it");
        }
        for path in some {
            let path = (path.canonicalize()).with_context(|| format!("read {}", path.display()))?;
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn resolve(place: &Place, word: &str) -> Result<Vec<PathBuf>> {
    let top = place.notebooks();
    if word == "all" {
        return below(&top);
    }
    let given = Path::new(word);
    let below_top = top.join(word);
    for candidate in [given, &below_top] {
        if candidate.is_file() {
            if candidate.extension().is_none_or(|ext| ext != "ipynb") {
                bail!("{word}: expected a notebook (.ipynb), an area or `all`");
            }
            return Ok(vec![candidate.to_owned()]);
        }
        let with_extension = PathBuf::from(format!("{}.ipynb", candidate.display()));
        if with_extension.is_file() {
            return Ok(vec![with_extension]);
        }
        // The root of a file system is a folder too, but nobody means it.
        if candidate.is_dir() && candidate.parent().is_some() {
            return below(candidate);
        }
    }
    let mut known: Vec<String> = below(&top)?.iter().map(|path| name(place, path)).collect();
    let areas = known.iter().filter_map(|name| name.split_once('/'));
    let mut areas: Vec<String> = areas.map(|(area, _)| area.to_owned()).collect();
    areas.dedup();
    known.splice(0..0, areas);
    bail!(
        "{word}: no such notebook, area or folder; known: all, {}",
        known.join(", ")
    )
}

/// All notebooks below a folder, sorted; hidden folders (checkpoints) are left out.
fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error).with_context(|| format!("read {}", dir.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", dir.display()))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let kind = entry
            .file_type()
            .with_context(|| format!("read {}", path.display()))?;
        if kind.is_dir() {
            found.extend(below(&path)?);
        } else if path.extension().is_some_and(|ext| ext == "ipynb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A notebook's name in tables: its path below `notebooks/` without extension, or its file name.
pub fn name(place: &Place, path: &Path) -> String {
    let stem = path.with_extension("");
    let top = place.notebooks();
    let top = top.canonicalize().unwrap_or(top);
    match stem
        .strip_prefix(&top)
        .or_else(|_| stem.strip_prefix(place.notebooks()))
    {
        Ok(short) => short.display().to_string(),
        Err(_) => stem
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            root: dir.path().into(),
            cache: dir.path().join("cache"),
            build_key: "k".into(),
        };
        for file in [
            "tour.ipynb",
            "quant/rtn.ipynb",
            "quant/gptq.ipynb",
            "quant/notes.txt",
            ".ipynb_checkpoints/tour-checkpoint.ipynb",
        ] {
            let path = place.notebooks().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        (dir, place)
    }

    fn names(place: &Place, words: &[&str]) -> Result<Vec<String>> {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        let paths = notebooks(place, &words)?;
        Ok(paths.iter().map(|path| name(place, path)).collect())
    }

    #[test]
    fn words_name_notebooks_each_once() {
        let (dir, place) = tree();
        assert_eq!(
            names(&place, &["all"]).unwrap(),
            ["quant/gptq", "quant/rtn", "tour"]
        );
        assert_eq!(
            names(&place, &["quant"]).unwrap(),
            ["quant/gptq", "quant/rtn"]
        );
        assert_eq!(
            names(&place, &["tour", "tour.ipynb", "quant/rtn"]).unwrap(),
            ["tour", "quant/rtn"]
        );
        let elsewhere = dir.path().join("mine.ipynb");
        std::fs::write(&elsewhere, "{}").unwrap();
        assert_eq!(
            names(&place, &[elsewhere.to_str().unwrap()]).unwrap(),
            ["mine"]
        );
    }

    #[test]
    fn what_names_nothing_is_answered_with_what_is_known() {
        let (_dir, place) = tree();
        let message = names(&place, &["qaunt"]).unwrap_err().to_string();
        assert!(
            message.contains("all, quant, quant/gptq, quant/rtn, tour"),
            "{message}"
        );
        assert!(names(&place, &["quant/notes.txt"]).is_err());
        assert!(
            names(&place, &[""]).is_ok_and(|all| all.len() == 3) || names(&place, &[""]).is_err()
        );
        let empty = Place {
            root: place.root.join("nowhere"),
            ..place
        };
        assert!(
            names(&empty, &["all"])
                .unwrap_err()
                .to_string()
                .contains("no notebook")
        );
    }
}
