//! The crate graph rust-analyzer sees.
//!
//! rust-analyzer infers the type of every `let`, and for that it reads the sources of the crates that types come
//! from. Given the true graph it reads some 340 crates before the first cell; almost none of them ever appears in a
//! notebook. We give it the few that do, with their edges.

use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::snapshot::Snapshot;

/// Crates whose types and methods appear in cells. Others are opaque to completion, never to compilation.
const SEEN: &[&str] = &[
    "llmkit",
    "llmkit-prelude",
    "candle-core",
    "half",
    "polars",
    "polars-arrow",
    "polars-core",
    "polars-error",
    "polars-lazy",
    "polars-ops",
    "polars-plan",
    "polars-utils",
    "safetensors",
    "serde_json",
    "tokenizers",
];

/// Builds the reduced graph of `repo`, as `cargo metadata` would print it for the prelude alone.
pub fn graph(snapshot: &Snapshot, repo: &Path) -> Result<String> {
    let output = crate::shim::restored(&snapshot.cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            &snapshot.target,
        ])
        .current_dir(repo)
        .stdin(Stdio::null())
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let mut graph: Value =
        serde_json::from_slice(&output.stdout).context("parse cargo metadata")?;
    let mut kept = Vec::new();
    if let Some(packages) = graph["packages"].as_array_mut() {
        packages.retain(|package| SEEN.iter().any(|name| package["name"] == *name));
        for package in packages {
            kept.push(package["id"].clone());
            redirect(package, repo, &snapshot.directory.join("src"))?;
            // rust-analyzer looks at libraries only; tests and examples would be read for nothing.
            if let Some(targets) = package["targets"].as_array_mut() {
                targets.retain(|target| {
                    target["kind"].as_array().is_some_and(|kinds| {
                        kinds
                            .iter()
                            .any(|kind| matches!(kind.as_str(), Some("lib" | "rlib" | "dylib")))
                    })
                });
            }
        }
    }
    let nodes = graph["resolve"]["nodes"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let nodes: Vec<Value> = nodes
        .into_iter()
        .filter(|node| kept.contains(&node["id"]))
        .map(|mut node| {
            if let Some(deps) = node["deps"].as_array_mut() {
                deps.retain(|dep| kept.contains(&dep["pkg"]));
            }
            if let Some(dependencies) = node["dependencies"].as_array_mut() {
                dependencies.retain(|id| kept.contains(id));
            }
            node
        })
        .collect();
    Ok(serde_json::to_string(
        &json!({ "packages": graph["packages"], "nodes": nodes }),
    )?)
}

/// Points a workspace package at the snapshot's copy of its sources.
fn redirect(package: &mut Value, repo: &Path, copies: &Path) -> Result<()> {
    let move_path = |value: &mut Value| {
        if let Some(inside) = value
            .as_str()
            .and_then(|path| Path::new(path).strip_prefix(repo).ok())
        {
            *value = json!(copies.join(inside));
        }
    };
    move_path(&mut package["manifest_path"]);
    for target in package["targets"]
        .as_array_mut()
        .context("a package has targets")?
    {
        move_path(&mut target["src_path"]);
    }
    Ok(())
}

/// `cargo metadata` for a cell's crate: itself, its own dependencies if it has any, and the reduced graph.
pub fn answer(snapshot: &Snapshot, arguments: &[String]) -> Result<ExitCode> {
    let manifest = crate::shim::manifest_path(arguments)?;
    let directory = manifest.parent().context("a manifest has a directory")?;
    let is_cell = crate::shim::is_cell(directory);
    let mut metadata = if is_cell && !crate::shim::has_dependencies(directory)? {
        cell_alone(directory)
    } else {
        let output = crate::shim::restored(&snapshot.cargo)
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .context("run cargo metadata")?;
        if !output.status.success() {
            return Ok(ExitCode::from(101));
        }
        serde_json::from_slice(&output.stdout).context("parse cargo metadata")?
    };
    if is_cell && metadata["resolve"].is_object() {
        add_graph(&mut metadata, snapshot)?;
    }
    println!("{metadata}");
    Ok(ExitCode::SUCCESS)
}

/// What cargo would say of a cell's crate without dependencies.
fn cell_alone(directory: &Path) -> Value {
    let id = format!("path+file://{}#ctx@1.0.0", directory.display());
    let target = json!({
        "kind": ["cdylib"], "crate_types": ["cdylib"], "name": "ctx", "src_path": directory.join("src/lib.rs"),
        "edition": "2024", "doc": true, "doctest": false, "test": true,
    });
    let package = json!({
        "name": "ctx", "version": "1.0.0", "id": id, "license": null, "license_file": null, "description": null,
        "source": null, "dependencies": [], "targets": [target], "features": {},
        "manifest_path": directory.join("Cargo.toml"), "metadata": null, "publish": null, "authors": [],
        "categories": [], "keywords": [], "readme": null, "repository": null, "homepage": null,
        "documentation": null, "edition": "2024", "links": null, "default_run": null, "rust_version": null,
    });
    json!({
        "packages": [package], "workspace_members": [id], "workspace_default_members": [id],
        "resolve": { "nodes": [{ "id": id, "dependencies": [], "deps": [], "features": [] }], "root": id },
        "target_directory": directory.join("target"), "build_directory": directory.join("target"),
        "version": 1, "workspace_root": directory, "metadata": null,
    })
}

/// Adds the reduced graph and the edges from the cell to the crates it can name.
fn add_graph(metadata: &mut Value, snapshot: &Snapshot) -> Result<()> {
    let path = snapshot.directory.join("metadata.json");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let graph: Value =
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
    let root = metadata["workspace_members"][0].clone();
    let known: Vec<Value> = packages(metadata)
        .map(|package| package["id"].clone())
        .collect();
    let mut edges = Vec::new();
    for package in packages(&graph) {
        let name = package["name"]
            .as_str()
            .unwrap_or_default()
            .replace('-', "_");
        if snapshot.externs.contains_key(&name) {
            edges.push(json!({
                "name": name, "pkg": package["id"], "dep_kinds": [{ "kind": null, "target": null }],
            }));
        }
    }
    extend(&mut metadata["packages"], &graph["packages"], &known);
    extend(&mut metadata["resolve"]["nodes"], &graph["nodes"], &known);
    for node in metadata["resolve"]["nodes"]
        .as_array_mut()
        .context("metadata has nodes")?
    {
        if node["id"] == root {
            for edge in &edges {
                node["deps"]
                    .as_array_mut()
                    .context("a node has deps")?
                    .push(edge.clone());
                node["dependencies"]
                    .as_array_mut()
                    .context("a node has dependencies")?
                    .push(edge["pkg"].clone());
            }
        }
    }
    Ok(())
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn extend(to: &mut Value, from: &Value, known: &[Value]) {
    if let (Some(to), Some(from)) = (to.as_array_mut(), from.as_array()) {
        to.extend(
            from.iter()
                .filter(|item| !known.contains(&item["id"]))
                .cloned(),
        );
    }
}
