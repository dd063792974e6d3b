//! `cargo lab ledger`: the recorded claims, which of them are stale, and what measuring those again gives.
//!
//! A row is **stale** if what it was measured with is not what lies here: `git diff` between the row's commit and the working tree
//! names a file of the library's sources, of its locked dependencies, or the notebook itself; or the row has no such commit (`-dirty`, or
//! one this repository lacks). Notes, figures and the lab do not count: no number comes from them.
//!
//! `--check` runs the notebooks of stale rows headless, with the ledger written to a temporary folder, and compares. It fails if a
//! notebook fails, if a verdict turns to `Refuted` (so any Exact claim that breaks), or if a claim is no longer recorded. It changes
//! nothing: `cargo lab run NOTEBOOK` records anew.

mod check;
mod stale;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use chrono::NaiveDate;
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::place::Place;
use crate::say::say;

/// Letters of a claim in the table.
const LETTERS: usize = 60;

/// Arguments of `cargo lab ledger`.
#[derive(Debug, Clone, clap::Args)]
pub struct LedgerArgs {
    /// Only claims whose stem begins with one of these, such as quant or quant/rtn
    #[arg(value_name = "STEM")]
    only: Vec<String>,
    /// Measure stale claims again and fail if one breaks; the ledger itself is not changed
    #[arg(long)]
    check: bool,
    /// One JSON object a claim instead of the table
    #[arg(long)]
    json: bool,
}

/// A row of the ledger, as the library writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    stem: String,
    claim: String,
    paper: String,
    kind: String,
    expected: String,
    value: f64,
    low: f64,
    high: f64,
    unit: String,
    verdict: String,
    config: String,
    commit: String,
    machine: String,
    date: String,
    notebook: String,
}

impl Row {
    fn measured(&self) -> String {
        let (value, low, high) = (short(self.value), short(self.low), short(self.high));
        match self.low == self.high {
            true => format!("{value} {}", self.unit),
            false => format!("{value} [{low}, {high}] {}", self.unit),
        }
    }

    fn is_of(&self, other: &Row) -> bool {
        (&self.stem, &self.claim) == (&other.stem, &other.claim)
    }
}

/// Lists the ledger, or checks what is stale; true unless the check found something broken.
///
/// # Errors
/// If the ledger cannot be read or the notebooks cannot be run at all.
pub fn command(place: &Place, args: &LedgerArgs) -> Result<bool> {
    let mut rows = read(&place.root.join("data/results/ledger.csv"))?;
    for stem in &args.only {
        if !rows.iter().any(|row| row.stem.starts_with(stem.as_str())) {
            bail!("no claim of {stem:?} in the ledger");
        }
    }
    let is_asked = |row: &Row| args.only.iter().any(|it| row.stem.starts_with(it.as_str()));
    rows.retain(|row| args.only.is_empty() || is_asked(row));
    let stale = stale::reasons(&place.root, &rows);
    if args.check {
        return check::run(place, &rows, &stale, args.json);
    }
    let today = chrono::Utc::now().date_naive();
    if args.json {
        for (row, why) in rows.iter().zip(&stale) {
            let mut line = json!(row);
            line["age_days"] = json!(age(&row.date, today));
            line["stale"] = json!(why);
            say(line)?;
        }
        return Ok(true);
    }
    say(table(&rows, &stale, today))?;
    let count = stale.iter().flatten().count();
    say(format!("{} claims, {count} stale", rows.len()))?;
    for why in stale.iter().flatten().collect::<BTreeSet<_>>() {
        say(format!("  stale: {why}"))?;
    }
    if count > 0 {
        say("`cargo lab ledger --check` measures the stale ones again")?;
    }
    Ok(true)
}

/// The rows of a ledger; none if there is no such file.
fn read(path: &Path) -> Result<Vec<Row>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let is_not = || format!("{} is not a ledger", path.display());
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let columns = reader.headers().with_context(is_not)?;
    if !bytes.is_empty() && !columns.iter().any(|name| name == "verdict") {
        bail!(is_not());
    }
    let rows = reader.deserialize().collect::<Result<Vec<Row>, _>>();
    let rows = rows.with_context(is_not)?;
    for row in &rows {
        if !(row.low <= row.value && row.value <= row.high && (row.high - row.low).is_finite()) {
            let (stem, measured) = (&row.stem, row.measured());
            bail!("{}: {stem} has no measurement: {measured}", path.display());
        }
    }
    Ok(rows)
}

fn table(rows: &[Row], stale: &[Option<String>], today: NaiveDate) -> Table {
    let mut table = head([
        "claim",
        "paper",
        "expected",
        "measured (95 % interval)",
        "verdict",
        "age",
        "",
    ]);
    for (row, why) in rows.iter().zip(stale) {
        table.add_row([
            format!("{}\n{}", row.stem, cut(&row.claim)),
            row.paper.clone(),
            row.expected.clone(),
            row.measured(),
            row.verdict.clone(),
            age(&row.date, today).map_or(String::new(), |days| format!("{days} d")),
            if why.is_some() {
                "stale".into()
            } else {
                String::new()
            },
        ]);
    }
    if let Some(column) = table.column_mut(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn head<const N: usize>(names: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(names);
    table
}

/// Days since a date as the ledger writes it.
fn age(date: &str, today: NaiveDate) -> Option<i64> {
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    Some((today - date).num_days())
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LETTERS) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

/// Four significant digits.
fn short(value: f64) -> String {
    let magnitude = value.abs().log10().floor();
    match (-4.0..7.0).contains(&magnitude) {
        true => format!("{value:.*}", (3.0 - magnitude).max(0.0) as usize),
        false if value == 0.0 => "0".into(),
        false => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "stem,claim,paper,where,kind,expected,value,low,high,unit,verdict,config,commit,machine,date,notebook";

    fn line(commit: &str, notebook: &str, verdict: &str) -> String {
        format!(
            "quant/x,\"It, holds\",p,t,Exact,≤ 1,0.5,0.4,0.6,dB,{verdict},c,{commit},m,2026-11-20,{notebook}"
        )
    }

    fn rows(lines: &[String]) -> Result<Vec<Row>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.csv");
        std::fs::write(&path, format!("{HEAD}\n{}\n", lines.join("\n"))).unwrap();
        read(&path)
    }

    pub(super) fn row(commit: &str, notebook: &str, verdict: &str) -> Row {
        rows(&[line(commit, notebook, verdict)]).unwrap().remove(0)
    }

    #[test]
    fn what_is_no_ledger_is_refused() {
        let good = line("c", "n", "Reproduced");
        assert_eq!(rows(std::slice::from_ref(&good)).unwrap().len(), 1);
        for bad in [
            good.replace("0.5", "NaN"),
            good.replace("0.6", "inf"),
            good.replace("0.4", "0.55"),
            good.replace("0.5", "half"),
            good.replace(",0.4", ""),
        ] {
            let error = format!("{:#}", rows(std::slice::from_ref(&bad)).unwrap_err());
            assert!(error.contains("ledger.csv"), "{bad}: {error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.csv");
        assert_eq!(read(&path).unwrap(), []);
        std::fs::write(&path, b"\xff\xfe\x00stem").unwrap();
        assert!(read(&path).is_err());
        std::fs::write(
            &path,
            [HEAD.as_bytes(), b"\n\xff", good.as_bytes()].concat(),
        )
        .unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn the_table_says_what_and_how_old() {
        let today = NaiveDate::from_ymd_opt(2026, 11, 24).unwrap();
        let rows = [row("c", "n", "Reproduced")];
        let text = table(&rows, &[Some("why".into())], today).to_string();
        for part in [
            "quant/x",
            "It, holds",
            "0.5000 [0.4000, 0.6000] dB",
            "4 d",
            "stale",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(age("yesterday", today), None);
        assert_eq!(
            (short(0.0), short(64.0), short(1e-9)),
            ("0".into(), "64.00".into(), "1.000e-9".into())
        );
        assert_eq!(cut(&"é".repeat(70)).chars().count(), LETTERS + 1);
    }
}
