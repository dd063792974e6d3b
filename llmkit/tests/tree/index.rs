//! The index of methods, `research/README.md`: generated from the tree and the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use llmkit::eval::{Ledger, Row};

use crate::check::{is_study, modules, table_directories};
use crate::walk::{files, name, stem};

const HEAD: &str = "# Index of methods

One row a method: the analysis of its paper, its implementation, what was measured, where it is explained. A dash says
what is still missing. Negative and odd results are in the [log](LOG.md); every verdict with its interval, commit and
machine is in the ledger, `data/results/ledger.csv`, and the rule behind it in
[`eval::claim`](../llmkit/src/eval/claim.rs).

This file is generated. `LLMKIT_BLESS=1 cargo test -p llmkit --test tree` rewrites it.
";

const COLUMNS: &str =
    "| method | analysis | implementation | evaluation | documentation |\n|---|---|---|---|---|\n";

/// The text that `research/README.md` must have.
pub fn generate(root: &Path) -> Result<String, llmkit::Error> {
    let rows = Ledger::at(root.join("data/results/ledger.csv")).rows()?;
    let mut areas: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for stem in stems(root) {
        let area = stem.split('/').next().unwrap_or_default().to_owned();
        areas.entry(area).or_default().insert(stem);
    }
    let mut text = HEAD.to_owned();
    for (area, stems) in &areas {
        let _ = write!(text, "\n## {area}\n\n");
        if let Some(title) = title(root, &format!("{area}/README")) {
            let _ = write!(text, "[{title}]({area}/README.md)\n\n");
        }
        text += COLUMNS;
        for stem in stems {
            text += &line(root, stem, &rows);
        }
    }
    let notebooks = files(&root.join("notebooks"), "ipynb");
    let tours: Vec<String> = notebooks
        .iter()
        .map(|path| stem(&root.join("notebooks"), path))
        .filter(|stem| !stem.contains('/'))
        .collect();
    if !tours.is_empty() {
        let _ = write!(text, "\n## across areas\n\n{COLUMNS}");
        for stem in &tours {
            text += &line(root, stem, &rows);
        }
    }
    Ok(text)
}

/// Everything of an area that has a note, a notebook, or a file in a directory that holds a trait.
fn stems(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (base, extension) in [("research", "md"), ("notebooks", "ipynb")] {
        let base = root.join(base);
        let stems = files(&base, extension)
            .into_iter()
            .map(|path| stem(&base, &path));
        // A README is the area's review of the literature.
        found.extend(stems.filter(|stem| stem.contains('/') && !stem.ends_with("/README")));
    }
    let sources = root.join("llmkit/src");
    for directory in table_directories(root) {
        let place = stem(&sources, &directory);
        let area = place.split('/').next().unwrap_or_default().to_owned();
        let modules = files(&directory, "rs")
            .into_iter()
            .filter(|path| name(path) != "mod.rs");
        found.extend(modules.map(|path| format!("{area}/{}", stem(&directory, &path))));
    }
    found
}

fn line(root: &Path, stem: &str, rows: &[Row]) -> String {
    let link = |path: String, text: &str| match root.join(&path).is_file() {
        true => format!("[{text}]({})", from_research(&path)),
        false => "—".to_owned(),
    };
    let modules: Vec<String> = modules(root, stem)
        .iter()
        .filter_map(|path| {
            let path = path.strip_prefix(root).ok()?.to_str()?.to_owned();
            let kind = path.rsplit('/').nth(1)?.to_owned();
            Some(format!("[{kind}]({})", from_research(&path)))
        })
        .collect();
    let implementation = match modules.is_empty() {
        true if is_study(root, stem) => "a study".into(),
        true => "—".into(),
        false => modules.join(", "),
    };
    let note = link(format!("research/{stem}.md"), "note");
    let notebook = link(format!("notebooks/{stem}.ipynb"), "notebook");
    let title = match title(root, stem) {
        Some(title) => format!("`{stem}` {title}"),
        None => format!("`{stem}`"),
    };
    format!(
        "| {title} | {note} | {implementation} | {} | {notebook} |\n",
        verdicts(stem, rows)
    )
}

/// `research/x` as seen from `research/`.
fn from_research(path: &str) -> String {
    match path.strip_prefix("research/") {
        Some(below) => below.to_owned(),
        None => format!("../{path}"),
    }
}

/// The heading of the note, else the first sentence of the module.
fn title(root: &Path, stem: &str) -> Option<String> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    if let Some(note) = read(&root.join(format!("research/{stem}.md"))) {
        return note
            .lines()
            .find_map(|line| line.strip_prefix("# "))
            .map(str::to_owned);
    }
    let module = read(modules(root, stem).first()?)?;
    let first = module.lines().next()?.strip_prefix("//! ")?;
    Some(first.split([':', '.']).next()?.to_owned())
}

/// How many claims of `stem` (or of its parts) have which verdict: `2 reproduced, 1 shape only`.
fn verdicts(stem: &str, rows: &[Row]) -> String {
    let part = format!("{stem}/");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows
        .iter()
        .filter(|row| row.stem == stem || row.stem.starts_with(&part))
    {
        *counts.entry(row.verdict.to_string()).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(verdict, count)| format!("{count} {verdict}"))
        .collect();
    if counts.is_empty() {
        "—".into()
    } else {
        counts.join(", ")
    }
}
