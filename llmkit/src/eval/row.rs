//! A row of the ledger: a claim with what was measured, and everything needed to repeat it.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::claim::{Claim, Expected, Kind, Verdict};
use super::ledger::Ledger;
use super::origin;
use super::stats::Interval;
use crate::{Error, Result, session};

/// One measured claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it belongs to.
    pub stem: String,
    /// The statement.
    pub claim: String,
    /// Key of the paper in `resources/llmkit.bib`.
    pub paper: String,
    /// Where in the paper.
    #[serde(rename = "where")]
    pub where_: String,
    /// What kind of statement it is.
    pub kind: Kind,
    /// The values that agree with it: `6.02 ± 0.12`.
    pub expected: String,
    /// The measured value.
    pub value: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
    /// Unit of the value.
    pub unit: String,
    /// What follows.
    pub verdict: Verdict,
    /// First 12 digits of the sha256 of the claim and the session's parameters.
    pub config: String,
    /// Commit of the code, `-dirty` if changed since.
    pub commit: String,
    /// Processor, threads, system.
    pub machine: String,
    /// Day in UTC.
    pub date: String,
    /// Notebook, as the front end names it.
    pub notebook: String,
}

impl Claim {
    /// Judges a measured `value` and its 95 % `interval`, records the row in the session's ledger and returns it; as
    /// a cell's last expression it is shown as a table.
    ///
    /// # Errors
    /// [`Error::Argument`] for an incomplete claim (stem, text, source or unit missing), numbers that are not finite,
    /// or a value outside its interval; [`Error::Io`] and [`Error::Format`] if the ledger cannot be read or written.
    pub fn measure(&self, value: f64, interval: Interval) -> Result<Row> {
        let row = self.row(value, interval)?;
        Ledger::of_session().record(&row)?;
        Ok(row)
    }

    /// The row that [`Claim::measure`] records.
    fn row(&self, value: f64, interval: Interval) -> Result<Row> {
        for (field, text) in [
            ("stem", &self.stem),
            ("text", &self.text),
            ("source", &self.paper),
            ("unit", &self.unit),
        ] {
            if text.trim().is_empty() {
                let name = format!("{field} of the claim {:?}", self.text);
                return Err(Error::argument(name, "some text", "nothing"));
            }
        }
        let expected = match self.expected {
            Expected::Near { value, tolerance } => [value, tolerance],
            Expected::AtLeast(end) | Expected::AtMost(end) => [end, 0.0],
        };
        if expected.iter().any(|x| !x.is_finite()) || expected[1] < 0.0 {
            return Err(Error::argument("expected", "finite numbers", self.expected));
        }
        let interval = Interval::new(interval.low, interval.high)?;
        if !interval.contains(value) {
            return Err(Error::argument(
                "value",
                format!("within {interval}"),
                value,
            ));
        }
        let session = session::current();
        Ok(Row {
            stem: self.stem.clone(),
            claim: self.text.clone(),
            paper: self.paper.clone(),
            where_: self.where_.clone(),
            kind: self.kind,
            expected: self.expected.to_string(),
            value,
            low: interval.low,
            high: interval.high,
            unit: self.unit.clone(),
            verdict: self.judge(interval),
            config: config_hash(self, &session.params)?,
            commit: origin::commit(&session::root()),
            machine: origin::machine(),
            date: origin::today(),
            notebook: session.notebook.clone().unwrap_or_default(),
        })
    }
}

impl Row {
    /// Whether the row can have come from [`Claim::measure`]: finite numbers in order, and a verdict that follows from them as far as
    /// a row can tell ("no effect" is not in it).
    pub(super) fn check(&self) -> Result<()> {
        let interval = Interval::new(self.low, self.high)?;
        if !interval.contains(self.value) {
            let expected = format!("within {interval}");
            return Err(Error::argument("value", expected, self.value));
        }
        let expected: Expected = self.expected.parse()?;
        let follows = match (expected.holds_for(interval), self.kind, self.verdict) {
            (true, _, verdict) => verdict == Verdict::Reproduced,
            (false, Kind::Exact, verdict) => verdict == Verdict::Refuted,
            (false, _, verdict) => verdict != Verdict::Reproduced,
        };
        match follows {
            true => Ok(()),
            false => {
                let rule = format!("the verdict that follows from {interval} and {expected}");
                Err(Error::argument("verdict", rule, self.verdict))
            }
        }
    }
}

fn config_hash(claim: &Claim, params: &impl Serialize) -> Result<String> {
    let json = serde_json::to_vec(&(claim, params)).map_err(|source| Error::Json {
        context: format!("claim {:?}", claim.text),
        source,
    })?;
    let digest = Sha256::digest(&json);
    Ok(digest[..6].iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::eval) fn claim(stem: &str, text: &str) -> Claim {
        Claim::new(stem, text)
            .source("bennett1948", "eq. 1.6")
            .expect(
                Expected::Near {
                    value: 6.02,
                    tolerance: 0.1,
                },
                "dB",
            )
    }

    pub(in crate::eval) fn row(stem: &str, text: &str, value: f64) -> Row {
        let interval = Interval::new(value - 0.01, value + 0.01).unwrap();
        claim(stem, text).row(value, interval).unwrap()
    }

    #[test]
    fn incomplete_claims_and_impossible_numbers_are_refused() {
        let six = Interval::exact(6.0);
        let refuses = |claim: Claim, value: f64, interval: Interval, says: &str| {
            let error = claim.row(value, interval).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        refuses(claim("", "x"), 6.0, six, "stem");
        refuses(claim("a/b", "x").source("", ""), 6.0, six, "source");
        refuses(Claim::new("a/b", "x").source("p", ""), 6.0, six, "unit");
        refuses(claim("a/b", "x"), 7.0, six, "within");
        refuses(claim("a/b", "x"), f64::NAN, six, "within");
        refuses(
            claim("a/b", "x"),
            6.0,
            Interval {
                low: 7.0,
                high: 5.0,
            },
            "low ≤ high",
        );
        refuses(
            claim("a/b", "x").expect(Expected::AtMost(f64::NAN), "dB"),
            6.0,
            six,
            "finite",
        );
    }

    #[test]
    fn the_configuration_is_part_of_the_record() -> Result<()> {
        let base = config_hash(&claim("a/b", "x"), &[("bits", 4)])?;
        assert_eq!(base, config_hash(&claim("a/b", "x"), &[("bits", 4)])?);
        assert_ne!(base, config_hash(&claim("a/b", "x"), &[("bits", 3)])?);
        assert_ne!(base, config_hash(&claim("a/b", "y"), &[("bits", 4)])?);
        Ok(())
    }
}
