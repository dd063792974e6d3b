//! The ledger: one CSV file, one row a claim, everything needed to repeat the measurement.
//!
//! `ledger.csv` under [`session::results_dir`] is replaced as a whole — written beside, then renamed — under a file
//! lock, so that several kernels may record at once and a killed one leaves the old file. A row replaces the row of
//! the same stem and claim.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::row::Row;
use crate::{Error, Result, session};

/// MIME type under which a live kernel receives a recorded claim; one JSON object, see [`Row`].
pub const MIME: &str = "application/vnd.llmkit.claim+json";

/// The columns, as [`Row`] is written.
const COLUMNS: [&str; 16] = [
    "stem", "claim", "paper", "where", "kind", "expected", "value", "low", "high", "unit",
    "verdict", "config", "commit", "machine", "date", "notebook",
];

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
        let rows = reader
            .deserialize()
            .collect::<Result<Vec<Row>, csv::Error>>()
            .map_err(|error| self.malformed(&error))?;
        for (at, row) in rows.iter().enumerate() {
            row.check()
                .map_err(|error| self.malformed(&format!("row {}: {error}", at + 1)))?;
        }
        Ok(rows)
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
            // What is no ledger may have lines of any length.
            got: error.to_string().chars().take(300).collect(),
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
    use super::super::Verdict;
    use super::super::row::tests::row;
    use super::*;

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
    fn rows_that_nobody_measured_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.csv");
        let good = row("a/b", "c", 6.0);
        Ledger::at(&path).record(&good).unwrap();
        let sound = fs::read_to_string(&path).unwrap();
        for (from, to, says) in [
            (",6.0,", ",NaN,", "row 1"),
            (",6.01,", ",inf,", "row 1"),
            (",6.0,", ",7.5,", "within"),
            (",6.01,", ",6.01e400,", "row 1"),
            ("6.02 ± 0.1", "soon", "expected"),
            ("Reproduced", "Refuted", "verdict"),
            ("Reproduced", "Excellent", "ledger.csv"),
            ("Distributional", "Hopeful", "ledger.csv"),
        ] {
            assert!(sound.contains(from), "{from} in {sound}");
            fs::write(&path, sound.replacen(from, to, 1)).unwrap();
            let error = Ledger::at(&path).rows().unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
        // Bytes that are no text, and a field of a megabyte, which is only a long claim.
        let mut bytes = sound.clone().into_bytes();
        let at = sound.find("a/b").unwrap();
        bytes[at] = 0xff;
        fs::write(&path, &bytes).unwrap();
        assert!(Ledger::at(&path).rows().is_err());
        fs::write(
            &path,
            sound.replacen(",c,", &format!(",{},", "x".repeat(1 << 20)), 1),
        )
        .unwrap();
        assert_eq!(Ledger::at(&path).rows().unwrap()[0].claim.len(), 1 << 20);
    }
}
