//! Every rule, broken once: a rule that never failed proves nothing.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::{check, index};

const TABLE: &str =
    "pub mod rtn;\npub fn all() -> Vec<Family> { vec![Family { name: \"rtn\" }] }\n";

/// A sound little checkout.
fn sound() -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    for (path, text) in [
        (
            "README.md",
            "[notes](research/quant/rtn.md#formula) [site](https://example.org/x)\n",
        ),
        ("llmkit/src/quant/method/mod.rs", TABLE),
        (
            "llmkit/src/quant/method/rtn.rs",
            "//! Round to nearest: every weight.\n",
        ),
        (
            "research/quant/rtn.md",
            "# Round to nearest\n\n```\n[not](a-link)\n```\n`[nor](this)`\n",
        ),
        (
            "notebooks/quant/rtn.ipynb",
            &notebook(
                "let x = 1;",
                "llmkit",
                "[note](../../research/quant/rtn.md)",
            ),
        ),
        (
            "notebooks/tour.ipynb",
            &notebook("let x = 1;", "llmkit", "# Tour"),
        ),
        ("figures/quant/rtn.svg", "<svg/>"),
        ("figures/tour/rounding.pdf", ""),
        ("figures/export/icml/quant/rtn.pdf", ""),
        ("figures/manifest.json", "{}"),
        ("resources/llmkit.bib", "@misc{p,\n}\n"),
    ] {
        write(tree.path(), path, text);
    }
    tree
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn notebook(code: &str, kernel: &str, prose: &str) -> String {
    serde_json::json!({
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": kernel}},
        "cells": [
            {"cell_type": "markdown", "id": "a", "metadata": {}, "source": prose},
            {"cell_type": "code", "id": "b", "metadata": {}, "source": [code], "outputs": [], "execution_count": null},
        ],
    })
    .to_string()
}

#[test]
fn a_sound_tree_has_no_violations() {
    assert_eq!(check::violations(sound().path()), [""; 0]);
}

#[test]
fn each_violation_is_caught() {
    let notebook_with = |code: &str| notebook(code, "llmkit", "");
    let ran = notebook_with("1").replace("\"execution_count\":null", "\"execution_count\":7");
    let shown = notebook_with("1").replace("\"outputs\":[]", "\"outputs\":[{\"text\":\"1\"}]");
    let same_id = notebook_with("1").replace("\"id\":\"b\"", "\"id\":\"a\"");
    let old = notebook_with("1").replace("\"nbformat\":4", "\"nbformat\":3");
    for (path, text, says) in [
        (
            "notebooks/quant/gptq.ipynb",
            notebook_with("1"),
            "gptq.ipynb has no note",
        ),
        (
            "figures/quant/awq.png",
            String::new(),
            "awq.png belongs to no notebook",
        ),
        (
            "figures/other/x.svg",
            String::new(),
            "x.svg belongs to no notebook",
        ),
        ("notebooks/tour.ipynb", ran, "cell 1 is stored with outputs"),
        (
            "notebooks/tour.ipynb",
            shown,
            "cell 1 is stored with outputs",
        ),
        (
            "notebooks/tour.ipynb",
            same_id,
            "cell 1 has no id of its own",
        ),
        ("notebooks/tour.ipynb", old, "nbformat is 3"),
        (
            "notebooks/tour.ipynb",
            notebook("1", "rust", ""),
            "kernelspec is \"rust\"",
        ),
        (
            "notebooks/tour.ipynb",
            notebook_with("  :dep rand"),
            "cell 1 uses :dep",
        ),
        ("notebooks/tour.ipynb", "{".into(), "not JSON"),
        (
            "notebooks/tour.ipynb",
            notebook("1", "llmkit", "[x](gone.md)"),
            "gone.md leads nowhere",
        ),
        (
            "research/quant/rtn.md",
            "# R\n[x](../gone.md#a)".into(),
            "../gone.md leads nowhere",
        ),
        (
            "README.md",
            "![x](../../etc/hostname)".into(),
            "leads nowhere",
        ),
        (
            "llmkit/src/quant/method/mod.rs",
            TABLE.replace("name: \"rtn\"", ""),
            "lacks \"name:",
        ),
        (
            "llmkit/src/quant/method/mod.rs",
            TABLE.replace("pub mod rtn;", ""),
            "lacks \"pub mod rtn;\"",
        ),
        (
            "data/results/ledger.csv",
            "not,a,ledger\n1,2,3\n".into(),
            "ledger.csv",
        ),
    ] {
        let tree = sound();
        write(tree.path(), path, &text);
        let broken = check::violations(tree.path());
        assert!(
            broken.iter().any(|line| line.contains(says)),
            "{says}: {broken:?}"
        );
    }
}

#[test]
fn a_notebook_without_a_module_is_caught() {
    let tree = sound();
    fs::remove_file(tree.path().join("llmkit/src/quant/method/rtn.rs")).unwrap();
    let broken = check::violations(tree.path());
    assert_eq!(
        broken,
        [
            "notebooks/quant/rtn.ipynb has no module quant/rtn.rs below llmkit/src, and its note links to none that it studies"
        ]
    );
    // A study has a note that links to what it compares.
    let note = "# Round\n[the table](../../llmkit/src/quant/method/mod.rs)\n";
    write(tree.path(), "research/quant/rtn.md", note);
    assert_eq!(check::violations(tree.path()), [""; 0]);
    let row = "| `quant/rtn` Round | [note](quant/rtn.md) | a study |";
    assert!(index::generate(tree.path()).unwrap().contains(row));
    // Modules of another area are not what it compares.
    write(tree.path(), "llmkit/src/eval/x.rs", "//! X.\n");
    let note = "# Round\n[x](../../llmkit/src/eval/x.rs)\n";
    write(tree.path(), "research/quant/rtn.md", note);
    assert_eq!(check::violations(tree.path()).len(), 1);
    // A directory module counts.
    write(
        tree.path(),
        "llmkit/src/quant/method/rtn/mod.rs",
        "//! Round.\n",
    );
    assert_eq!(check::violations(tree.path()), [""; 0]);
}

#[test]
fn a_claim_without_a_notebook_is_caught() {
    use llmkit::eval::{Ledger, Row};
    let row: Row = serde_json::from_value(serde_json::json!({
        "stem": "quant/lost", "claim": "c", "paper": "p", "where": "", "kind": "Exact", "expected": "= 1", "value": 1.0,
        "low": 1.0, "high": 1.0, "unit": "x", "verdict": "Reproduced", "config": "", "commit": "", "machine": "",
        "date": "", "notebook": "",
    }))
    .unwrap();
    let tree = sound();
    let ledger = Ledger::at(tree.path().join("data/results/ledger.csv"));
    ledger.record(&row).unwrap();
    let broken = check::violations(tree.path());
    assert_eq!(
        broken,
        ["ledger: the claim of quant/lost belongs to no notebook"]
    );
    write(tree.path(), "resources/llmkit.bib", "");
    let broken = check::violations(tree.path());
    assert!(broken[1].contains("cites \"p\""), "{broken:?}");
    write(tree.path(), "resources/llmkit.bib", "@misc{p,\n");
    // A part of a notebook is the notebook's; its verdict is in the index.
    let row = Row {
        stem: "tour/rounding".into(),
        ..row
    };
    fs::remove_file(tree.path().join("data/results/ledger.csv")).unwrap();
    ledger.record(&row).unwrap();
    assert_eq!(check::violations(tree.path()), [""; 0]);
    let text = index::generate(tree.path()).unwrap();
    assert!(
        text.contains("| `tour` | — | — | 1 reproduced | [notebook](../notebooks/tour.ipynb) |"),
        "{text}"
    );
}

#[test]
fn the_index_follows_the_tree() {
    let tree = sound();
    let text = index::generate(tree.path()).unwrap();
    let row = "| `quant/rtn` Round to nearest | [note](quant/rtn.md) | [method](../llmkit/src/quant/method/rtn.rs) | — \
               | [notebook](../notebooks/quant/rtn.ipynb) |";
    assert!(text.contains(row), "{text}");
    // A review of the literature is the area's, not a method.
    let review = "# Quantization: a review\n";
    write(tree.path(), "research/quant/README.md", review);
    let more = index::generate(tree.path()).unwrap();
    let head = "## quant\n\n[Quantization: a review](quant/README.md)\n\n";
    assert!(
        more.contains(head) && !more.contains("`quant/README`"),
        "{more}"
    );
    fs::remove_file(tree.path().join("research/quant/README.md")).unwrap();
    // A note alone, a module alone: rows with dashes.
    write(tree.path(), "research/quant/qtip.md", "# Trellis codes\n");
    write(
        tree.path(),
        "llmkit/src/quant/method/hqq.rs",
        "//! Half-quadratic: by iteration.\n",
    );
    let more = index::generate(tree.path()).unwrap();
    assert!(
        more.contains("| `quant/qtip` Trellis codes | [note](quant/qtip.md) | — | — | — |"),
        "{more}"
    );
    assert!(
        more.contains("| `quant/hqq` Half-quadratic | — | [method]("),
        "{more}"
    );
    assert!(
        crate::difference(&text, &more)
            .unwrap()
            .contains("+ | `quant/hqq`")
    );
}

#[test]
fn a_table_that_disagrees_with_its_directory_is_caught() {
    let tree = sound();
    let directory = tree.path().join("llmkit/src/quant/method");
    assert_eq!(check::listing(&directory, &["rtn"]), [""; 0]);
    assert_eq!(check::listing(&directory, &[]), ["rtn.rs is not in all()"]);
    assert_eq!(
        check::listing(&directory, &["rtn", "ghost"]),
        ["all() has ghost, but there is no ghost.rs"]
    );
}
