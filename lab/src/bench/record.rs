//! What a measurement is made of, and where it is kept.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::place::{Place, write_atomically};

/// The `share` quantile by linear interpolation between the ordered values.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut ordered = values.to_vec();
    ordered.sort_by(f64::total_cmp);
    let at = share * ordered.len().checked_sub(1)? as f64;
    let low = *ordered.get(at.floor() as usize)?;
    let high = *ordered.get(at.ceil() as usize)?;
    Some(low + (high - low) * at.fract())
}

/// Median, smallest and largest.
pub fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
    Some((
        quantile(values, 0.5)?,
        quantile(values, 0.0)?,
        quantile(values, 1.0)?,
    ))
}

/// Columns that say what a row is about.
const KEYS: [&str; 5] = ["bench", "weights", "case", "threads", "peer"];

/// Writes `data/bench/<machine>/<date><suffix>.csv`. To each row come machine, date, commit and command. What was measured on the same
/// day stays, but for rows about the same.
///
/// # Errors
/// If it cannot be written.
pub fn write(
    place: &Place,
    suffix: &str,
    header: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> Result<PathBuf> {
    let (machine, date) = (machine(), today());
    let path = place
        .root
        .join("data/bench")
        .join(&machine)
        .join(format!("{date}{suffix}.csv"));
    let command: Vec<String> = std::env::args().skip(1).collect();
    let origin = [
        machine,
        date,
        commit(place),
        format!("cargo lab {}", command.join(" ")),
    ];
    let header: Vec<&str> = (header.iter())
        .chain(&["machine", "date", "commit", "command"])
        .copied()
        .collect();
    let new: Vec<Vec<String>> = rows
        .map(|row| row.into_iter().chain(origin.clone()).collect())
        .collect();
    let keys: Vec<usize> = (0..header.len())
        .filter(|&at| KEYS.contains(&header[at]))
        .collect();
    let key = |row: &[String]| -> Vec<String> { keys.iter().map(|&at| row[at].clone()).collect() };
    let is_new = |row: &[String]| new.iter().any(|it| key(it) == key(row));
    let before = before(&path, &header);
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&header)?;
    for row in (before.iter()).filter(|row| !is_new(row)).chain(&new) {
        writer.write_record(row)?;
    }
    let bytes = writer.into_inner().context("write the table")?;
    write_atomically(&path, &bytes)?;
    Ok(path)
}

/// The rows of a table that is there already, none if it has other columns.
fn before(path: &Path, header: &[&str]) -> Vec<Vec<String>> {
    let Ok(mut reader) = csv::Reader::from_path(path) else {
        return Vec::new();
    };
    match reader.headers() {
        Ok(found) if found == header => {}
        _ => return Vec::new(),
    }
    let rows = reader.records().map_while(Result::ok);
    rows.map(|row| row.iter().map(str::to_owned).collect())
        .collect()
}

/// The day in UTC, as 2026-11-23.
fn today() -> String {
    chrono::Utc::now().format("%Y-%m-%d").to_string()
}

/// Processor and number of threads, as a folder name.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = (info.lines())
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or(std::env::consts::ARCH, |(_, model)| model);
    // Clouds give several processors one name; what makes most difference is said.
    let amx = if info.contains("amx_tile") {
        " AMX"
    } else {
        ""
    };
    slug(&format!("{model}{amx} x{}", threads()))
}

/// Threads that this process may use.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| threads.get())
}

fn slug(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<String> = (words.filter(|word| !word.is_empty()))
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

/// The commit at hand, `-dirty` if files differ from it; empty outside git.
pub fn commit(place: &Place) -> String {
    let git = |args: &[&str]| {
        let out = Command::new("git")
            .args(args)
            .current_dir(&place.root)
            .output()
            .ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        out.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return String::new();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]).as_deref() {
        Some("") | None => commit,
        Some(_) => format!("{commit}-dirty"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[1.0, 2.0], 0.5), Some(1.5));
        assert_eq!(quantile(&[7.0], 0.95), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
        let hundred: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.95), Some(95.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0]), Some((2.0, 1.0, 4.0)));
    }

    #[test]
    fn a_machine_is_a_folder() {
        assert_eq!(
            slug("Intel(R) Xeon(R) CPU @ 2.90GHz x2"),
            "intel-r-xeon-r-cpu-2-90ghz-x2"
        );
    }

    #[test]
    fn rows_carry_where_they_come_from() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            root: dir.path().into(),
            cache: dir.path().join("cache"),
            build_key: "k".into(),
        };
        let rows = [vec!["a, b".to_owned(), "1".to_owned()]].into_iter();
        let path = write(&place, "-x", &["case", "value"], rows).unwrap();
        assert!(path.to_string_lossy().ends_with("-x.csv"));
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("case,value,machine,date,commit,command"));
        assert!(
            lines
                .next()
                .is_some_and(|it| it.starts_with("\"a, b\",1,") && it.contains(&today()))
        );
        // Another case joins it, the same takes its place, other columns begin anew.
        let again = |header: &[&str], rows: &[[&str; 2]]| -> Vec<String> {
            let rows = rows.iter().map(|row| row.map(str::to_owned).to_vec());
            let path = write(&place, "-x", header, rows).unwrap();
            let text = std::fs::read_to_string(path).unwrap();
            let lines = text.lines().skip(1);
            lines
                .map(|it| it.split(&machine()).next().unwrap_or_default().to_owned())
                .collect()
        };
        let header = ["case", "value"];
        assert_eq!(again(&header, &[["c", "2"]]), ["\"a, b\",1,", "c,2,"]);
        assert_eq!(again(&header, &[["a, b", "3"]]), ["c,2,", "\"a, b\",3,"]);
        assert_eq!(again(&["case", "time"], &[["c", "4"]]), ["c,4,"]);
    }
}
