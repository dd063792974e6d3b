//! Hostile files: none may make the library panic, abort, or take more memory than a small multiple of its size.
//!
//! Honest files are damaged in many ways, always the same; each damaged file is refused with an error or used. Batches run in
//! child processes with a limit on their address space, so that a wild allocation is an abort that the test sees. The
//! quick test has some thousands; `LLMKIT_HOSTILE_INPUTS=1000000` asks for more, `LLMKIT_HOSTILE=gguf:42:1` with `batch` repeats one.
//! `LLMKIT_SEEDS=fuzz/corpus` writes the honest files for the fuzz targets (see `fuzz/README.md`).

mod entry;
mod mutate;
mod nasty;
mod seeds;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

/// Address space of a child, in KiB: what two threads and the test binary reserve, and some 500 MiB for everything else.
const LIMIT_KIB: u64 = 1 << 20;
/// How much a child's memory may grow over what it has after the honest files, in KiB.
const GROWTH_KIB: u64 = 64 << 10;
/// Inputs that a child gets.
const BATCH: u64 = 25_000;

/// Where a child says which input it is at.
const PROGRESS: &str = "LLMKIT_HOSTILE_PROGRESS";

#[test]
fn honest_files_are_accepted() {
    for (target, run) in entry::ALL {
        for (i, seed) in seeds::of(target).iter().enumerate() {
            // The last GGUF file is one without anything in it.
            let is_empty = target == "gguf" && i + 1 == seeds::of(target).len();
            match run(seed) {
                Ok(()) => assert!(!is_empty),
                Err(error) => assert!(is_empty, "{target} {i}: {error}"),
            }
            if let Some(folder) = std::env::var_os("LLMKIT_SEEDS") {
                let folder = Path::new(&folder).join(target);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join(format!("seed-{i}")), seed).unwrap();
            }
        }
    }
}

#[test]
fn damage_is_the_same_every_time_and_seldom_harmless() {
    for (target, _) in entry::ALL {
        let seeds = seeds::of(target);
        // Of an empty file little can be damaged.
        let is_unchanged = |bytes: &Vec<u8>| !bytes.is_empty() && seeds.contains(bytes);
        let unchanged = (0..1000)
            .map(|i| mutate::mutated(&seeds, i))
            .filter(is_unchanged)
            .count();
        assert!(unchanged < 150, "{target}: {unchanged}");
        assert_eq!(mutate::mutated(&seeds, 7), mutate::mutated(&seeds, 7));
    }
}

#[test]
fn damaged_files_are_refused_or_used() {
    let inputs: u64 = match std::env::var("LLMKIT_HOSTILE_INPUTS") {
        Ok(text) => text.parse().expect("LLMKIT_HOSTILE_INPUTS: a number"),
        Err(_) => 20_000,
    };
    let mut failures = Vec::new();
    for (target, _) in entry::ALL {
        let start = Instant::now();
        let share = inputs.div_ceil(entry::ALL.len() as u64);
        let mut from = 0;
        let mut summary = String::new();
        while from < share {
            let count = BATCH.min(share - from);
            match child(target, from, count) {
                Ok(said) => {
                    summary = said;
                    from += count;
                }
                Err((at, said)) => {
                    failures.push(format!("{target}:{at}:1\n{said}"));
                    from = at + 1;
                }
            }
            assert!(failures.len() < 5, "{}", failures.join("\n"));
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{target}: {share} inputs in {seconds:.1} s; last batch: {summary}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs a batch in a process of its own. Its summary, or the input at which it ended and what it said.
fn child(target: &str, from: u64, count: u64) -> Result<String, (u64, String)> {
    let folder = tempfile::tempdir().unwrap();
    let progress = folder.path().join("at");
    let test = std::env::current_exe().unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v {LIMIT_KIB}; exec \"$@\""))
        .arg("sh")
        .arg(test)
        .args(["--exact", "batch", "--ignored", "--nocapture"])
        .env("LLMKIT_HOSTILE", format!("{target}:{from}:{count}"))
        .env(PROGRESS, &progress)
        .env("MALLOC_ARENA_MAX", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    let summary = said.lines().find_map(|line| line.strip_prefix("summary: "));
    match summary {
        Some(summary) if status.success() => Ok(summary.to_owned()),
        _ => {
            let at = fs::read_to_string(&progress).unwrap_or_default();
            let tail: Vec<&str> = said.lines().rev().take(12).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            let said = format!("{status}\n{}", tail.join("\n"));
            Err((at.parse().unwrap_or(from), said))
        }
    }
}

/// A child's work; `LLMKIT_HOSTILE` is target:first:count.
#[test]
#[ignore = "run by damaged_files_are_refused_or_used"]
fn batch() {
    let what = std::env::var("LLMKIT_HOSTILE").expect("LLMKIT_HOSTILE=target:first:count");
    let mut parts = what.split(':');
    let target = parts.next().unwrap();
    let mut number = || parts.next().unwrap().parse::<u64>().unwrap();
    let (from, count) = (number(), number());
    let (_, run) = *entry::ALL.iter().find(|it| it.0 == target).unwrap();
    let seeds = seeds::of(target);
    // What is made once and kept: threads, tables, regular expressions.
    seeds.iter().for_each(|seed| drop(run(seed)));
    let before = resident_kib("VmRSS:");
    let progress = std::env::var_os(PROGRESS);
    let mut refused = 0;
    for index in from..from + count {
        if let Some(path) = &progress {
            fs::write(path, index.to_string()).unwrap();
        }
        let bytes = mutate::mutated(&seeds, index);
        if count == 1 {
            println!("{}", bytes.escape_ascii());
        }
        let result = run(&bytes);
        refused += u64::from(result.is_err());
        if count == 1 {
            println!("{result:?}");
        }
    }
    let grown = resident_kib("VmHWM:").saturating_sub(before);
    assert!(grown < GROWTH_KIB, "memory grew by {grown} KiB");
    println!("summary: {refused} of {count} refused, memory grew by {grown} KiB");
}

/// A line of this process's status, where there is one.
fn resident_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|it| it.trim().split(' ').next()?.parse().ok());
    number.unwrap_or(0)
}
