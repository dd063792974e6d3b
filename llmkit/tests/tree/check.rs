//! The rules of the tree. Each returns what is broken, one sentence a violation.

use std::fs;
use std::path::{Component, Path, PathBuf};

use llmkit::eval::Ledger;
use serde_json::Value;

use crate::walk::{files, name, shown, stem};

/// Everything that is broken below `root`, except the index.
pub fn violations(root: &Path) -> Vec<String> {
    [
        stems(root),
        papers(root),
        notebooks(root),
        links(root),
        tables(root),
    ]
    .concat()
}

/// Modules of `stem` (`quant/rtn`): files or directories of that name anywhere below the area's sources.
pub fn modules(root: &Path, stem: &str) -> Vec<PathBuf> {
    let Some((area, rest)) = stem.split_once('/') else {
        return Vec::new();
    };
    files(&root.join("llmkit/src").join(area), "rs")
        .into_iter()
        .filter(|path| {
            let path = path.with_extension("");
            path.ends_with(rest) || path.ends_with(Path::new(rest).join("mod"))
        })
        .collect()
}

/// Whether `stem`, or what it is a part of, is a notebook: `tour/rounding` belongs to `tour.ipynb`.
fn has_notebook(root: &Path, stem: &str) -> bool {
    Path::new(stem)
        .ancestors()
        .filter(|part| !part.as_os_str().is_empty())
        .any(|part| {
            root.join("notebooks")
                .join(format!("{}.ipynb", part.display()))
                .is_file()
        })
}

/// Whether `stem` is a study: it has no module of its own, and its note links to those of its area that it compares.
pub fn is_study(root: &Path, stem: &str) -> bool {
    let Some((area, _)) = stem.split_once('/') else {
        return false;
    };
    let note = root.join(format!("research/{stem}.md"));
    let text = fs::read_to_string(&note).unwrap_or_default();
    let sources = root.join("llmkit/src").join(area);
    let from = note.parent().unwrap_or(root);
    let mut linked = relative_links(&text)
        .into_iter()
        .map(|it| normal(&from.join(it)));
    modules(root, stem).is_empty() && linked.any(|to| to.starts_with(&sources) && to.is_file())
}

/// One stem, everywhere: a notebook of an area has a note and a module, or is a study; a figure and a claim have a notebook.
fn stems(root: &Path) -> Vec<String> {
    let mut broken = Vec::new();
    let base = root.join("notebooks");
    for stem in files(&base, "ipynb").iter().map(|path| stem(&base, path)) {
        if !stem.contains('/') {
            continue;
        }
        if !root.join(format!("research/{stem}.md")).is_file() {
            broken.push(format!(
                "notebooks/{stem}.ipynb has no note research/{stem}.md"
            ));
        }
        if modules(root, &stem).is_empty() && !is_study(root, &stem) {
            broken.push(format!(
                "notebooks/{stem}.ipynb has no module {stem}.rs below llmkit/src, and its note links to none that it studies"
            ));
        }
    }
    let base = root.join("figures");
    for path in files(&base, "") {
        // `cargo lab export` draws figures anew for a venue, outside version control.
        let is_export = path.starts_with(base.join("export"));
        let is_ours = !is_export && name(&path) != "manifest.json" && name(&path) != "README.md";
        if is_ours && !has_notebook(root, &stem(&base, &path)) {
            broken.push(format!("{} belongs to no notebook", shown(root, &path)));
        }
    }
    match Ledger::at(root.join("data/results/ledger.csv")).rows() {
        Ok(rows) => broken.extend(
            rows.iter()
                .filter(|row| !has_notebook(root, &row.stem))
                .map(|row| format!("ledger: the claim of {} belongs to no notebook", row.stem)),
        ),
        Err(error) => broken.push(error.to_string()),
    }
    broken
}

/// Every claim names its paper by a key of `resources/llmkit.bib`.
fn papers(root: &Path) -> Vec<String> {
    let bib = fs::read_to_string(root.join("resources/llmkit.bib")).unwrap_or_default();
    // A ledger that cannot be read is reported by `stems`.
    let rows = Ledger::at(root.join("data/results/ledger.csv"))
        .rows()
        .unwrap_or_default();
    rows.iter()
        .filter(|row| {
            !bib.lines()
                .any(|line| line.ends_with(&format!("{{{},", row.paper)))
        })
        .map(|row| {
            format!(
                "ledger: {} cites {:?}, which is not in resources/llmkit.bib",
                row.stem, row.paper
            )
        })
        .collect()
}

/// Notebooks are stored clean: our kernel, no outputs, no `:dep`.
fn notebooks(root: &Path) -> Vec<String> {
    let mut broken = Vec::new();
    for path in files(&root.join("notebooks"), "ipynb") {
        let mut say = |what: String| broken.push(format!("{}: {what}", shown(root, &path)));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let notebook: Value = match serde_json::from_str(&text) {
            Ok(notebook) => notebook,
            Err(error) => {
                say(format!("not JSON: {error}"));
                continue;
            }
        };
        if notebook["nbformat"] != 4 {
            say(format!("nbformat is {}, expected 4", notebook["nbformat"]));
        }
        let kernel = &notebook["metadata"]["kernelspec"]["name"];
        if kernel != "llmkit" {
            say(format!("kernelspec is {kernel}, expected \"llmkit\""));
        }
        let cells = notebook["cells"].as_array().cloned().unwrap_or_default();
        if cells.is_empty() {
            say("has no cells".into());
        }
        let mut ids = std::collections::BTreeSet::new();
        for (number, cell) in cells.iter().enumerate() {
            let is_minor_5 = notebook["nbformat_minor"].as_u64() >= Some(5);
            if is_minor_5
                && !cell["id"]
                    .as_str()
                    .is_some_and(|id| ids.insert(id.to_owned()))
            {
                say(format!("cell {number} has no id of its own"));
            }
            if cell["cell_type"] != "code" {
                continue;
            }
            let has_outputs = cell["outputs"]
                .as_array()
                .is_none_or(|outputs| !outputs.is_empty());
            if has_outputs || !cell["execution_count"].is_null() {
                say(format!("cell {number} is stored with outputs; clear them"));
            }
            if source(cell)
                .lines()
                .any(|line| line.trim_start().starts_with(":dep"))
            {
                say(format!(
                    "cell {number} uses :dep; what notebooks need is in the prelude"
                ));
            }
        }
    }
    broken
}

/// A cell's source: one string or a list of lines.
fn source(cell: &Value) -> String {
    match &cell["source"] {
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        text => text.as_str().unwrap_or_default().to_owned(),
    }
}

/// Relative links in Markdown, in files and in notebooks, lead to something inside the checkout.
fn links(root: &Path) -> Vec<String> {
    let mut broken = Vec::new();
    let mut check = |path: &Path, text: &str| {
        for target in relative_links(text) {
            let from = path.parent().unwrap_or(root);
            let to = normal(&from.join(&target));
            if !to.starts_with(root) || !to.exists() {
                broken.push(format!(
                    "{}: link to {target} leads nowhere",
                    shown(root, path)
                ));
            }
        }
    };
    for path in files(root, "md") {
        check(&path, &fs::read_to_string(&path).unwrap_or_default());
    }
    for path in files(&root.join("notebooks"), "ipynb") {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let notebook: Value = serde_json::from_str(&text).unwrap_or_default();
        for cell in notebook["cells"].as_array().into_iter().flatten() {
            if cell["cell_type"] == "markdown" {
                check(&path, &source(cell));
            }
        }
    }
    broken
}

/// Targets of `[text](target)` that are paths, outside code.
fn relative_links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut in_fence = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        if in_fence {
            continue;
        }
        // Every other piece between backticks is code.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
        for after in prose.split("](").skip(1) {
            let target = after.split([')', ' ']).next().unwrap_or_default();
            let target = target.split('#').next().unwrap_or_default();
            let is_path =
                !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
            if is_path {
                targets.push(target.to_owned());
            }
        }
    }
    targets
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
        path
    })
}

/// Directories that hold a trait and its table: those whose `mod.rs` has `pub fn all()`.
pub fn table_directories(root: &Path) -> Vec<PathBuf> {
    files(&root.join("llmkit/src"), "rs")
        .into_iter()
        .filter(|path| name(path) == "mod.rs")
        .filter(|path| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .contains("pub fn all()")
        })
        .filter_map(|path| Some(path.parent()?.to_path_buf()))
        .collect()
}

/// A directory that holds a trait holds `mod.rs` and one file a method, each declared and each a row of `all()`.
fn tables(root: &Path) -> Vec<String> {
    let mut broken = Vec::new();
    for directory in table_directories(root) {
        let table = fs::read_to_string(directory.join("mod.rs")).unwrap_or_default();
        for path in files(&directory, "rs")
            .iter()
            .filter(|path| name(path) != "mod.rs")
        {
            let module = stem(&directory, path);
            for line in [format!("pub mod {module};"), format!("name: \"{module}\"")] {
                if !table.contains(&line) {
                    let place = shown(root, &directory.join("mod.rs"));
                    broken.push(format!("{}: {place} lacks {line:?}", shown(root, path)));
                }
            }
        }
    }
    broken
}

/// The listing of `directory` against the names that the compiled `all()` gives.
pub fn listing(directory: &Path, rows: &[&str]) -> Vec<String> {
    let modules: Vec<String> = files(directory, "rs")
        .iter()
        .map(|path| stem(directory, path))
        .filter(|module| module != "mod")
        .collect();
    let missing = modules
        .iter()
        .filter(|module| !rows.contains(&module.as_str()))
        .map(|module| format!("{module}.rs is not in all()"));
    let ghosts = rows
        .iter()
        .filter(|row| !modules.iter().any(|module| module == *row))
        .map(|row| format!("all() has {row}, but there is no {row}.rs"));
    missing.chain(ghosts).collect()
}
