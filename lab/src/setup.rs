//! `cargo lab setup`: what is missing is made, in order, each part on its own; killed half-way, the next call goes on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::place::Place;
use crate::seed::seed;
use crate::venv::Venv;
use crate::{cargo, kernelspec};

/// Core-minutes of compiling from nothing: the kernel with its evaluator, and what notebooks link to.
const KERNEL_COST: f64 = 12.0;
const SNAPSHOT_COST: f64 = 20.0;

/// Makes everything that notebooks need.
///
/// # Errors
/// If a part cannot be made; the message says what to do.
pub fn setup(place: &Place) -> Result<()> {
    place.open_cache()?;
    announce(place);
    let venv = Venv::find(place)?;
    if cargo::is_offline() {
        // What cannot be fetched is said now, not after minutes of compiling.
        venv.ensure(place)?;
    }
    rust_src(place);
    std::thread::scope(|scope| {
        // Mostly waiting for the network, so beside compiling.
        let python = scope.spawn(|| venv.ensure(place));
        kernel(place)?;
        snapshot(place)?;
        match python.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Makes what running cells needs: the kernel, what cells link to, and the kernelspecs.
///
/// # Errors
/// If a part cannot be made.
pub fn setup_kernel(place: &Place) -> Result<()> {
    place.open_cache()?;
    announce(place);
    rust_src(place);
    kernel(place)?;
    snapshot(place)
}

/// Says beforehand what will be made and about how long that takes.
fn announce(place: &Place) {
    let has_compiled = |name: &str| {
        let deps = place.build_dir().join("debug/deps");
        (std::fs::read_dir(deps).into_iter().flatten().flatten())
            .any(|entry| entry.file_name().to_string_lossy().starts_with(name))
    };
    let mut missing = Vec::new();
    let mut core_minutes = 0.0;
    if !has_compiled("libevcxr-") {
        missing.push("the kernel");
        core_minutes += KERNEL_COST;
    }
    if !has_compiled("libllmkit_prelude") {
        missing.push("the library that notebook cells link to");
        core_minutes += SNAPSHOT_COST;
    }
    if Venv::find(place).is_ok_and(|venv| !venv.is_ready()) {
        missing.push("JupyterLab");
    }
    if missing.is_empty() {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    eprintln!(
        "First use: setting up {}, in {}.\nAbout {:.0} min on {cores} cores, once; you can stop and go on later.",
        missing.join(", "),
        place.cache.display(),
        (core_minutes / cores as f64 + 1.0).ceil()
    );
}

/// The standard library's sources, by which the kernel knows the types of `let`.
fn rust_src(place: &Place) {
    if has_rust_src(place) {
        return;
    }
    eprintln!("rust-src: rustup component add rust-src");
    let added = Command::new("rustup")
        .args(["component", "add", "rust-src"])
        .current_dir(&place.root)
        .status();
    if !added.is_ok_and(|status| status.success()) {
        eprintln!(
            "rust-src could not be added; notebooks work, but a `let` of a standard type must have its type written out"
        );
    }
}

/// Whether the compiler's library sources are there.
pub fn has_rust_src(place: &Place) -> bool {
    let out = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--print", "sysroot"])
        .current_dir(&place.root)
        .output();
    out.is_ok_and(|out| {
        let sysroot = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        Path::new(&sysroot)
            .join("lib/rustlib/src/rust/library")
            .is_dir()
    })
}

/// Builds the kernel and puts a copy where Jupyter starts it.
fn kernel(place: &Place) -> Result<()> {
    let _lock = place.lock(&format!("build-{}", place.build_key))?;
    if let Err(error) = seed(place) {
        // Then it is compiled again.
        eprintln!("{error:#}");
    }
    let built = cargo::build(place, "llmkit-kernel")?;
    let built = (built.into_iter())
        .find(|path| path.file_stem().is_some_and(|stem| stem == "llmkit-kernel"))
        .context("cargo built no llmkit-kernel binary; is lab/kernel complete?")?;
    if !is_same_file(&built, &place.kernel()) {
        copy_binary(&built, &place.kernel())?;
    }
    if !kernelspec::is_installed(place) {
        kernelspec::install(place)?;
    }
    Ok(())
}

/// Same size and same time of change: good enough for a copy that carries its source's time.
fn is_same_file(built: &Path, copy: &Path) -> bool {
    let stat = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    };
    stat(built).is_some() && stat(built) == stat(copy)
}

/// Copies a program so that one that runs is never written to: a running kernel keeps the file it was started from.
fn copy_binary(from: &Path, to: &Path) -> Result<()> {
    let dir = to.parent().context("the kernel's folder")?;
    let copy = || -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let file = tempfile::NamedTempFile::new_in(dir)?;
        std::fs::copy(from, file.path())?;
        (file.as_file()).set_times(
            std::fs::FileTimes::new().set_modified(std::fs::metadata(from)?.modified()?),
        )?;
        // An open writable handle would make starting it fail with "text file busy".
        file.into_temp_path().persist(to)?;
        Ok(())
    };
    copy().with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// Names the lab's process to kernels: warm spares live as long as it does.
pub const LAB_PID: &str = "LLMKIT_LAB_PID";

/// A command of the kernel binary, told where the cache is and whose it is.
pub fn kernel_command(place: &Place, subcommand: &str) -> Command {
    let mut command = Command::new(place.kernel());
    command
        .arg(subcommand)
        .arg("--repo")
        .arg(&place.root)
        .current_dir(&place.root)
        .env("LLMKIT_CACHE", &place.cache)
        .env(LAB_PID, std::process::id().to_string());
    command
}

/// Makes what cells link to; the kernel says how far it is.
fn snapshot(place: &Place) -> Result<()> {
    let status = kernel_command(place, "snapshot")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("start {}", place.kernel().display()))?;
    if !status.success() {
        bail!(
            "the library that cells link to could not be built ({status}); see the messages above, mend, then `cargo lab setup`"
        );
    }
    Ok(())
}

/// What is known of the snapshot: its folder, and whether it is up to date.
///
/// # Errors
/// If the kernel does not answer.
pub fn snapshot_state(place: &Place) -> Result<(PathBuf, bool)> {
    let out = kernel_command(place, "snapshot")
        .arg("--check")
        .output()
        .with_context(|| format!("start {}", place.kernel().display()))?;
    let is_fresh = match out.status.code() {
        Some(0) => true,
        Some(3) => false,
        _ => bail!(
            "{} ({})",
            String::from_utf8_lossy(&out.stderr).trim(),
            out.status
        ),
    };
    let dir = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    Ok((dir.into(), is_fresh))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_program_runs_and_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("bin/b"));
        std::fs::write(&from, "#!/bin/sh\nexit 7\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&from, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(!is_same_file(&from, &to));
        copy_binary(&from, &to).unwrap();
        assert!(is_same_file(&from, &to));
        assert_eq!(Command::new(&to).status().unwrap().code(), Some(7));
        std::fs::write(&from, "#!/bin/sh\nexit 17\n").unwrap();
        assert!(!is_same_file(&from, &to));
    }
}
