//! Files of a checkout, without what builds and editors leave.

use std::fs;
use std::path::{Path, PathBuf};

/// All files below `dir` that end in `.{extension}` (any, if empty), sorted; nothing if `dir` does not exist.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return found;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = name(&path);
        if name.starts_with('.')
            || ["target", "node_modules", "__pycache__"].contains(&name.as_str())
        {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if extension.is_empty() || path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Last component of a path.
pub fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// `path` below `base` with `/` between its parts and without extensions: `quant/rtn`.
pub fn stem(base: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(base).unwrap_or(path);
    let mut parts: Vec<String> = relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if let Some(last) = parts.last_mut() {
        *last = last.split('.').next().unwrap_or_default().to_owned();
    }
    parts.join("/")
}

/// `path` below `root`, for messages.
pub fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}
