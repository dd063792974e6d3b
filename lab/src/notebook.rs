//! A notebook file: read leniently (nbformat 4.0 to 4.5), written as valid nbformat 4.5, everything else kept.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::place::write_atomically;

/// A notebook in memory.
#[derive(Debug, Clone)]
pub struct Notebook {
    json: Value,
}

/// A cell with code in it.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeCell {
    /// Position among all cells of the notebook, from 0.
    pub index: usize,
    /// The cell's text.
    pub source: String,
    /// Tags from the cell's metadata.
    pub tags: Vec<String>,
}

impl CodeCell {
    /// Whether the cell carries `tag`.
    pub fn is_tagged(&self, tag: &str) -> bool {
        self.tags.iter().any(|have| have == tag)
    }

    /// The first line with something in it, to name the cell by.
    pub fn first_line(&self) -> &str {
        let lines = self.source.lines().map(str::trim);
        lines.clone().find(|line| !line.is_empty()).unwrap_or("")
    }
}

impl Notebook {
    /// Reads a notebook.
    ///
    /// # Errors
    /// If it is no file, no JSON, or no notebook of format 4.
    pub fn read(path: &Path) -> Result<Notebook> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("read {name}"))?;
        let json: Value = serde_json::from_str(&text).with_context(|| {
            format!("{name} is not JSON (a merge conflict, or half a file?); restore it")
        })?;
        let format = json["nbformat"].as_u64();
        if format != Some(4) {
            bail!(
                "{name}: expected nbformat 4, got {}; convert it with `jupyter nbconvert --to notebook`",
                format.map_or("none".to_owned(), |format| format.to_string())
            );
        }
        let Some(cells) = json["cells"].as_array() else {
            bail!("{name}: expected a list `cells`, got none");
        };
        for (at, cell) in cells.iter().enumerate() {
            if !cell.is_object() || text_of(&cell["source"]).is_none() {
                bail!(
                    "{name}: cell {}: expected an object with a `source`",
                    at + 1
                );
            }
        }
        Ok(Notebook { json })
    }

    /// The code cells that hold something other than white space, in order.
    pub fn code_cells(&self) -> Vec<CodeCell> {
        let tags = |cell: &Value| {
            let tags = cell["metadata"]["tags"].as_array();
            let tags = tags.into_iter().flatten().filter_map(Value::as_str);
            tags.map(str::to_owned).collect()
        };
        (self.cells().iter().enumerate())
            .filter(|(_, cell)| cell["cell_type"] == "code")
            .map(|(index, cell)| CodeCell {
                index,
                source: text_of(&cell["source"]).unwrap_or_default(),
                tags: tags(cell),
            })
            .filter(|cell| !cell.source.trim().is_empty())
            .collect()
    }

    /// The language the notebook says it is written in, if it says so.
    pub fn language(&self) -> Option<&str> {
        let metadata = &self.json["metadata"];
        (metadata["kernelspec"]["language"].as_str())
            .or_else(|| metadata["language_info"]["name"].as_str())
    }

    /// Parameters with which the notebook is quick (`metadata.llmkit.quick`), as tests use them.
    pub fn quick(&self) -> Map<String, Value> {
        let quick = self.json["metadata"]["llmkit"]["quick"].as_object();
        quick.cloned().unwrap_or_default()
    }

    /// Forgets all outputs and makes the notebook valid nbformat 4.5: every cell has its own id.
    pub fn clear(&mut self) {
        self.json["nbformat_minor"] =
            json!(self.json["nbformat_minor"].as_u64().unwrap_or(0).max(5));
        if !self.json["metadata"].is_object() {
            self.json["metadata"] = json!({});
        }
        let mut seen = BTreeSet::new();
        for (at, cell) in self.cells_mut().iter_mut().enumerate() {
            let id = cell["id"].as_str().unwrap_or("").to_owned();
            if !is_id(&id) || !seen.insert(id) {
                let mut id = format!("cell-{}", at + 1);
                while !seen.insert(id.clone()) {
                    id.push('x');
                }
                cell["id"] = json!(id);
            }
            if !cell["metadata"].is_object() {
                cell["metadata"] = json!({});
            }
            if cell["cell_type"] == "code" {
                cell["outputs"] = json!([]);
                cell["execution_count"] = Value::Null;
            }
        }
    }

    /// Records what cell `index` gave, as the `count`-th that was executed.
    pub fn set_outputs(&mut self, index: usize, count: u64, mut outputs: Vec<Value>) {
        for output in &mut outputs {
            // Kernels that count what they were asked silently are out of step with the cells.
            if output["output_type"] == "execute_result" {
                output["execution_count"] = json!(count);
            }
        }
        if let Some(cell) = self.cells_mut().get_mut(index) {
            cell["execution_count"] = json!(count);
            cell["outputs"] = Value::Array(outputs);
        }
    }

    /// Records which kernel executed the notebook.
    pub fn set_kernel(&mut self, name: &str, display_name: &str, language_info: Value) {
        let language = &language_info["name"];
        self.json["metadata"]["kernelspec"] =
            json!({"name": name, "display_name": display_name, "language": language});
        self.json["metadata"]["language_info"] = language_info;
    }

    /// Writes the notebook to `path`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        let indent = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut writer = serde_json::Serializer::with_formatter(&mut bytes, indent);
        serde::Serialize::serialize(&self.json, &mut writer).context("serialize notebook")?;
        bytes.push(b'\n');
        write_atomically(path, &bytes)
    }

    fn cells(&self) -> &[Value] {
        self.json["cells"].as_array().map_or(&[], Vec::as_slice)
    }

    fn cells_mut(&mut self) -> &mut [Value] {
        (self.json["cells"].as_array_mut()).map_or(&mut [], Vec::as_mut_slice)
    }
}

/// nbformat's multi-line strings: a string, or a list of them to be joined.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(lines) => lines.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn is_id(id: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=64).contains(&id.len()) && id.chars().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<Notebook> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n.ipynb");
        std::fs::write(&path, content).unwrap();
        Notebook::read(&path)
    }

    #[test]
    fn sources_are_strings_or_lists_and_blank_cells_are_skipped() {
        let notebook = read(
            r##"{"nbformat": 4, "nbformat_minor": 2, "metadata": {}, "cells": [
            {"cell_type": "markdown", "metadata": {}, "source": ["# T\n", "x"]},
            {"cell_type": "code", "metadata": {"tags": ["raises-exception"]}, "source": ["\n", "let a = 1;\n", "a"], "outputs": [], "execution_count": 3},
            {"cell_type": "code", "metadata": {}, "source": " \n", "outputs": [], "execution_count": null},
            {"cell_type": "code", "metadata": {}, "source": "b", "outputs": [], "execution_count": null},
            {"cell_type": "code", "metadata": {}, "source": [], "outputs": [], "execution_count": null}
            ]}"##,
        )
        .unwrap();
        let cells = notebook.code_cells();
        assert_eq!(cells.len(), 2);
        assert_eq!(cells[0].source, "\nlet a = 1;\na");
        assert_eq!(cells[0].first_line(), "let a = 1;");
        assert!(cells[0].is_tagged("raises-exception"));
        assert_eq!((cells[1].index, cells[1].first_line()), (3, "b"));
    }

    #[test]
    fn clearing_gives_every_cell_one_valid_id_and_keeps_the_rest() {
        let mut notebook = read(
            r#"{"nbformat": 4, "nbformat_minor": 4, "x": 7, "metadata": {"llmkit": {"quick": {"n": 2}}, "mine": [1, null]},
            "cells": [
            {"cell_type": "code", "id": "same", "metadata": {"slow": true}, "source": "a", "outputs": [{"output_type": "stream"}], "execution_count": 9},
            {"cell_type": "code", "id": "same", "metadata": {}, "source": "b"},
            {"cell_type": "raw", "id": "no spaces allowed", "source": "c"},
            {"cell_type": "markdown", "source": "d", "attachments": {"a.png": {}}}
            ]}"#,
        )
        .unwrap();
        assert_eq!(notebook.quick()["n"], 2);
        notebook.clear();
        let result = json!({"output_type": "execute_result", "execution_count": 9});
        notebook.set_outputs(1, 2, vec![json!({"output_type": "stream"}), result]);
        let json = &notebook.json;
        assert_eq!(json["nbformat_minor"], 5);
        assert_eq!(json["x"], 7);
        assert_eq!(json["metadata"]["mine"], json!([1, null]));
        let ids: BTreeSet<&str> = (json["cells"].as_array().unwrap().iter())
            .map(|cell| cell["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids.len(), 4);
        assert!(ids.iter().all(|id| is_id(id)) && ids.contains("same"));
        assert_eq!(json["cells"][0]["outputs"], json!([]));
        assert_eq!(json["cells"][0]["metadata"]["slow"], true);
        assert_eq!(json["cells"][1]["execution_count"], 2);
        assert_eq!(json["cells"][1]["outputs"][1]["execution_count"], 2);
        assert!(json["cells"][3].get("outputs").is_none());
        assert_eq!(json["cells"][3]["attachments"], json!({"a.png": {}}));
    }

    #[test]
    fn what_is_no_notebook_is_refused_with_a_reason() {
        for (content, reason) in [
            ("", "not JSON"),
            ("{\"cells\": [", "not JSON"),
            ("[]", "nbformat"),
            ("{\"nbformat\": 3, \"worksheets\": []}", "got 3"),
            ("{\"nbformat\": 4}", "cells"),
            ("{\"nbformat\": 4, \"cells\": {}}", "cells"),
            ("{\"nbformat\": 4, \"cells\": [1]}", "cell 1"),
            (
                "{\"nbformat\": 4, \"cells\": [{\"cell_type\": \"code\", \"source\": [1]}]}",
                "cell 1",
            ),
        ] {
            let message = format!("{:#}", read(content).unwrap_err());
            assert!(message.contains(reason), "{content}: {message}");
        }
        assert!(Notebook::read(Path::new("/nonexistent/n.ipynb")).is_err());
    }

    #[test]
    fn an_empty_notebook_reads_and_writes() {
        let mut notebook = read("{\"nbformat\": 4, \"cells\": []}").unwrap();
        assert!(notebook.code_cells().is_empty());
        assert_eq!(notebook.language(), None);
        notebook.clear();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/out.ipynb");
        notebook.write(&path).unwrap();
        assert!(Notebook::read(&path).unwrap().code_cells().is_empty());
    }
}
