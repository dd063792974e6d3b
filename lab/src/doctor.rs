//! `cargo lab doctor`: each part looked at, never changed.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::place::{Place, rustc_version};
use crate::venv::Venv;
use crate::{kernelspec, setup};

/// Arguments of `cargo lab doctor`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DoctorArgs {
    /// Print one JSON list instead of the table
    #[arg(long)]
    json: bool,
}

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Something is lost, but the lab works.
    Warning,
    Broken,
}

/// One part looked at.
#[derive(Debug, Clone, Serialize)]
struct Part {
    name: &'static str,
    state: State,
    /// Version or place; what is wrong where something is.
    found: String,
    /// How to mend it; empty if nothing is wrong.
    mend: String,
}

impl Part {
    fn ok(name: &'static str, found: impl Into<String>) -> Part {
        Part {
            name,
            state: State::Ok,
            found: found.into(),
            mend: String::new(),
        }
    }

    fn bad(
        name: &'static str,
        state: State,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Part {
        Part {
            name,
            state,
            found: found.into(),
            mend: mend.into(),
        }
    }
}

const SETUP: &str = "cargo lab setup";

/// Prints every part; true if none is broken.
///
/// # Errors
/// Only if the result cannot be printed.
pub fn command(place: &Place, args: &DoctorArgs) -> Result<bool> {
    let parts = examine(place);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&parts)?);
    } else {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(["part", "", "found", "to mend it"]);
        for part in &parts {
            let state = match part.state {
                State::Ok => "ok",
                State::Warning => "warning",
                State::Broken => "BROKEN",
            };
            table.add_row([part.name, state, &part.found, &part.mend]);
        }
        println!("{table}");
    }
    let broken: Vec<&str> = (parts.iter())
        .filter(|part| part.state == State::Broken)
        .map(|part| part.name)
        .collect();
    if !broken.is_empty() && !args.json {
        eprintln!("broken: {}", broken.join(", "));
    }
    Ok(broken.is_empty())
}

fn examine(place: &Place) -> Vec<Part> {
    vec![
        compiler(place),
        linker(),
        rust_src(place),
        cache(place),
        disk(place),
        kernel(place),
        snapshot(place),
        python(place),
        jupyter(place),
        kernelspecs(place),
    ]
}

fn compiler(place: &Place) -> Part {
    let name = "rustc";
    let wanted = std::fs::read_to_string(place.root.join("rust-toolchain.toml"))
        .ok()
        .and_then(|text| channel(&text));
    let found = rustc_version(&place.root).map(|text| {
        let line = text.lines().next().unwrap_or("").to_owned();
        line.trim_start_matches("rustc ").to_owned()
    });
    match (found, wanted) {
        (Err(error), _) => Part::bad(name, State::Broken, format!("{error:#}"), "install rustup"),
        (Ok(found), Some(wanted)) if !found.starts_with(&wanted) => Part::bad(
            name,
            State::Warning,
            format!("{found}, but rust-toolchain.toml names {wanted}"),
            format!("rustup toolchain install {wanted}; unset RUSTUP_TOOLCHAIN"),
        ),
        (Ok(found), _) => Part::ok(name, found),
    }
}

/// The channel of a rust-toolchain.toml.
fn channel(text: &str) -> Option<String> {
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("channel"))?;
    let value = line.split_once('=')?.1.split('#').next()?;
    Some(value.trim().trim_matches('"').to_owned())
}

fn linker() -> Part {
    match first_line(Command::new("cc").arg("--version")) {
        Some(version) => Part::ok("linker", version),
        None => Part::bad(
            "linker",
            State::Broken,
            "`cc` does not start",
            "install a C toolchain (gcc or clang); cells are linked with it",
        ),
    }
}

fn rust_src(place: &Place) -> Part {
    match setup::has_rust_src(place) {
        true => Part::ok("rust-src", "installed"),
        false => Part::bad(
            "rust-src",
            State::Warning,
            "missing: a `let` of a standard type needs its type written out",
            "rustup component add rust-src",
        ),
    }
}

fn cache(place: &Place) -> Part {
    let dir = place.cache.display().to_string();
    match place.open_cache() {
        Ok(()) => Part::ok("cache", dir),
        Err(error) => Part::bad(
            "cache",
            State::Broken,
            format!("{error:#}"),
            "set LLMKIT_CACHE to a folder that can be written",
        ),
    }
}

/// What a full setup needs beside what is there.
const DISK_NEEDED: u64 = 8_000_000_000;

fn disk(place: &Place) -> Part {
    let free = || {
        let mut df = Command::new("df");
        let out = df
            .args(["--output=avail", "-B1"])
            .arg(&place.cache)
            .output();
        let text = String::from_utf8(out.ok()?.stdout).ok()?;
        text.lines().nth(1)?.trim().parse::<u64>().ok()
    };
    match free() {
        Some(free) if free < DISK_NEEDED && !place.build_dir().join("debug").is_dir() => Part::bad(
            "disk",
            State::Warning,
            format!("{:.1} GB free", free as f64 / 1e9),
            "set-up takes about 8 GB; free some, or set LLMKIT_CACHE to a larger disk",
        ),
        Some(free) => Part::ok("disk", format!("{:.1} GB free", free as f64 / 1e9)),
        None => Part::ok("disk", "unknown (no `df`)"),
    }
}

fn kernel(place: &Place) -> Part {
    let name = "kernel";
    let path = place.kernel();
    let Ok(built) = std::fs::metadata(&path).and_then(|meta| meta.modified()) else {
        return Part::bad(name, State::Broken, "not built", SETUP);
    };
    let sources = place.root.join("lab/kernel/src");
    if newest(&sources).is_some_and(|changed| changed > built) {
        let found = "older than lab/kernel/src";
        return Part::bad(name, State::Warning, found, SETUP);
    }
    Part::ok(name, path.display().to_string())
}

/// When a file below `dir` was last changed.
fn newest(dir: &Path) -> Option<std::time::SystemTime> {
    let entries = std::fs::read_dir(dir).ok()?;
    (entries.flatten())
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            match meta.is_dir() {
                true => newest(&entry.path()),
                false => meta.modified().ok(),
            }
        })
        .max()
}

fn snapshot(place: &Place) -> Part {
    let name = "prelude";
    if !place.kernel().is_file() {
        return Part::bad(name, State::Broken, "unknown without the kernel", SETUP);
    }
    match setup::snapshot_state(place) {
        Ok((dir, true)) => Part::ok(name, dir.display().to_string()),
        Ok((_, false)) => Part::bad(
            name,
            State::Broken,
            "missing, or older than llmkit's sources",
            SETUP,
        ),
        Err(error) => Part::bad(name, State::Broken, format!("{error:#}"), SETUP),
    }
}

fn python(place: &Place) -> Part {
    match Venv::find(place) {
        Ok(venv) => Part::ok("python", venv.version),
        Err(error) => Part::bad(
            "python",
            State::Broken,
            format!("{error:#}"),
            "install Python 3.10 or later",
        ),
    }
}

fn jupyter(place: &Place) -> Part {
    let name = "jupyterlab";
    let Ok(venv) = Venv::find(place) else {
        return Part::bad(name, State::Broken, "needs Python", "see python");
    };
    if !venv.is_ready() {
        return Part::bad(name, State::Broken, "not set up", SETUP);
    }
    match venv.jupyter_version() {
        Ok(version) => Part::ok(name, format!("{version}, {}", venv.dir.display())),
        Err(error) => Part::bad(
            name,
            State::Broken,
            format!("{error:#}"),
            "cargo lab clean, then cargo lab setup",
        ),
    }
}

fn kernelspecs(place: &Place) -> Part {
    let dir = place.jupyter_dir().join("kernels");
    match kernelspec::is_installed(place) {
        true => Part::ok("kernelspecs", dir.display().to_string()),
        false => Part::bad(
            "kernelspecs",
            State::Broken,
            "missing or not of this checkout",
            SETUP,
        ),
    }
}

fn first_line(command: &mut Command) -> Option<String> {
    let out = command.output().ok().filter(|out| out.status.success())?;
    Some(
        String::from_utf8_lossy(&out.stdout)
            .lines()
            .next()?
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_cache_is_reported_broken_with_how_to_mend_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            root: dir.path().into(),
            cache: dir.path().join("cache"),
            build_key: "k".into(),
        };
        let parts = examine(&place);
        for name in ["kernel", "prelude", "jupyterlab", "kernelspecs"] {
            let part = parts.iter().find(|part| part.name == name).unwrap();
            assert_eq!(part.state, State::Broken, "{part:?}");
            assert!(!part.mend.is_empty());
        }
        for part in parts.iter().filter(|part| part.state == State::Ok) {
            assert!(part.mend.is_empty() && !part.found.is_empty(), "{part:?}");
        }
    }

    #[test]
    fn the_channel_is_read_from_the_toolchain_file() {
        let text = "[toolchain]\nchannel = \"1.95.0\" # pinned\n";
        assert_eq!(channel(text).as_deref(), Some("1.95.0"));
        assert_eq!(channel("[toolchain]\n"), None);
    }
}
