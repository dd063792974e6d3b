//! A kernel's processes: started as one group, ended as one group, whatever happens to us.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};

/// Where and how a kernel is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its working directory.
    pub directory: PathBuf,
    /// Variables added to the environment.
    pub env: Vec<(String, String)>,
    /// File that its own stdout and stderr go to.
    pub log: PathBuf,
}

/// A process that leads a group; dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Option<Pid>,
    log: PathBuf,
}

impl Process {
    /// Starts `argv`.
    ///
    /// # Errors
    /// If the program does not start or the log cannot be written.
    pub fn start(argv: &[String], launch: &Launch) -> Result<Process> {
        let (program, args) = argv.split_first().context("the kernel's argv is empty")?;
        let log = File::create(&launch.log)
            .with_context(|| format!("create {}", launch.log.display()))?;
        let child = Command::new(program)
            .args(args)
            .current_dir(&launch.directory)
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            // Kernels watch this process and end with it, even if it is killed.
            .env("JPY_PARENT_PID", std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("duplicate a file handle")?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start the kernel {program}; try `cargo lab setup`"))?;
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        let log = launch.log.clone();
        Ok(Process { child, group, log })
    }

    /// Waits for the end and tells of it: how it ended, and the last lines it wrote.
    pub async fn obituary(&mut self) -> String {
        let status = self.child.wait().await.ok();
        obituary(status, &self.log)
    }

    /// Sends the interrupt signal, as Ctrl-C does.
    pub fn interrupt(&self) {
        if let Some(id) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) {
            // A process that is gone needs no interrupt.
            let _ = kill_process(id, Signal::INT);
        }
    }

    /// Kills the group and waits for the end.
    pub async fn kill(&mut self) {
        self.kill_group();
        let _ = self.child.kill().await;
    }

    fn kill_group(&mut self) {
        if let Some(group) = self.group.take() {
            // A group without members is already as dead as it shall be.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
    }
}

fn obituary(status: Option<ExitStatus>, log: &Path) -> String {
    use std::os::unix::process::ExitStatusExt;
    let how = match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(9)) => "killed by signal 9, perhaps for lack of memory".to_owned(),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "unknown status".to_owned(),
        },
        None => "unknown status".to_owned(),
    };
    match last_lines(log, 8) {
        lines if lines.is_empty() => how,
        lines => format!("{how}; its last words:\n{lines}"),
    }
}

/// The last `count` lines of a file; nothing if it cannot be read.
fn last_lines(path: &Path, count: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(dir: &Path) -> Launch {
        Launch {
            directory: dir.into(),
            env: vec![("GREETING".into(), "hello".into())],
            log: dir.join("log"),
        }
    }

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn the_end_is_told_with_the_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let argv = shell("echo $GREETING; echo bye >&2; exit 3");
        let mut process = Process::start(&argv, &launch(dir.path())).unwrap();
        let told = process.obituary().await;
        assert!(
            told.starts_with("exit status 3") && told.ends_with("hello\nbye"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn dropping_ends_grandchildren_too() {
        let dir = tempfile::tempdir().unwrap();
        let argv = shell("sleep 60 & echo $! > pid; wait");
        let process = Process::start(&argv, &launch(dir.path())).unwrap();
        let file = dir.path().join("pid");
        let id = loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if let Ok(id) = text.trim().parse::<i32>() {
                break Pid::from_raw(id).unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        drop(process);
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero()));
        for _ in 0..200 {
            // Gone, or a zombie that its new parent has not collected yet.
            if state().map_or(true, |stat| stat.contains(") Z ")) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the grandchild still runs");
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _guard = runtime.enter();
        let argv = vec!["/nonexistent/kernel".to_owned()];
        let error = Process::start(&argv, &launch(dir.path())).unwrap_err();
        assert!(format!("{error:#}").contains("cargo lab setup"));
        assert!(Process::start(&[], &launch(dir.path())).is_err());
    }
}
