//! `cargo lab setup`: what is missing is made, in order, each part on its own; killed half-way, the next call goes on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::place::Place;
use crate::seed::seed;
use crate::venv::Venv;
use crate::{cargo, kernelspec};

/// Compiling from nothing the kernel with its evaluator, and what notebooks link to: how many times as long as `cargo lab` itself.
const KERNEL_COST: f64 = 3.0;
const SNAPSHOT_COST: f64 = 5.5;
/// Core-seconds of compiling `cargo lab`, where its own times say nothing.
const LAB_COST: f64 = 200.0;

/// Makes everything that notebooks need.
///
/// # Errors
/// If a part cannot be made; the message says what to do.
pub fn setup(place: &Place) -> Result<()> {
    place.open_cache()?;
    let venv = Venv::find(place)?;
    if cargo::is_offline() {
        // What cannot be fetched is said now, not after minutes of compiling, nor after a promise of how many.
        venv.ensure(place)?;
    }
    announce(place);
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
    let mut cost = 0.0;
    if !has_compiled("libevcxr-") {
        missing.push("the kernel");
        cost += KERNEL_COST;
    }
    if !has_compiled("libllmkit_prelude") {
        missing.push("the library that notebook cells link to");
        cost += SNAPSHOT_COST;
    }
    if Venv::find(place).is_ok_and(|venv| !venv.is_ready()) {
        missing.push("JupyterLab");
    }
    if missing.is_empty() {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let lab = lab_seconds().unwrap_or(LAB_COST / cores as f64);
    eprintln!(
        "First use: setting up {}, in {}.\nAbout {:.0} min on {cores} cores, once; you can stop and go on later.",
        missing.join(", "),
        place.cache.display(),
        (cost * lab / 60.0 + 0.5).ceil()
    );
}

/// How long compiling this program took, which says how fast the machine is.
fn lab_seconds() -> Option<f64> {
    let program = std::env::current_exe().ok()?;
    // cargo touches a file whenever it starts a unit.
    let units = program.parent()?.join(".fingerprint").read_dir().ok()?;
    let starts = units.flatten().filter_map(|unit| {
        let stamp = unit.path().join("invoked.timestamp").metadata().ok()?;
        stamp.modified().ok()
    });
    last_run(starts.collect()).map(|run| run.as_secs_f64())
}

/// The length of the last build among these starts of units; nothing if it was not of everything.
fn last_run(mut starts: Vec<SystemTime>) -> Option<Duration> {
    const PAUSE: Duration = Duration::from_secs(120);
    const EVERYTHING: usize = 100;
    starts.sort_unstable_by(|a, b| b.cmp(a));
    let gap = |pair: &[SystemTime]| pair[0].duration_since(pair[1]).unwrap_or_default();
    let gaps = (starts.windows(2).map(gap)).take_while(|gap| *gap < PAUSE);
    let (count, run) = gaps.fold((1, Duration::ZERO), |(count, sum), gap| {
        (count + 1, sum + gap)
    });
    (count >= EVERYTHING).then_some(run)
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

/// Makes cargo build the library as the snapshot has it (see the kernel's `lay_out`), so that it is there already.
pub const AS_CELLS_LINK_IT: [&str; 4] = [
    "--config",
    "profile.dev.package.llmkit.debug-assertions=false",
    "--config",
    "profile.dev.package.llmkit.overflow-checks=false",
];

/// Builds the kernel and the library, and puts a copy of the kernel where Jupyter starts it.
fn kernel(place: &Place) -> Result<()> {
    let _lock = place.lock(&format!("build-{}", place.build_key))?;
    if let Err(error) = seed(place) {
        // Then it is compiled again.
        eprintln!("{error:#}");
    }
    // Together, no processor waits for the last crates of one before the other begins; the snapshot has then only to link.
    let args = [&AS_CELLS_LINK_IT[..], &["--features", "llmkit/notebook"]].concat();
    let built = cargo::build(place, &["llmkit-kernel", "llmkit"], &args)?;
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
    fn the_last_whole_build_tells_how_fast_the_machine_is() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let build = |from: u64, units: u64| {
            (0..units).map(move |unit| start + Duration::from_millis(1000 * from + 700 * unit))
        };
        let seconds = |starts: Vec<SystemTime>| last_run(starts).map(|run| run.as_secs_f64());
        assert_eq!(seconds(build(0, 120).collect()), Some(119.0 * 0.7));
        // What was built before a pause does not count, and a part says nothing.
        let twice = build(3600, 120).chain(build(0, 120));
        assert_eq!(seconds(twice.collect()), Some(119.0 * 0.7));
        assert_eq!(seconds(build(3600, 5).chain(build(0, 120)).collect()), None);
        assert_eq!(seconds(Vec::new()), None);
    }

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
