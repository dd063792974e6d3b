//! The ledger: one CSV file, one row a claim, everything needed to repeat the measurement.
//!
//! `ledger.csv` under [`session::results_dir`] is replaced as a whole — written beside, then renamed — under a file
//! lock, so that several kernels may record at once and a killed one leaves the old file. A row replaces the row of
//! the same stem and claim.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::claim::{Claim, Expected, Kind, Verdict};
use super::origin;
use super::stats::Interval;
use crate::{Error, Result, session};

/// MIME type under which a live kernel receives a recorded claim; one JSON object, see [`Row`].
pub const MIME: &str = "application/vnd.llmkit.claim+json";

/// The columns, as [`Row`] is written.
const COLUMNS: [&str; 16] = [
    "stem", "claim", "paper", "where", "kind", "expected", "value", "low", "high", "unit",
    "verdict", "config", "commit", "machine", "date", "notebook",
];

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

/// A ledger file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    path: PathBuf,
}

impl Ledger {
    /// The ledger of the running session, `<results>/ledger.csv`.
    pub fn of_session() -> Ledger {
        Ledger::at(session::results_dir().join("ledger.csv"))
    }

    /// The ledger at `path`, which need not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Ledger {
        Ledger { path: path.into() }
    }

    /// All rows, in the order of stems and claims; none if the file does not exist.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] naming the first row that is not one.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &self.path)(error)),
        };
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let head = reader.headers().map_err(|error| self.malformed(&error))?;
        if !bytes.is_empty() && head != COLUMNS.as_slice() {
            return Err(self.malformed(&format!("columns {head:?}")));
        }
        reader
            .deserialize()
            .collect::<Result<Vec<Row>, csv::Error>>()
            .map_err(|error| self.malformed(&error))
    }

    /// Writes `row`, replacing the row of the same stem and claim and keeping all others.
    ///
    /// # Errors
    /// Those of [`Ledger::rows`]; [`Error::Io`] if the file cannot be written. The old file is intact then.
    pub fn record(&self, row: &Row) -> Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(Error::io("create directory", directory))?;
        // The lock is a file of its own: the ledger itself is renamed away under those who wait.
        let lock_path = directory.join(".ledger.lock");
        let lock = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
        lock.lock().map_err(Error::io("lock", &lock_path))?;

        let mut rows = self.rows()?;
        rows.retain(|old| (&old.stem, &old.claim) != (&row.stem, &row.claim));
        rows.push(row.clone());
        // Sorted, so that the same claims give the same file in any order of notebooks.
        rows.sort_by(|a, b| (&a.stem, &a.claim).cmp(&(&b.stem, &b.claim)));

        let mut file = tempfile::NamedTempFile::new_in(directory)
            .map_err(Error::io("create a file in", directory))?;
        let mut writer = csv::Writer::from_writer(&mut file);
        for row in &rows {
            writer
                .serialize(row)
                .map_err(|error| self.malformed(&error))?;
        }
        writer.flush().map_err(Error::io("write", &self.path))?;
        drop(writer);
        file.as_file()
            .sync_all()
            .map_err(Error::io("write", &self.path))?;
        readable_by_all(file.as_file()).map_err(Error::io("write", &self.path))?;
        file.persist(&self.path)
            .map_err(|error| Error::io("write", &self.path)(error.error))?;
        Ok(())
    }

    fn malformed(&self, error: &dyn std::fmt::Display) -> Error {
        Error::Format {
            file: self.path.display().to_string(),
            expected: "rows of the ledger".into(),
            got: error.to_string(),
        }
    }
}

/// A temporary file is private; the ledger is a file like any other.
fn readable_by_all(file: &File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    let _ = file;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(stem: &str, text: &str) -> Claim {
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

    fn row(stem: &str, text: &str, value: f64) -> Row {
        let interval = Interval::new(value - 0.01, value + 0.01).unwrap();
        claim(stem, text).row(value, interval).unwrap()
    }

    #[test]
    fn rows_survive_the_file_and_replace_their_own_kind_only() -> Result<()> {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(directory.path().join("deep/ledger.csv"));
        assert_eq!(ledger.rows()?, []);
        let nasty = "commas, \"quotes\", lines\nand ± signs";
        for row in [
            row("quant/rtn", nasty, 6.02),
            row("quant/gptq", "b", 1.0 / 3.0),
            row("quant/rtn", "c", 6.02),
        ] {
            ledger.record(&row)?;
        }
        let replaced = row("quant/rtn", nasty, 5.0);
        assert_eq!(replaced.verdict, Verdict::ShapeOnly);
        ledger.record(&replaced)?;
        let rows = ledger.rows()?;
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].value, 1.0 / 3.0, "every digit is kept");
        assert!(rows.contains(&replaced));
        let left: Vec<_> = fs::read_dir(directory.path().join("deep"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(
            left.len(),
            2,
            "the ledger and its lock, no debris: {left:?}"
        );
        Ok(())
    }

    #[test]
    fn concurrent_writers_lose_nothing() -> Result<()> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.csv");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    for i in 0..5 {
                        let row = row(&format!("quant/w{writer}"), &format!("claim {i}"), 6.0);
                        Ledger::at(path).record(&row).unwrap();
                    }
                });
            }
        });
        assert_eq!(Ledger::at(&path).rows()?.len(), 40);
        Ok(())
    }

    #[test]
    fn a_file_that_is_no_ledger_is_named_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.csv");
        for content in [
            "stem,claim\nonly,two\n",
            "\u{0}\u{1}",
            "stem\n\"unterminated",
        ] {
            fs::write(&path, content).unwrap();
            let error = Ledger::at(&path).record(&row("a/b", "c", 6.0)).unwrap_err();
            assert!(error.to_string().contains("ledger.csv"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        fs::write(&path, "").unwrap();
        assert_eq!(
            Ledger::at(&path).rows().unwrap(),
            [],
            "an empty file is an empty ledger"
        );
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
