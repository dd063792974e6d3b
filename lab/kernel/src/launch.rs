//! What Jupyter starts: a thin launcher before a warm spare, or the kernel itself where there is none.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::evaluate::Evaluator;
use crate::server;
use crate::session::{COLD_VAR, Handover, fingerprint};
use crate::snapshot::{self, Snapshot};
use crate::spare::{run_directory, spawn_next};
use crate::work;

/// How long a launcher waits for a spare that is still warming; starting another beside it would slow both.
const WARMING: Duration = Duration::from_secs(30);

/// `llmkit-kernel kernel`: through a spare if one is warm, else by itself.
pub fn launch(repo: &Path, connection_file: &Path) -> Result<ExitCode> {
    let handover = Handover::of(connection_file)?;
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
    handover.write()?;
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
