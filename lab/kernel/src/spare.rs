//! Warm spares: a kernel started ahead of time and handed over when Jupyter asks for one.
//!
//! The process Jupyter starts (and may kill) is then a thin [launcher](crate::launch). It passes its connection file and session to
//! the spare over a Unix socket and waits; each side ends when the other does.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::evaluate::Evaluator;
use crate::server;
use crate::session::{Handover, LAB_VAR, NO_SPARE_VAR, SESSION_VARS, fingerprint};
use crate::snapshot::{self, SESSION_VAR, Snapshot};
use crate::work;

/// How long an unused spare waits where no lab is running.
const IDLE: Duration = Duration::from_secs(120);

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
    handover.write()?;
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
pub fn spawn_next(snapshot: &Snapshot, repo: &Path) {
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

/// Sockets and session files of one snapshot's spares.
pub fn run_directory(snapshot: &Snapshot) -> Result<PathBuf> {
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
