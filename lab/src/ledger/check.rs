//! Stale claims measured again, without touching the ledger.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;

use super::stale::is_notebook;
use super::{Row, cut, head, read};
use crate::place::Place;
use crate::run::{self, RunArgs};
use crate::say::say;

/// What became of a claim that was measured again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
enum Fate {
    /// The verdict is the same.
    Holds,
    /// Another verdict, but not refuted.
    Changed,
    /// Refuted, which it was not before.
    Broken,
    /// Nothing records it any more.
    Gone,
}

fn fate(old: &Row, new: Option<&Row>) -> Fate {
    match new {
        None => Fate::Gone,
        Some(new) if new.verdict == old.verdict => Fate::Holds,
        Some(new) if new.verdict == "Refuted" => Fate::Broken,
        Some(_) => Fate::Changed,
    }
}

/// Measures the stale rows again, prints both, and says whether nothing broke.
///
/// # Errors
/// If the notebooks cannot be run at all.
pub fn run(place: &Place, rows: &[Row], stale: &[Option<String>], as_json: bool) -> Result<bool> {
    let of_stale = rows.iter().zip(stale).filter(|(_, why)| why.is_some());
    let notebooks: BTreeSet<&str> = of_stale.map(|(row, _)| row.notebook.as_str()).collect();
    if notebooks.is_empty() {
        eprintln!("all {} claims are fresh: nothing to measure", rows.len());
        return Ok(true);
    }
    for why in stale.iter().flatten().collect::<BTreeSet<_>>() {
        eprintln!("stale: {why}");
    }
    let (there, lost): (Vec<&str>, Vec<&str>) =
        (notebooks.iter().copied()).partition(|notebook| is_notebook(&place.root, notebook));
    let scratch = tempfile::tempdir().context("make a temporary folder")?;
    let mut failures = Vec::new();
    if !there.is_empty() {
        let args = RunArgs {
            what: (there.iter())
                .map(|it| place.root.join(it).to_string_lossy().into_owned())
                .collect(),
            out: Some(scratch.path().to_owned()),
            scratch: true,
            ..RunArgs::of(Path::new(""))
        };
        let outcomes = run::run_all(place, &args)?;
        failures.extend(
            outcomes
                .iter()
                .filter(|it| it.failure.is_some())
                .map(run::report),
        );
    }
    let again = read(&scratch.path().join("results/ledger.csv"))?;
    let mut broken = failures.len();
    let mut table = head(["claim", "kind", "recorded", "measured again", ""]);
    for old in rows
        .iter()
        .filter(|row| notebooks.contains(row.notebook.as_str()))
    {
        let new = again.iter().find(|new| new.is_of(old));
        let fate = fate(old, new);
        broken += usize::from(matches!(fate, Fate::Broken | Fate::Gone));
        // Another configuration: the wording or the parameters are others, so the two numbers need not agree.
        let same_config = new.is_some_and(|new| new.config == old.config);
        if as_json {
            let line = json!({"old": old, "new": new, "fate": fate, "same_config": same_config});
            say(line)?;
            continue;
        }
        let both = |row: &Row| format!("{}\n{}", row.verdict, row.measured());
        let note = if same_config || new.is_none() {
            ""
        } else {
            ", another configuration"
        };
        table.add_row([
            format!("{}\n{}", old.stem, cut(&old.claim)),
            old.kind.clone(),
            both(old),
            new.map_or("not recorded".into(), both),
            format!("{fate:?}{note}"),
        ]);
    }
    if !as_json {
        say(table)?;
    }
    for lost in lost {
        eprintln!("{lost:?} is no notebook: nothing measures its claims");
    }
    for failure in failures {
        eprintln!("\n{failure}");
    }
    eprintln!("{broken} broken; `cargo lab run` of a notebook records its claims anew");
    Ok(broken == 0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn a_claim_breaks_when_it_turns_to_refuted_or_vanishes() {
        let of = |verdict: &str| row("c", "n", verdict);
        for (old, new, expected) in [
            ("Reproduced", "Reproduced", Fate::Holds),
            ("Reproduced", "Refuted", Fate::Broken),
            ("Reproduced", "ShapeOnly", Fate::Changed),
            ("ShapeOnly", "Reproduced", Fate::Changed),
            ("Refuted", "Refuted", Fate::Holds),
        ] {
            assert_eq!(fate(&of(old), Some(&of(new))), expected, "{old} → {new}");
        }
        assert_eq!(fate(&of("Reproduced"), None), Fate::Gone);
    }
}
