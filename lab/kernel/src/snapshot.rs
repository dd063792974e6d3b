//! The snapshot: everything a cell links to, built once and then never touched.
//!
//! ```text
//! <cache>/snapshot/<key>/
//!   deps/            hard links to the prelude's shared library and the metadata of what is inside it
//!   src/             copies of our own sources, for completion and types
//!   bin/             cargo and rustup as cells see them (see `shim`), and the kernel itself
//!   home/            a CARGO_HOME in which rust-analyzer finds the same cargo
//!   config/          evcxr.toml and prelude.rs, read by our kernel and the stock one alike
//!   metadata.json    the crate graph for rust-analyzer
//!   snapshot.json    written last: its presence means the rest is complete
//! ```
//!
//! The key covers the library's sources, the lock file and the compiler, so editing `llmkit/src` leaves running
//! kernels alone, and the next kernel start notices and builds anew.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::lay_out::build;
use crate::toolchain::Toolchain;
use crate::work::{self, session_file, sweep_dead_kernels};

/// Directory of the snapshot in use, in the environment of everything a kernel starts.
pub const SNAPSHOT_VAR: &str = "LLMKIT_SNAPSHOT";
/// The user's own `CARGO_HOME` (empty = unset), kept for the real cargo.
pub const HOME_VAR: &str = "LLMKIT_USER_CARGO_HOME";

/// Where the cell process finds its session.
pub const SESSION_VAR: &str = "LLMKIT_SESSION";

/// A complete snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where it is.
    #[serde(skip)]
    pub directory: PathBuf,
    /// The compiler that built it, not a rustup proxy.
    pub rustc: PathBuf,
    /// The cargo beside it.
    pub cargo: PathBuf,
    /// Target triple of the host.
    pub target: String,
    /// Where the compiler's own shared libraries are.
    pub target_libdir: PathBuf,
    /// Crate name → file in `deps/`.
    pub externs: BTreeMap<String, String>,
    /// The checkout it was built from.
    pub repo: PathBuf,
}

/// `llmkit-kernel snapshot`: prints the directory; `--check` exits 3 if it would have to be built.
pub fn command(repo: &Path, is_check: bool) -> Result<ExitCode> {
    let toolchain = Toolchain::of(repo)?;
    let directory = directory(repo, &toolchain)?;
    if is_check && !directory.join("snapshot.json").is_file() {
        return Ok(ExitCode::from(3));
    }
    let snapshot = ensure(repo)?;
    println!("{}", snapshot.directory.display());
    Ok(ExitCode::SUCCESS)
}

/// Root of everything the lab keeps for this user.
pub fn cache_root() -> Result<PathBuf> {
    match std::env::var_os("LLMKIT_CACHE").filter(|path| !path.is_empty()) {
        Some(path) => Ok(std::path::absolute(path)?),
        None => Ok(dirs::cache_dir()
            .context("no cache directory: set LLMKIT_CACHE")?
            .join("llmkit")),
    }
}

/// The snapshot that belongs to `repo` as it is now, and whether it is there already.
pub fn plan(repo: &Path) -> Result<(Snapshot, bool)> {
    let toolchain = Toolchain::of(repo)?;
    let directory = directory(repo, &toolchain)?;
    match Snapshot::open(&directory) {
        Ok(snapshot) => Ok((snapshot, true)),
        Err(_) => Ok((Snapshot::new(directory, &toolchain, repo), false)),
    }
}

/// The fresh snapshot of `repo`, built now if need be. Other processes wait for the one that builds.
pub fn ensure(repo: &Path) -> Result<Snapshot> {
    let toolchain = Toolchain::of(repo)?;
    let directory = directory(repo, &toolchain)?;
    if let Ok(snapshot) = Snapshot::open(&directory) {
        return Ok(snapshot);
    }
    let parent = directory
        .parent()
        .context("a snapshot has a parent directory")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let lock = fs::File::create(parent.join(".lock")).context("create the snapshot lock")?;
    lock.lock().context("wait for the snapshot lock")?;
    if let Ok(snapshot) = Snapshot::open(&directory) {
        return Ok(snapshot);
    }
    build(repo, &toolchain, &directory)
}

/// The directory `repo`'s present state belongs in.
pub fn directory(repo: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    hash.update(&toolchain.version);
    hash.update(repo.as_os_str().as_encoded_bytes());
    for name in [
        "Cargo.toml",
        "Cargo.lock",
        "llmkit/Cargo.toml",
        "lab/prelude/Cargo.toml",
        "lab/shared/Cargo.toml",
    ] {
        hash_file(&mut hash, &repo.join(name))?;
    }
    for name in ["llmkit/src", "lab/prelude/src"] {
        for file in rust_files(&repo.join(name))? {
            hash.update(file.as_os_str().as_encoded_bytes());
            hash_file(&mut hash, &file)?;
        }
    }
    // The kernel's own binary is part of a snapshot (its shims), so a new kernel makes a new one.
    let executable = std::env::current_exe()?;
    let modified = fs::metadata(&executable)?.modified()?;
    hash.update(format!(
        "{:?}",
        modified.duration_since(std::time::UNIX_EPOCH)?
    ));
    Ok(cache_root()?
        .join("snapshot")
        .join(hex(&hash.finalize()[..8])))
}

fn hash_file(hash: &mut Sha256, path: &Path) -> Result<()> {
    hash.update(fs::read(path).with_context(|| format!("read {}", path.display()))?);
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All `.rs` files under `directory`, in a fixed order.
pub fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in
            fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?
        {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What every cell starts from, in both kernels.
pub const PRELUDE: &str = "use llmkit_prelude::*;\n";

/// The cargo target directory all checkouts with this lock file and compiler share.
pub fn build_directory(repo: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    hash.update(&toolchain.version);
    hash_file(&mut hash, &repo.join("Cargo.lock"))?;
    Ok(cache_root()?.join("build").join(hex(&hash.finalize()[..8])))
}

/// Snapshots nobody uses are kept up to this many, for checkouts one goes back and forth between.
const KEPT: usize = 3;

/// Removes staging directories of builds that were killed, and old snapshots that no kernel uses. The caller holds
/// the lock, so nothing here is being built.
pub fn sweep(parent: &Path) {
    let mut unused = Vec::new();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let record = path.join("snapshot.json");
        if entry.file_name().to_string_lossy().starts_with(".staging-") {
            let _ = fs::remove_dir_all(path);
        } else if let Ok(file) = fs::File::open(&record)
            && let Ok(modified) = file.metadata().and_then(|metadata| metadata.modified())
        {
            unused.push((modified, path, file));
        }
    }
    unused.sort_by_key(|(modified, ..)| std::cmp::Reverse(*modified));
    for (_, path, file) in unused.into_iter().skip(KEPT) {
        // Kernels hold a shared lock on the record of what they use.
        if file.try_lock().is_ok() {
            // The record goes first: what is left of a deletion that is cut short is no snapshot.
            let _ = fs::remove_file(path.join("snapshot.json"));
            let _ = fs::remove_dir_all(path);
        }
    }
}

impl Snapshot {
    /// One that is still to be built.
    pub fn new(directory: PathBuf, toolchain: &Toolchain, repo: &Path) -> Snapshot {
        Snapshot {
            directory,
            rustc: toolchain.rustc.clone(),
            cargo: toolchain.cargo.clone(),
            target: toolchain.target.clone(),
            target_libdir: toolchain.target_libdir.clone(),
            externs: BTreeMap::new(),
            repo: repo.to_path_buf(),
        }
    }

    /// Opens a complete snapshot.
    pub fn open(directory: &Path) -> Result<Snapshot> {
        let path = directory.join("snapshot.json");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let snapshot: Snapshot =
            serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        Ok(Snapshot {
            directory: directory.to_path_buf(),
            ..snapshot
        })
    }

    /// The snapshot a shim was started in.
    pub fn from_environment() -> Result<Snapshot> {
        let directory =
            std::env::var_os(SNAPSHOT_VAR).with_context(|| format!("{SNAPSHOT_VAR} is not set"))?;
        Snapshot::open(Path::new(&directory))
    }

    /// Makes this process one that works in the snapshot: its tools and configuration in the environment, for evcxr
    /// and rust-analyzer, and a session file for the process that runs cells.
    ///
    /// A process cannot safely change its own environment, so it starts itself anew with the right one, under the
    /// same process id; the second time there is nothing left to change.
    pub fn enter(&self) -> Result<()> {
        let is_set = |name: &str, value: &Path| {
            std::env::var_os(name).is_some_and(|set| set == value.as_os_str())
        };
        if is_set(SNAPSHOT_VAR, &self.directory) && is_set(SESSION_VAR, &session_file()) {
            if let Ok(record) = fs::File::open(self.directory.join("snapshot.json")) {
                let _ = record.try_lock_shared();
                // Held as long as the process lives, so that the snapshot is not swept away under it.
                std::mem::forget(record);
            }
            sweep_dead_kernels();
            let directory = work::directory();
            return fs::create_dir_all(&directory)
                .with_context(|| format!("create {}", directory.display()));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        // An outer kernel's tools are in front if this one was started from a cell.
        let outer = usize::from(std::env::var_os(SNAPSHOT_VAR).is_some());
        let path = std::iter::once(self.directory.join("bin"))
            .chain(std::env::split_paths(&path).skip(outer));
        let home = std::env::var_os(HOME_VAR)
            .or_else(|| std::env::var_os("CARGO_HOME"))
            .unwrap_or_default();
        let error = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env("PATH", std::env::join_paths(path).context("PATH")?)
            .env(HOME_VAR, home)
            .env("CARGO_HOME", self.directory.join("home"))
            .env(SNAPSHOT_VAR, &self.directory)
            .env(SESSION_VAR, session_file())
            .env("EVCXR_TMPDIR", work::directory().join("crate"))
            .env("RUSTC", &self.rustc)
            .env("EVCXR_CONFIG_DIR", self.directory.join("config"))
            .exec();
        Err(error).context("start anew in the snapshot's environment")
    }

    /// The kernel binary of this snapshot, for the stock kernel's separate process.
    pub fn stock_binary(&self) -> PathBuf {
        self.directory.join("bin/llmkit-kernel")
    }

    /// What makes a crate link to the prebuilt library.
    pub fn link_arguments(&self) -> Vec<String> {
        let deps = self.directory.join("deps");
        let mut arguments = vec![
            "-Cprefer-dynamic".to_owned(),
            format!("-Ldependency={}", deps.display()),
            // The directories below come before LD_LIBRARY_PATH then, in which cargo names its target directory to what it runs: a
            // library of our name that lies there is of another build.
            "-Clink-arg=-Wl,--disable-new-dtags".to_owned(),
        ];
        for directory in [&deps, &self.target_libdir] {
            arguments.push(format!("-Clink-arg=-Wl,-rpath,{}", directory.display()));
        }
        for (name, file) in &self.externs {
            arguments.push(format!("--extern={name}={}", deps.join(file).display()));
        }
        arguments
    }
}
