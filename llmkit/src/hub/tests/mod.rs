//! The whole of the hub against servers and archives of our own making.

mod archives;
mod downloads;
mod places;
mod published;
mod server;

use sha2::{Digest, Sha256};

use super::registry::Pinned;

fn sha256(bytes: &[u8]) -> String {
    super::cache::hex(&Sha256::digest(bytes))
}

fn pinned(path: &str, bytes: &[u8]) -> Pinned {
    Pinned {
        path: path.to_owned(),
        bytes: bytes.len() as u64,
        sha256: Some(sha256(bytes)),
    }
}

/// Bytes without a pattern that a mistake could preserve.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Every file below `root`, as relative paths.
fn files_below(root: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                found.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}
