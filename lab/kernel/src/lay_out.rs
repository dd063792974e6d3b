//! Builds a snapshot: compiles the prelude, and lays everything out.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::snapshot::{PRELUDE, Snapshot, build_directory, rust_files, sweep};
use crate::toolchain::Toolchain;

/// Crates a cell can name without `:dep`, besides `llmkit_prelude`.
const EXTERNS: &[&str] = &[
    "llmkit",
    "candle_core",
    "half",
    "plotters",
    "polars",
    "rayon",
    "safetensors",
    "serde",
    "serde_json",
    "tokenizers",
];

/// Builds the prelude and lays the snapshot out beside its final place, then renames it there.
pub fn build(repo: &Path, toolchain: &Toolchain, directory: &Path) -> Result<Snapshot> {
    let parent = directory
        .parent()
        .context("a snapshot has a parent directory")?;
    eprintln!("llmkit: the library changed (or is new here); building what cells link to …");
    let artifacts = build_prelude(repo, toolchain)?;
    sweep(parent);
    let staging = tempfile::Builder::new()
        .prefix(".staging-")
        .tempdir_in(parent)?;
    let root = staging.path();
    let deps = root.join("deps");
    fs::create_dir(&deps)?;
    let mut externs = BTreeMap::new();
    for artifact in &artifacts {
        for file in &artifact.files {
            let name = file.file_name().context("an artifact has a file name")?;
            link(file, &deps.join(name))?;
            let is_library = if artifact.name == "llmkit_prelude" {
                "so"
            } else {
                "rlib"
            };
            let wanted =
                artifact.name == "llmkit_prelude" || EXTERNS.contains(&artifact.name.as_str());
            if wanted
                && file
                    .extension()
                    .is_some_and(|extension| extension == is_library)
            {
                externs.insert(artifact.name.clone(), name.to_string_lossy().into_owned());
            }
        }
    }
    for name in EXTERNS.iter().chain(["llmkit_prelude"].iter()) {
        if !externs.contains_key(*name) {
            bail!("cargo built no library for crate {name}");
        }
    }
    for name in ["llmkit", "lab/prelude"] {
        for file in rust_files(&repo.join(name).join("src"))? {
            let to = root.join("src").join(file.strip_prefix(repo)?);
            fs::create_dir_all(to.parent().context("a source file has a directory")?)?;
            fs::copy(&file, to)?;
        }
        fs::copy(
            repo.join(name).join("Cargo.toml"),
            root.join("src").join(name).join("Cargo.toml"),
        )?;
    }
    let executable = std::env::current_exe()?;
    for directory in ["bin", "home/bin", "config"] {
        fs::create_dir_all(root.join(directory))?;
    }
    link(&executable, &root.join("bin/llmkit-kernel"))?;
    for name in ["bin/cargo", "bin/rustup"] {
        std::os::unix::fs::symlink("llmkit-kernel", root.join(name))?;
    }
    for name in ["home/bin/cargo", "home/bin/rustup"] {
        std::os::unix::fs::symlink("../../bin/llmkit-kernel", root.join(name))?;
    }
    fs::write(root.join("config/evcxr.toml"), CONFIG)?;
    fs::write(root.join("config/prelude.rs"), PRELUDE)?;
    let snapshot = Snapshot {
        externs,
        ..Snapshot::new(directory.to_path_buf(), toolchain, repo)
    };
    fs::write(
        root.join("metadata.json"),
        crate::metadata::graph(&snapshot, repo)?,
    )?;
    fs::write(
        root.join("snapshot.json"),
        serde_json::to_string_pretty(&snapshot)?,
    )?;
    if directory.exists() {
        // Left by a deletion that was cut short; it has no snapshot.json.
        fs::remove_dir_all(directory)?;
    }
    fs::rename(staging.keep(), directory)
        .with_context(|| format!("create {}", directory.display()))?;
    Ok(snapshot)
}

/// Cells are thin: what takes time is in the library, at full speed. Unoptimised they compile in half the time;
/// `:opt 2` is there for a cell with a loop of its own.
const CONFIG: &str = "[evcxr]\nopt_level = \"0\"\noffline_mode = false\n";

/// One built crate.
struct Artifact {
    name: String,
    files: Vec<PathBuf>,
}

/// Builds the prelude's shared library in the shared target directory; answers with the files of all it is made of.
fn build_prelude(repo: &Path, toolchain: &Toolchain) -> Result<Vec<Artifact>> {
    let mut command = crate::shim::restored(&toolchain.cargo);
    command
        .args(["rustc", "--package", "llmkit-prelude", "--lib", "--locked"])
        .args(["--message-format", "json-render-diagnostics"])
        // Notebooks run at full speed; tests of the same library keep their checks.
        .args([
            "--config",
            "profile.dev.package.llmkit.debug-assertions=false",
        ])
        .args([
            "--config",
            "profile.dev.package.llmkit.overflow-checks=false",
        ]);
    if std::env::var_os("CARGO_TARGET_DIR").is_none() {
        command
            .arg("--target-dir")
            .arg(build_directory(repo, toolchain)?);
    }
    let mut child = command
        .args(["--", "-Cprefer-dynamic"])
        .arg(format!(
            "-Clink-arg=-Wl,-rpath,{}",
            toolchain.target_libdir.display()
        ))
        .env("RUSTC", &toolchain.rustc)
        .current_dir(repo)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo")?;
    let mut artifacts = Vec::new();
    let stdout = child.stdout.take().context("cargo's output")?;
    for line in BufReader::new(stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?).unwrap_or_default();
        let kinds = message["target"]["kind"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let is_linked = kinds
            .iter()
            .any(|kind| matches!(kind.as_str(), Some("lib" | "rlib" | "dylib" | "proc-macro")));
        if message["reason"] != "compiler-artifact" || !is_linked {
            continue;
        }
        let files = message["filenames"].as_array().cloned().unwrap_or_default();
        artifacts.push(Artifact {
            name: message["target"]["name"]
                .as_str()
                .unwrap_or_default()
                .replace('-', "_"),
            files: files
                .iter()
                .filter_map(|file| file.as_str())
                .map(PathBuf::from)
                .collect(),
        });
    }
    if !child.wait()?.success() {
        bail!("the library does not compile; see the messages above");
    }
    Ok(artifacts)
}

/// A hard link, or a copy where the file systems differ.
fn link(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}
