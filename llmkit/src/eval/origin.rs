//! What a number must carry to be repeated: the code's commit, the machine, the day.

use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

/// The commit of the checkout at `root`, 12 digits, with `-dirty` if tracked files other than outputs (`figures/`,
/// `data/results/`) differ from it; empty outside a repository or without git.
pub fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git")
            .arg("-C")
            .arg(root)
            .args(arguments)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return String::new();
    };
    let status = [
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ".",
        ":!figures",
        ":!data/results",
    ];
    match git(&status) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + "-dirty",
    }
}

/// What the library's sources are: git's number of the folder `llmkit/src` of the checkout that this was built from, and that of what differs from
/// it; empty without git. What was computed by other sources has another one.
pub fn sources() -> String {
    let git = |arguments: &[&str]| -> Option<Vec<u8>> {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let command = Command::new("git")
            .arg("-C")
            .arg(root)
            .args(arguments)
            .output();
        command
            .ok()
            .filter(|it| it.status.success())
            .map(|it| it.stdout)
    };
    let Some(tree) = git(&["rev-parse", "HEAD:./"]) else {
        return String::new();
    };
    let tree = String::from_utf8_lossy(&tree).trim().to_owned();
    match git(&["diff", "HEAD", "--", "."]) {
        Some(changes) if changes.is_empty() => tree,
        Some(changes) => format!("{tree}+{}", crate::hub::hex(&Sha256::digest(&changes))),
        None => tree,
    }
}

/// The processor, its threads, the system: `Intel(R) Xeon(R) … × 2, linux x86_64`.
pub fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let system = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
    {
        Some((_, model)) => format!("{} × {threads}, {system}", model.trim()),
        None => format!("{threads} threads, {system}"),
    }
}

/// Today in UTC, `2026-11-23`.
pub fn today() -> String {
    chrono::Utc::now().date_naive().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_a_repository_there_is_no_commit() {
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(commit(elsewhere.path()), "");
        assert!(machine().contains(std::env::consts::ARCH));
    }
}
