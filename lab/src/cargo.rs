//! Cargo, with progress that says how much is left.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::place::Place;

/// A cargo command in the checkout, building into the shared target directory.
pub fn command(place: &Place, subcommand: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .arg(subcommand)
        .current_dir(&place.root)
        .env("CARGO_TARGET_DIR", place.build_dir());
    forget_outer_cargo(&mut command);
    if is_offline() {
        command.env("CARGO_NET_OFFLINE", "true");
    }
    command
}

/// Whether downloads are forbidden (`LLMKIT_OFFLINE=1`).
pub fn is_offline() -> bool {
    std::env::var("LLMKIT_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0"))
}

/// What to do about a part that is missing where downloads are forbidden.
pub const OFFLINE_HINT: &str = "LLMKIT_OFFLINE is set and not everything is here yet: run `cargo lab setup` once \
                                with a network; after that all of it works without";

/// Takes away what `cargo run` said of the lab's own package. Build scripts that watch these variables (ring's)
/// would otherwise rebuild their crates whenever another package's program calls cargo.
fn forget_outer_cargo(command: &mut Command) {
    const OUTER: [&str; 4] = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
    ];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if OUTER.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

/// Builds `packages` in one go and returns their executables.
///
/// # Errors
/// If one does not compile (the compiler's messages went to stderr).
pub fn build(place: &Place, packages: &[&str], args: &[&str]) -> Result<Vec<PathBuf>> {
    let total = count_units(place, packages).unwrap_or(0);
    let mut child = command(place, "build")
        .args(packages.iter().flat_map(|name| ["--package", name]))
        .args(["--locked", "--quiet"])
        .args(args)
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo")?;
    let stdout = child.stdout.take().context("cargo's output")?;
    let mut progress = Units::new(&packages.join(", "), total);
    let mut executables = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read cargo's output")?;
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if message["reason"] == "compiler-artifact" {
            let name = message["target"]["name"].as_str().unwrap_or("");
            progress.advance(name, message["fresh"] == true);
            executables.extend(message["executable"].as_str().map(PathBuf::from));
        }
    }
    let status = child.wait().context("wait for cargo")?;
    progress.finish();
    if !status.success() {
        let hint = if is_offline() {
            OFFLINE_HINT
        } else {
            "see its messages above"
        };
        bail!(
            "cargo build of {} failed ({status}); {hint}",
            packages.join(", ")
        );
    }
    Ok(executables)
}

/// A bar on a terminal; elsewhere a line every five seconds.
struct Units {
    bar: ProgressBar,
    package: String,
    total: u64,
    done: u64,
    /// Those that were really compiled now.
    compiled: u64,
    start: Instant,
    said: Instant,
    is_plain: bool,
}

impl Units {
    fn new(package: &str, total: u64) -> Units {
        let is_plain = !std::io::stderr().is_terminal();
        let bar = if is_plain {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(total)
        };
        if let Ok(style) = ProgressStyle::with_template(
            "{prefix} [{bar:30}] {pos}/{len} crates, {elapsed} so far, {eta} left  {wide_msg}",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(package.to_owned());
        let now = Instant::now();
        Units {
            bar,
            package: package.to_owned(),
            total,
            done: 0,
            compiled: 0,
            start: now,
            said: now,
            is_plain,
        }
    }

    fn advance(&mut self, what: &str, is_fresh: bool) {
        self.done += 1;
        self.compiled += u64::from(!is_fresh);
        // The count beforehand is an estimate: what is built for both host and target counts twice.
        self.total = self.total.max(self.done);
        self.bar.set_length(self.total);
        self.bar.set_position(self.done);
        self.bar.set_message(what.to_owned());
        if self.is_plain && self.said.elapsed() > Duration::from_secs(5) {
            self.said = Instant::now();
            let spent = self.start.elapsed().as_secs_f64();
            let left = spent / self.compiled.max(1) as f64 * (self.total - self.done) as f64;
            eprintln!(
                "{}: {} of about {} crates, {spent:.0} s so far, about {left:.0} s left",
                self.package, self.done, self.total
            );
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
        if self.is_plain && self.start.elapsed() > Duration::from_secs(5) {
            let spent = self.start.elapsed().as_secs_f64();
            eprintln!("{}: {} crates, {spent:.0} s", self.package, self.done);
        }
    }
}

/// About how many artifacts building `roots` makes: every crate they need, and every build script.
fn count_units(place: &Place, roots: &[&str]) -> Result<u64> {
    // For this platform alone: the crates of the others would be downloaded just to be counted.
    let out = command(place, "metadata")
        .args([
            "--format-version=1",
            "--locked",
            "--filter-platform",
            &host()?,
        ])
        .stderr(Stdio::null())
        .output()?;
    let metadata: Value = serde_json::from_slice(&out.stdout)?;
    closure_units(&metadata, roots).context("cargo metadata")
}

/// The platform that is compiled for, as rustc calls it.
fn host() -> Result<String> {
    let out = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("start rustc")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc's host")?.to_owned())
}

fn closure_units(metadata: &Value, roots: &[&str]) -> Option<u64> {
    let packages: HashMap<&str, &Value> = (metadata["packages"].as_array()?.iter())
        .filter_map(|p| Some((p["id"].as_str()?, p)))
        .collect();
    let nodes: HashMap<&str, &Value> = (metadata["resolve"]["nodes"].as_array()?.iter())
        .filter_map(|n| Some((n["id"].as_str()?, n)))
        .collect();
    let find = |name: &&str| {
        let (id, _) = packages.iter().find(|(_, p)| p["name"] == **name)?;
        Some(*id)
    };
    let mut queue: Vec<&str> = roots.iter().map(find).collect::<Option<_>>()?;
    let mut seen: BTreeSet<&str> = queue.iter().copied().collect();
    while let Some(id) = queue.pop() {
        for dep in nodes.get(id)?["deps"].as_array()? {
            let is_built = (dep["dep_kinds"].as_array()?.iter()).any(|kind| kind["kind"] != "dev");
            if let Some(next) = dep["pkg"].as_str()
                && is_built
                && seen.insert(next)
            {
                queue.push(next);
            }
        }
    }
    let has_script = |id: &&&str| {
        packages.get(**id).is_some_and(|package| {
            (package["targets"].as_array().into_iter().flatten())
                .any(|target| target["kind"][0] == "custom-build")
        })
    };
    Some((seen.len() + seen.iter().filter(has_script).count()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn units_are_the_crates_needed_and_their_build_scripts() {
        let dep = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                {"id": "a", "name": "app", "targets": [{"kind": ["bin"]}]},
                {"id": "b", "name": "lib", "targets": [{"kind": ["lib"]}, {"kind": ["custom-build"]}]},
                {"id": "d", "name": "only-tests", "targets": [{"kind": ["lib"]}]},
            ],
            "resolve": {"nodes": [
                {"id": "a", "deps": [
                    dep("b", Value::Null),
                    dep("d", json!("dev")),
                ]},
                {"id": "b", "deps": [dep("a", Value::Null)]},
                {"id": "d", "deps": []},
            ]},
        });
        assert_eq!(closure_units(&metadata, &["app"]), Some(3));
        assert_eq!(closure_units(&metadata, &["lib", "only-tests"]), Some(4));
        assert_eq!(closure_units(&metadata, &["app", "no such package"]), None);
        assert_eq!(closure_units(&json!({}), &["app"]), None);
    }
}
