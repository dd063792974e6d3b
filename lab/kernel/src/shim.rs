//! `cargo` and `rustup` as evcxr and rust-analyzer see them.
//!
//! evcxr asks cargo to build one tiny crate per cell. Everything that crate links to is already built (see
//! [`snapshot`](crate::snapshot)), so the only work left is one `rustc` call, and cargo's own share of a cell (a
//! workspace of 340 crates, resolved and fingerprinted each time) would be longer than the compilation. The shim
//! makes that call itself. Cells that add a crate of their own with `:dep` get the real cargo, slowly.
//!
//! rust-analyzer asks for the crate graph; it gets the part that types of variables are made of, from
//! [`metadata`](crate::metadata), instead of loading every crate there is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::snapshot::{HOME_VAR, SNAPSHOT_VAR, Snapshot};

/// Where evcxr wants to read the path of the library that was built.
const LIBRARY_PATH_VAR: &str = "EVCXR_EXECUTION_SO_PATH";

/// `cargo`, called by evcxr or rust-analyzer.
pub fn cargo(arguments: Vec<String>) -> ExitCode {
    let outcome = Snapshot::from_environment().and_then(|snapshot| {
        let verb = arguments
            .iter()
            .find(|argument| !argument.starts_with(['-', '+']));
        match verb.map(String::as_str) {
            Some(verb @ ("build" | "check")) if is_cell(Path::new(".")) => {
                if has_dependencies(Path::new("."))? {
                    build_with_dependencies(&snapshot, &arguments)
                } else {
                    compile(&snapshot, verb == "check")
                }
            }
            Some("metadata") => crate::metadata::answer(&snapshot, &arguments),
            Some("locate-project") => locate(&arguments),
            _ => Ok(real(&snapshot.cargo, &arguments)),
        }
    });
    report(outcome)
}

/// `rustup`, called by evcxr to find the tools and by rust-analyzer to find the standard library's sources.
pub fn rustup(arguments: Vec<String>) -> ExitCode {
    let outcome = Snapshot::from_environment().map(|snapshot| {
        match arguments
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .as_slice()
        {
            ["which", "cargo"] => println!("{}", snapshot.directory.join("bin/cargo").display()),
            ["which", "rustc"] => println!("{}", snapshot.rustc.display()),
            // Never let an editor tool change the user's toolchain behind their back (or wait for a network).
            ["component", "add", ..] => return ExitCode::FAILURE,
            _ => return real(Path::new("rustup"), &arguments),
        }
        ExitCode::SUCCESS
    });
    report(outcome)
}

fn report(outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Becomes the real tool, in the user's own environment.
fn real(tool: &Path, arguments: &[String]) -> ExitCode {
    let error = restored(tool).args(arguments).exec();
    eprintln!("error: cannot run {}: {error}", tool.display());
    ExitCode::FAILURE
}

/// `CARGO_HOME` as it was before [`Snapshot::enter`], which kept it, empty if it was not set. Where nothing was kept, nothing was changed.
fn restore_home(command: &mut Command, kept: Option<OsString>) {
    match kept {
        Some(home) if home.is_empty() => command.env_remove("CARGO_HOME"),
        Some(home) => command.env("CARGO_HOME", home),
        None => command,
    };
}

/// A command in the user's own environment: `PATH` and `CARGO_HOME` as they were before [`Snapshot::enter`].
pub fn restored(tool: &Path) -> Command {
    let mut command = Command::new(tool);
    if let (Some(path), Some(snapshot)) = (std::env::var_os("PATH"), std::env::var_os(SNAPSHOT_VAR))
    {
        let ours = PathBuf::from(snapshot).join("bin");
        let rest = std::env::split_paths(&path).filter(|directory| *directory != ours);
        if let Ok(path) = std::env::join_paths(rest) {
            command.env("PATH", path);
        }
    }
    restore_home(&mut command, std::env::var_os(HOME_VAR));
    // What an outer cargo (`cargo run`, `cargo test`) says of the package it runs is not the user's; build scripts
    // that watch these variables would otherwise rebuild their crates on every change of caller.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ]
        .iter()
        .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command
}

/// Whether `directory` holds the crate evcxr makes for a cell.
pub fn is_cell(directory: &Path) -> bool {
    manifest(directory).is_ok_and(|manifest| manifest.contains("name = \"ctx\""))
}

fn manifest(directory: &Path) -> Result<String> {
    let path = directory.join("Cargo.toml");
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Whether the cell's crate depends on crates the user added with `:dep`.
pub fn has_dependencies(directory: &Path) -> Result<bool> {
    let manifest = manifest(directory)?;
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
    Ok(dependencies.lines().any(|line| !line.trim().is_empty()))
}

/// Builds one cell with one `rustc` call.
fn compile(snapshot: &Snapshot, is_check: bool) -> Result<ExitCode> {
    let manifest = manifest(Path::new("."))?;
    let opt_level = manifest
        .lines()
        .find_map(|line| line.strip_prefix("opt-level = "))
        .context("the cell's Cargo.toml has no opt-level")?;
    let out = std::path::absolute(Path::new("target").join(&snapshot.target).join("debug"))?;
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let rustc = std::env::var_os("RUSTC").map_or_else(|| snapshot.rustc.clone(), PathBuf::from);
    let output = Command::new(rustc)
        .args([
            "--crate-name",
            "ctx",
            "--edition",
            "2024",
            "src/lib.rs",
            "--crate-type",
            "cdylib",
        ])
        .args([
            "--error-format",
            "json",
            "--json",
            "diagnostic-rendered-ansi",
        ])
        .args([
            "--emit",
            if is_check { "metadata" } else { "link" },
            "--out-dir",
        ])
        .arg(&out)
        .args([
            "-C",
            &format!("opt-level={opt_level}"),
            "-C",
            "debuginfo=line-tables-only",
        ])
        .args([
            "-C",
            "panic=unwind",
            "-C",
            "codegen-units=2",
            "-C",
            "overflow-checks=on",
        ])
        .args(snapshot.link_arguments())
        .stdin(Stdio::null())
        .output()
        .context("run rustc")?;
    // evcxr reads compiler messages from either stream, with or without cargo's envelope.
    std::io::stdout().write_all(&output.stderr)?;
    if !output.status.success() {
        return Ok(ExitCode::from(101));
    }
    if let (false, Some(path_file)) = (is_check, std::env::var_os(LIBRARY_PATH_VAR)) {
        let library = out.join("libctx.so");
        std::fs::write(path_file, library.to_string_lossy().as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds a cell that has crates of its own: the real cargo, with the prebuilt library added to what it links.
fn build_with_dependencies(snapshot: &Snapshot, arguments: &[String]) -> Result<ExitCode> {
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    for argument in snapshot.link_arguments() {
        flags.push(' ');
        flags.push_str(&argument);
    }
    let error = restored(&snapshot.cargo)
        .args(arguments)
        .env("RUSTFLAGS", flags)
        .exec();
    Err(error).context("run cargo")
}

/// `cargo locate-project`: the cell's crate is its own workspace.
fn locate(arguments: &[String]) -> Result<ExitCode> {
    let manifest = manifest_path(arguments)?;
    println!(
        "{}",
        serde_json::to_string(&BTreeMap::from([("root", manifest)]))?
    );
    Ok(ExitCode::SUCCESS)
}

/// The manifest a cargo command is about: `--manifest-path`, else the one in this directory.
pub fn manifest_path(arguments: &[String]) -> Result<PathBuf> {
    match arguments
        .iter()
        .position(|argument| argument == "--manifest-path")
    {
        Some(at) => Ok(PathBuf::from(
            arguments
                .get(at + 1)
                .context("--manifest-path has no value")?,
        )),
        None => Ok(std::path::absolute("Cargo.toml")?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cargo_home_of_the_user_s_own_stays_outside_a_snapshot_and_comes_back_inside() {
        let after = |kept: Option<&str>| {
            let mut command = Command::new("cargo");
            restore_home(&mut command, kept.map(OsString::from));
            let mut changes = command.get_envs();
            (changes.next()).map(|(name, value)| (name.to_owned(), value.map(OsString::from)))
        };
        let name = OsString::from("CARGO_HOME");
        assert_eq!(after(None), None);
        assert_eq!(after(Some("")), Some((name.clone(), None)));
        assert_eq!(after(Some("/own")), Some((name, Some("/own".into()))));
    }
}
