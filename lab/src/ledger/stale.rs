//! Whether what a row was measured with is what lies here.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::process::Command;

use super::Row;

/// Sources that numbers come from, besides the notebook.
const SOURCES: [&str; 3] = ["llmkit/src", "llmkit/Cargo.toml", "Cargo.lock"];

/// Why each row is stale; `None` for those that are not.
pub fn reasons(root: &Path, rows: &[Row]) -> Vec<Option<String>> {
    let mut known: BTreeMap<(&str, &str), Option<String>> = BTreeMap::new();
    rows.iter()
        .map(|row| {
            let key = (row.commit.as_str(), row.notebook.as_str());
            known
                .entry(key)
                .or_insert_with(|| why_stale(root, key.0, key.1))
                .clone()
        })
        .collect()
}

/// Whether `name` is a notebook below `root`. What a row says is not trusted to lead anywhere else.
pub fn is_notebook(root: &Path, name: &str) -> bool {
    let path = Path::new(name);
    let stays_below = path
        .components()
        .all(|it| matches!(it, Component::Normal(_)));
    let is_named_so = path.extension().is_some_and(|it| it == "ipynb");
    stays_below && is_named_so && root.join(path).is_file()
}

fn why_stale(root: &Path, commit: &str, notebook: &str) -> Option<String> {
    if !is_notebook(root, notebook) {
        return Some(format!("there is no notebook {notebook:?}"));
    }
    if commit.is_empty() {
        return Some("no commit was recorded".into());
    }
    if commit.ends_with("-dirty") {
        return Some(format!("recorded with uncommitted changes on {commit}"));
    }
    let git = |arguments: &[&str]| -> Option<String> {
        let mut git = Command::new("git");
        git.arg("-C")
            .arg(root)
            .args(arguments)
            .args(["--", notebook])
            .args(SOURCES);
        let out = git.output().ok().filter(|out| out.status.success())?;
        String::from_utf8(out.stdout).ok()
    };
    // A commit is told to git as a revision, never as an option.
    let is_name = commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let changed = is_name
        .then(|| git(&["diff", "--name-only", commit]))
        .flatten();
    let Some(changed) = changed else {
        return Some(format!("commit {commit} is not in this repository"));
    };
    let new = git(&["ls-files", "--others", "--exclude-standard"]).unwrap_or_default();
    let files: Vec<&str> = changed.lines().chain(new.lines()).collect();
    match files[..] {
        [] => None,
        [one] => Some(format!("{one} changed since {commit}")),
        [first, ..] => Some(format!(
            "{first} and {} more files changed since {commit}",
            files.len() - 1
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn rows_are_stale_when_their_sources_changed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.arg("-C")
                .arg(root)
                .args(["-c", "user.name=t", "-c", "user.email=t@t"]);
            let out = git.args(arguments).output().unwrap();
            assert!(
                out.status.success(),
                "{}",
                String::from_utf8_lossy(&out.stderr)
            );
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        };
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("llmkit/src/lib.rs", "one");
        write("notebooks/x.ipynb", "{}");
        write("README.md", "one");
        git(&["init", "-q"]);
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "one"]);
        let commit = git(&["rev-parse", "--short=12", "HEAD"]);
        let why = |commit: &str, notebook: &str| {
            reasons(root, &[row(commit, notebook, "Reproduced")]).remove(0)
        };
        assert_eq!(why(&commit, "notebooks/x.ipynb"), None);
        write("README.md", "two");
        assert_eq!(
            why(&commit, "notebooks/x.ipynb"),
            None,
            "no number comes from it"
        );
        let dirty = format!("{commit}-dirty");
        let outside = root.join("notebooks/x.ipynb");
        for (commit, notebook, says) in [
            ("", "notebooks/x.ipynb", "no commit"),
            (
                "0123456789ab",
                "notebooks/x.ipynb",
                "not in this repository",
            ),
            ("--output=x", "notebooks/x.ipynb", "not in this repository"),
            (dirty.as_str(), "notebooks/x.ipynb", "uncommitted"),
            (commit.as_str(), "notebooks/gone.ipynb", "no notebook"),
            (commit.as_str(), "", "no notebook"),
            (commit.as_str(), "llmkit/src/lib.rs", "no notebook"),
            (commit.as_str(), outside.to_str().unwrap(), "no notebook"),
            (
                commit.as_str(),
                "notebooks/../notebooks/x.ipynb",
                "no notebook",
            ),
        ] {
            let why = why(commit, notebook).unwrap();
            assert!(why.contains(says), "{why}");
        }
        write("notebooks/x.ipynb", "{ }");
        assert!(
            why(&commit, "notebooks/x.ipynb")
                .unwrap()
                .starts_with("notebooks/x.ipynb changed")
        );
        write("notebooks/x.ipynb", "{}");
        write("llmkit/src/new.rs", "not yet added");
        assert!(
            why(&commit, "notebooks/x.ipynb")
                .unwrap()
                .starts_with("llmkit/src/new.rs")
        );
        git(&["add", "."]);
        git(&["commit", "-q", "-m", "two"]);
        assert!(
            why(&commit, "notebooks/x.ipynb")
                .unwrap()
                .contains("llmkit/src/new.rs changed")
        );
    }
}
