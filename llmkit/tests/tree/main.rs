//! The tree keeps its promises: one stem everywhere, clean notebooks, links that lead somewhere, complete tables, and
//! an index that says what is there. `LLMKIT_BLESS=1 cargo test -p llmkit --test tree` rewrites the index.

mod check;
mod index;
mod planted;
mod walk;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("the crate lies in a workspace")
        .to_path_buf()
}

#[test]
fn every_rule_of_the_tree_holds() {
    let broken = check::violations(&root());
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_file_of_a_table_directory_is_in_its_table() {
    use llmkit::eval::tasks;
    use llmkit::model::sample;
    use llmkit::quant::{format, method, transform};
    use llmkit::{attention, kvcache::store};
    let tables: [(&str, Vec<&str>); 7] = [
        (
            "quant/format",
            format::all().iter().map(|it| it.name).collect(),
        ),
        (
            "quant/method",
            method::all().iter().map(|it| it.name).collect(),
        ),
        (
            "quant/transform",
            transform::all().iter().map(|it| it.name).collect(),
        ),
        (
            "attention",
            attention::all().iter().map(|it| it.name).collect(),
        ),
        (
            "kvcache/store",
            store::all().iter().map(|it| it.name).collect(),
        ),
        (
            "model/sample",
            sample::all().iter().map(|it| it.name).collect(),
        ),
        (
            "eval/tasks",
            tasks::all().iter().map(|it| it.name).collect(),
        ),
    ];
    let source = root().join("llmkit/src");
    for (directory, rows) in tables {
        assert_eq!(
            check::listing(&source.join(directory), &rows),
            [""; 0],
            "{directory}"
        );
    }
}

#[test]
fn the_index_is_fresh() {
    let path = root().join("research/README.md");
    let fresh = index::generate(&root()).unwrap();
    if std::env::var_os("LLMKIT_BLESS").is_some() {
        fs::write(&path, &fresh).unwrap();
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    if let Some(difference) = difference(&stored, &fresh) {
        panic!(
            "research/README.md is stale; LLMKIT_BLESS=1 cargo test -p llmkit --test tree rewrites it\n{difference}"
        );
    }
}

/// Lines only in `old` with `-`, lines only in `new` with `+`; nothing if the texts are equal.
fn difference(old: &str, new: &str) -> Option<String> {
    if old == new {
        return None;
    }
    let only = |sign: &str, these: &str, those: &str| -> String {
        let lines = these
            .lines()
            .filter(|line| !those.lines().any(|other| other == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    let lines = only("-", old, new) + &only("+", new, old);
    Some(if lines.is_empty() {
        "(order or line ends)".into()
    } else {
        lines
    })
}

#[test]
fn a_difference_names_the_lines() {
    assert_eq!(difference("a\nb\n", "a\nb\n"), None);
    assert_eq!(difference("a\nb\n", "a\nc\n").unwrap(), "- b\n+ c\n");
    assert!(difference("a\nb\n", "b\na\n").is_some());
}
