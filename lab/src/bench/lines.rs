//! The lines of `cargo lab bench engine`: as a table and as a file.

use std::path::PathBuf;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::record;
use crate::place::Place;

/// A line of the result.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// `engine`, `memory` or `limits`.
    pub bench: &'static str,
    /// What was run: `prompt 512`.
    pub case: String,
    /// How weights were kept.
    pub weights: String,
    /// Instruction set.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Of all values.
    pub unit: &'static str,
    /// Over the runs.
    pub median: f64,
    /// Smallest of the runs.
    pub min: f64,
    /// Largest of the runs.
    pub max: f64,
    /// How many.
    pub runs: usize,
    /// What the machine's limits allow, where the model of that is known.
    pub limit: Option<f64>,
}

/// For a terminal.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "",
        "weights",
        "on",
        "threads",
        "median",
        "min – max",
        "runs",
        "of the limit",
    ]);
    for row in rows {
        let share = row
            .limit
            .map(|limit| format!("{:.0} %", 100.0 * row.median / limit));
        table.add_row([
            row.case.clone(),
            row.weights.clone(),
            row.isa.clone(),
            row.threads.to_string(),
            format!("{} {}", short(row.median), row.unit),
            format!("{} – {}", short(row.min), short(row.max)),
            row.runs.to_string(),
            share.unwrap_or_default(),
        ]);
    }
    for column in [3, 4, 5, 6, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Three or more significant digits.
pub fn short(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        3
    };
    format!("{value:.digits$}")
}

/// Into `data/bench/<machine>/<date>-engine.csv`.
///
/// # Errors
/// If it cannot be written.
pub fn write(place: &Place, rows: &[Row]) -> Result<PathBuf> {
    let header = [
        "bench", "case", "weights", "isa", "threads", "unit", "median", "min", "max", "runs",
        "limit",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.bench.to_owned(),
            row.case.clone(),
            row.weights.clone(),
            row.isa.clone(),
            row.threads.to_string(),
            row.unit.to_owned(),
            format!("{:.4}", row.median),
            format!("{:.4}", row.min),
            format!("{:.4}", row.max),
            row.runs.to_string(),
            row.limit.map_or(String::new(), |it| format!("{it:.4}")),
        ]
    });
    record::write(place, "-engine", &header, cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_shares_are_of_the_limit() {
        assert_eq!(short(1234.56), "1235");
        assert_eq!(short(12.345), "12.3");
        assert_eq!(short(0.12345), "0.123");
        let row = Row {
            bench: "engine",
            case: "prompt 512".into(),
            weights: "int8".into(),
            isa: "AVX2".into(),
            threads: 2,
            unit: "tokens/s",
            median: 750.0,
            min: 700.0,
            max: 760.0,
            runs: 5,
            limit: Some(1000.0),
        };
        let text = table(&[row]).to_string();
        assert!(
            text.contains("75 %") && text.contains("700 – 760"),
            "{text}"
        );
    }
}
