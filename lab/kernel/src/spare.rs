//! Warm spares: a kernel started ahead of time and handed over when Jupyter asks for one.
//!
//! The process Jupyter starts (and may kill) is then a thin launcher. It passes its connection file and session to
//! the spare over a Unix socket and waits; each side ends when the other does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::evaluate::Evaluator;
use crate::server;
use crate::snapshot::{self, SESSION_VAR, Snapshot};
use crate::work::{self, session_file};

/// The lab's process; spares live as long as it does.
const LAB_VAR: &str = "LLMKIT_LAB_PID";
/// Set to leave no spare behind.
const NO_SPARE_VAR: &str = "LLMKIT_NO_SPARE";
/// Set to start from nothing even where a spare is warm.
const COLD_VAR: &str = "LLMKIT_COLD_START";
/// How long a launcher waits for a spare that is still warming; starting another beside it would slow both.
const WARMING: Duration = Duration::from_secs(30);

/// How long an unused spare waits where no lab is running.
const IDLE: Duration = Duration::from_secs(120);

/// What a launcher tells a spare.
#[derive(Serialize, Deserialize)]
struct Handover {
    connection_file: PathBuf,
    session: Value,
    directory: PathBuf,
}

/// Variables that belong to one session and travel in its [`Handover`].
const SESSION_VARS: &[&str] = &[
    "LLMKIT_PARAMS",
    "LLMKIT_NOTEBOOK",
    "LLMKIT_FIGURES",
    "LLMKIT_RESULTS",
];

/// `llmkit-kernel kernel`: through a spare if one is warm, else by itself.
pub fn launch(repo: &Path, connection_file: &Path) -> Result<ExitCode> {
    let handover = Handover {
        connection_file: connection_file.to_path_buf(),
        session: session()?,
        directory: std::env::current_dir()?,
    };
    let (snapshot, is_built) = snapshot::plan(repo)?;
    if is_built
        && let Some(stream) = find(&snapshot)
        && hand_over(&stream, &handover).is_ok()
    {
        // Wait for the kernel behind the spare to end; if this launcher is killed, it notices and ends.
        let _ = (&stream).read_to_end(&mut Vec::new());
        return Ok(ExitCode::SUCCESS);
    }
    snapshot.enter()?;
    become_kernel(snapshot, is_built, &handover, repo)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the snapshot in a child process, passing its progress on to the cell that waits for it.
fn build(repo: &Path, note: &dyn Fn(String)) -> Result<()> {
    note("the library changed (or is new here): building what cells link to …".to_owned());
    let mut child = Command::new(std::env::current_exe()?)
        .arg("snapshot")
        .arg("--repo")
        .arg(repo)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the build")?;
    let start = Instant::now();
    let mut last = String::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{line}");
            note(format!(
                "building, {:.0} s: {}",
                start.elapsed().as_secs_f64(),
                line.trim()
            ));
            if line.starts_with("error") || last.is_empty() {
                last = line;
            }
        }
    }
    if !child.wait()?.success() {
        anyhow::bail!(
            "the library does not compile: {last}\n`cargo lab setup` shows the whole message"
        );
    }
    Ok(())
}

fn become_kernel(
    snapshot: Snapshot,
    is_built: bool,
    handover: &Handover,
    repo: &Path,
) -> Result<()> {
    write_session(handover)?;
    let repo = repo.to_path_buf();
    let result = server::run(
        &handover.connection_file,
        Box::new(move |note| {
            if !is_built {
                build(&repo, note)?;
            }
            note("starting".to_owned());
            let mut evaluator = Evaluator::new()?;
            evaluator.warm_up();
            spawn_next(&snapshot, &repo);
            Ok(evaluator)
        }),
    );
    let _ = fs::remove_dir_all(work::directory());
    result
}

/// `llmkit-kernel spare`: starts a kernel ahead of time and waits to be asked for it.
pub fn serve(repo: &Path, detach: bool) -> Result<ExitCode> {
    let snapshot = snapshot::ensure(repo)?;
    if detach {
        spawn_next(&snapshot, repo);
        return Ok(ExitCode::SUCCESS);
    }
    snapshot.enter()?;
    let directory = run_directory(&snapshot)?;
    let name = fingerprint();
    let lock = fs::File::create(directory.join(format!("{name}.lock")))
        .context("create the spare's lock")?;
    if lock.try_lock().is_err() {
        // Another one is warming or warm.
        return Ok(ExitCode::SUCCESS);
    }
    sweep(&directory);
    std::env::set_current_dir(std::env::temp_dir())?;
    let mut evaluator = Evaluator::new()?;
    evaluator.warm_up();

    let socket = directory.join(format!("{name}-{}.sock", std::process::id()));
    let listener =
        UnixListener::bind(&socket).with_context(|| format!("open {}", socket.display()))?;
    let Some((stream, handover)) = wait(&listener, &snapshot)? else {
        let _ = fs::remove_file(&socket);
        return Ok(ExitCode::SUCCESS);
    };
    let _ = fs::remove_file(&socket);
    drop(listener);
    drop(lock);
    write_session(&handover)?;
    let _ = std::env::set_current_dir(&handover.directory);
    std::thread::spawn({
        let interrupter = evaluator.interrupter();
        let mut stream = stream.try_clone()?;
        move || {
            let _ = stream.read_to_end(&mut Vec::new());
            // The launcher is gone: Jupyter has ended this kernel.
            interrupter.kill();
            let _ = fs::remove_dir_all(work::directory());
            std::process::exit(0);
        }
    });
    let repo = repo.to_path_buf();
    let result = server::run(
        &handover.connection_file,
        Box::new(move |_| {
            spawn_next(&snapshot, &repo);
            Ok(evaluator)
        }),
    );
    let _ = fs::remove_dir_all(work::directory());
    result.map(|()| ExitCode::SUCCESS)
}

/// Waits for a launcher; `None` when there is no more reason to wait.
fn wait(listener: &UnixListener, snapshot: &Snapshot) -> Result<Option<(UnixStream, Handover)>> {
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(Duration::from_secs(2)))?;
                let mut line = String::new();
                if BufReader::new(&stream).read_line(&mut line).is_ok()
                    && let Ok(handover) = serde_json::from_str(&line)
                {
                    (&stream).write_all(b"ok\n")?;
                    stream.set_read_timeout(None)?;
                    return Ok(Some((stream, handover)));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error).context("wait for a launcher"),
        }
        let is_wanted = match std::env::var(LAB_VAR)
            .ok()
            .and_then(|pid| pid.parse::<u32>().ok())
        {
            Some(pid) => Path::new(&format!("/proc/{pid}")).exists(),
            None => start.elapsed() < IDLE,
        };
        if !is_wanted || !snapshot.directory.join("snapshot.json").exists() {
            return Ok(None);
        }
    }
}

/// Starts the next spare, apart from this process, so that the following kernel is quick too.
fn spawn_next(snapshot: &Snapshot, repo: &Path) {
    if std::env::var_os(NO_SPARE_VAR).is_some() {
        return;
    }
    let mut command = crate::shim::restored(&snapshot.stock_binary());
    for name in
        SESSION_VARS
            .iter()
            .chain([&SESSION_VAR, &snapshot::SNAPSHOT_VAR, &snapshot::HOME_VAR])
    {
        command.env_remove(name);
    }
    let spawned = command
        .arg("spare")
        .arg("--repo")
        .arg(repo)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    match spawned {
        // Reap it whenever it ends, so that no zombie stays.
        Ok(mut child) => drop(std::thread::spawn(move || child.wait())),
        Err(error) => eprintln!("llmkit-kernel: no spare: {error}"),
    }
}

/// Connects to a spare of this snapshot and environment, waiting for one that is still warming.
fn find(snapshot: &Snapshot) -> Option<UnixStream> {
    if std::env::var_os(COLD_VAR).is_some() {
        return None;
    }
    let name = fingerprint();
    let directory = run_directory(snapshot).ok()?;
    let start = Instant::now();
    loop {
        if let Some(stream) = connect(&directory, &format!("{name}-")) {
            return Some(stream);
        }
        // A spare holds its lock from its start until it is taken.
        let lock = fs::File::open(directory.join(format!("{name}.lock"))).ok()?;
        if lock.try_lock_shared().is_ok() || start.elapsed() > WARMING {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Connects to the first socket in `directory` that answers.
fn connect(directory: &Path, prefix: &str) -> Option<UnixStream> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) && name.ends_with(".sock") {
            match UnixStream::connect(entry.path()) {
                Ok(stream) => return Some(stream),
                // Left by one that was killed.
                Err(_) => drop(fs::remove_file(entry.path())),
            }
        }
    }
    None
}

fn hand_over(stream: &UnixStream, handover: &Handover) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut line = serde_json::to_string(handover)?;
    line.push('\n');
    let mut writer = stream;
    writer.write_all(line.as_bytes())?;
    let mut answer = [0; 3];
    let mut reader = stream;
    reader.read_exact(&mut answer)?;
    stream.set_read_timeout(None)?;
    Ok(())
}

/// Sockets and session files of one snapshot's spares.
fn run_directory(snapshot: &Snapshot) -> Result<PathBuf> {
    let key = snapshot
        .directory
        .file_name()
        .context("a snapshot has a name")?;
    // Socket paths are short by law (108 bytes), so they live in the runtime directory, not under a long cache path.
    let base = dirs::runtime_dir().unwrap_or_else(std::env::temp_dir);
    let user = fs::metadata("/proc/self")
        .map(|meta| std::os::unix::fs::MetadataExt::uid(&meta))
        .unwrap_or(0);
    let directory = base.join(format!("llmkit-{user}")).join(key);
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    fs::set_permissions(
        &directory,
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )?;
    Ok(directory)
}

/// Removes what killed spares left: sockets nobody answers on and session files of dead processes.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .rsplit_once('-')
            .and_then(|(_, rest)| rest.split('.').next())
            .map(str::to_owned);
        let is_dead = pid.is_some_and(|pid| {
            pid.parse::<u32>().is_ok() && !Path::new("/proc").join(&pid).exists()
        });
        if is_dead {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A short name for what of the environment a cell can see; spares serve only launchers that share it.
fn fingerprint() -> String {
    let mut hash = Sha256::new();
    // Set by shells, front ends and outer cargos, differently for each caller; no cell depends on them.
    let ignored = |name: &str| {
        SESSION_VARS.contains(&name)
            || [
                "JPY_", "JUPYTER", "CARGO", "RUST_", "RUSTUP_", "PYDEVD_", "CLICOLOR",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            || [
                "_",
                "PWD",
                "OLDPWD",
                "SHLVL",
                "PATH",
                "VIRTUAL_ENV",
                "TERM",
                "COLUMNS",
                "LINES",
                "FORCE_COLOR",
                "PAGER",
                "GIT_PAGER",
                "MPLBACKEND",
                "LD_LIBRARY_PATH",
                "RUSTC",
                "EVCXR_CONFIG_DIR",
                "EVCXR_TMPDIR",
                SESSION_VAR,
                LAB_VAR,
                NO_SPARE_VAR,
                COLD_VAR,
                snapshot::SNAPSHOT_VAR,
                snapshot::HOME_VAR,
            ]
            .contains(&name)
    };
    let variables: BTreeMap<OsString, OsString> = std::env::vars_os()
        .filter(|(name, _)| !ignored(&name.to_string_lossy()))
        .collect();
    for (name, value) in &variables {
        hash.update(name.as_encoded_bytes());
        hash.update([0]);
        hash.update(value.as_encoded_bytes());
        hash.update([0]);
    }
    hash.finalize()[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The session as the environment describes it.
fn session() -> Result<Value> {
    let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let params: Value = match text("LLMKIT_PARAMS") {
        Some(json) => serde_json::from_str(&json).context("LLMKIT_PARAMS is not JSON")?,
        None => json!({}),
    };
    Ok(json!({
        "notebook": text("LLMKIT_NOTEBOOK").or_else(|| text("JPY_SESSION_NAME")),
        "params": params,
        "directory": std::env::current_dir()?,
        "figures": text("LLMKIT_FIGURES"),
        "results": text("LLMKIT_RESULTS"),
    }))
}

fn write_session(handover: &Handover) -> Result<()> {
    let path = session_file();
    fs::write(&path, handover.session.to_string())
        .with_context(|| format!("write {}", path.display()))
}
