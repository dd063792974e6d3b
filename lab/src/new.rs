//! `cargo lab new AREA/STEM`: module, note and notebook of a new method, registered.
//!
//! What the templates are and where they go is said in `lab/templates/README.md`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo;
use crate::place::{Place, write_atomically};

/// Arguments of `cargo lab new`.
#[derive(Debug, Clone, clap::Args)]
pub struct NewArgs {
    /// Area and stem of the method, such as quant/gptq
    #[arg(value_name = "AREA/STEM")]
    name: String,
}

/// Scaffolds the method and says what to do next.
///
/// # Errors
/// If the name is not fit, the area has no template, or a file exists already; then nothing was written.
pub fn command(place: &Place, args: &NewArgs) -> Result<bool> {
    let written = scaffold(&place.root, &args.name)?;
    for path in &written {
        let path = path.strip_prefix(&place.root).unwrap_or(path);
        println!("wrote {}", path.display());
    }
    let is_indexed = finish(place)?;
    if !is_indexed {
        eprintln!(
            "the index research/README.md was not updated; do it with LLMKIT_BLESS=1 cargo test -p llmkit --test tree"
        );
    }
    let name = &args.name;
    println!("{name} is registered; it still rounds to nearest. Next:");
    println!("  1. the algorithm, its formula and its source: the module");
    println!("  2. what the paper says and what it leaves out: the note");
    println!("  3. cargo lab test tests");
    println!("  4. the question and the claim: the notebook; cargo lab run {name}");
    Ok(is_indexed)
}

/// Formats what was written and adds it to the index; false if the index could not be written.
///
/// # Errors
/// If cargo does not start.
pub fn finish(place: &Place) -> Result<bool> {
    let run = |command: &mut Command| {
        let status = command.status().context("start cargo")?;
        anyhow::Ok(status.success())
    };
    let is_formatted = run(cargo::command(place, "fmt").args(["-p", "llmkit"]))?;
    let index = [
        "--quiet",
        "-p",
        "llmkit",
        "--features",
        "notebook",
        "--test",
        "tree",
    ];
    let is_indexed = run(cargo::command(place, "test")
        .args(index)
        .env("LLMKIT_BLESS", "1"))?;
    Ok(is_formatted && is_indexed)
}

/// Writes the files of `name` below `root`, all or none, and gives their paths.
///
/// # Errors
/// As [`command`].
pub fn scaffold(root: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let (area, stem) = (name.split_once('/'))
        .with_context(|| format!("expected AREA/STEM, such as quant/gptq; got {name}"))?;
    check_word("area", area)?;
    check_word("stem", stem)?;
    let register = root.join(format!("llmkit/src/{area}/method/mod.rs"));
    let Ok(registry) = std::fs::read_to_string(&register) else {
        bail!(
            "area {area} has no methods to join ({} does not exist); the areas are: {}",
            register.display(),
            areas(root).join(", ")
        );
    };
    let registry = insert_above(
        &registry,
        "// cargo lab new: method modules end here",
        &format!("pub mod {stem};"),
    )
    .and_then(|text| {
        insert_above(
            &text,
            "// cargo lab new: method rows end here",
            &format!("Family {{ name: \"{stem}\", members: {stem}::members }},"),
        )
    })
    .with_context(|| format!("{}", register.display()))?;

    let mut files = Vec::new();
    for (template, target) in [
        (
            "module.rs.in",
            format!("llmkit/src/{area}/method/{stem}.rs"),
        ),
        ("note.md.in", format!("research/{area}/{stem}.md")),
        (
            "notebook.ipynb.in",
            format!("notebooks/{area}/{stem}.ipynb"),
        ),
    ] {
        let target = root.join(target);
        if target.exists() {
            bail!("{} exists already; nothing was written", target.display());
        }
        let template = root.join("lab/templates").join(template);
        let text = std::fs::read_to_string(&template)
            .with_context(|| format!("read {}", template.display()))?;
        files.push((target, fill(&text, area, stem)));
    }
    // The register comes last: until then nothing refers to the new files.
    files.push((register, registry));
    for (at, (path, text)) in files.iter().enumerate() {
        if let Err(error) = write_atomically(path, text.as_bytes()) {
            for (written, _) in &files[..at] {
                // The first error is the one to tell.
                let _ = std::fs::remove_file(written);
            }
            return Err(error.context("nothing was written"));
        }
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

fn fill(template: &str, area: &str, stem: &str) -> String {
    template
        .replace("{{area}}", area)
        .replace("{{stem}}", stem)
        .replace("{{Title}}", &camel(stem))
}

/// Upper camel case: the name of a type.
fn camel(stem: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    stem.split('_').map(word).collect()
}

/// Adds `line` above the line that is `marker`, indented like it.
fn insert_above(text: &str, marker: &str, line: &str) -> Result<String> {
    let found: Vec<&str> = text.lines().filter(|have| have.trim() == marker).collect();
    let [at] = found[..] else {
        bail!("expected one line `{marker}`, found {}", found.len());
    };
    if text.lines().any(|have| have.trim() == line) {
        bail!("`{line}` is there already");
    }
    let indent = &at[..at.len() - at.trim_start().len()];
    Ok(text.replacen(at, &format!("{indent}{line}\n{at}"), 1))
}

/// Words that Rust keeps for itself and that could be typed as a stem.
const KEYWORDS: &str = "abstract as async await become box break const continue crate do dyn else enum extern false \
    final fn for gen if impl in let loop macro match mod move mut override priv pub ref return self static struct \
    super trait true try type typeof union unsafe unsized use virtual where while yield tests all";

fn check_word(what: &str, word: &str) -> Result<()> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let begins_well = word.starts_with(|c: char| c.is_ascii_lowercase());
    if !begins_well || !word.chars().all(is_allowed) || word.ends_with('_') || word.contains("__") {
        bail!(
            "{what}: expected lower case letters, digits and single `_`, beginning with a letter; got {word:?}"
        );
    }
    if KEYWORDS.split_whitespace().any(|keyword| keyword == word) {
        bail!("{what}: {word} cannot name a module here; choose another word");
    }
    Ok(())
}

/// The areas that methods can be added to.
fn areas(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("llmkit/src"));
    let mut areas: Vec<String> = (entries.into_iter().flatten().flatten())
        .filter(|entry| entry.path().join("method/mod.rs").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    areas.sort();
    areas
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy of what scaffolding reads: the real templates, the real registers.
    fn copy_of_tree() -> tempfile::TempDir {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "lab/templates/module.rs.in",
            "lab/templates/note.md.in",
            "lab/templates/notebook.ipynb.in",
            "llmkit/src/quant/method/mod.rs",
        ] {
            let to = dir.path().join(file);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(root.join(file), to).unwrap();
        }
        dir
    }

    fn read(dir: &tempfile::TempDir, file: &str) -> String {
        std::fs::read_to_string(dir.path().join(file)).unwrap()
    }

    #[test]
    fn a_method_is_written_and_registered_once() {
        let dir = copy_of_tree();
        let before = read(&dir, "llmkit/src/quant/method/mod.rs");
        let written = scaffold(dir.path(), "quant/half_quadratic").unwrap();
        assert_eq!(written.len(), 4);
        for path in &written {
            let text = std::fs::read_to_string(path).unwrap();
            assert!(!text.contains("{{"), "{}", path.display());
        }
        let module = read(&dir, "llmkit/src/quant/method/half_quadratic.rs");
        assert!(module.contains("pub struct HalfQuadratic"));
        let register = read(&dir, "llmkit/src/quant/method/mod.rs");
        assert!(register.contains("\npub mod half_quadratic;\n"));
        assert!(register.contains("name: \"half_quadratic\", members: half_quadratic::members }"));
        assert_eq!(register.lines().count(), before.lines().count() + 2);
        let notebook = dir.path().join("notebooks/quant/half_quadratic.ipynb");
        let notebook = crate::notebook::Notebook::read(&notebook).unwrap();
        assert!(!notebook.code_cells().is_empty());

        let again = scaffold(dir.path(), "quant/half_quadratic").unwrap_err();
        assert!(format!("{again:#}").contains("already"), "{again:#}");
        assert_eq!(read(&dir, "llmkit/src/quant/method/mod.rs"), register);
    }

    #[test]
    fn an_existing_note_is_never_overwritten() {
        let dir = copy_of_tree();
        let note = dir.path().join("research/quant/awq.md");
        std::fs::create_dir_all(note.parent().unwrap()).unwrap();
        std::fs::write(&note, "mine").unwrap();
        let before = read(&dir, "llmkit/src/quant/method/mod.rs");
        let error = scaffold(dir.path(), "quant/awq").unwrap_err().to_string();
        assert!(error.contains("awq.md exists already"), "{error}");
        assert_eq!(read(&dir, "research/quant/awq.md"), "mine");
        assert_eq!(read(&dir, "llmkit/src/quant/method/mod.rs"), before);
        assert!(!dir.path().join("llmkit/src/quant/method/awq.rs").exists());
    }

    #[test]
    fn unfit_names_write_nothing() {
        let dir = copy_of_tree();
        for name in [
            "quant",
            "quant/",
            "/x",
            "quant/GPTQ",
            "quant/1bit",
            "quant/a-b",
            "quant/a/b",
            "quant/../x",
            "quant/mod",
            "quant/a__b",
            "quant/a_",
            "no_such_area/x",
            "quant/rtn",
        ] {
            let result = scaffold(dir.path(), name);
            assert!(result.is_err(), "{name}");
        }
        assert!(!dir.path().join("notebooks").exists());
    }

    #[test]
    fn markers_must_be_there_once() {
        assert_eq!(
            insert_above("a\n  // m\nb", "// m", "x").unwrap(),
            "a\n  x\n  // m\nb"
        );
        assert!(insert_above("a\nb", "// m", "x").is_err());
        assert!(insert_above("// m\n// m", "// m", "x").is_err());
        assert_eq!(camel("half_quadratic2"), "HalfQuadratic2");
    }
}
