//! Saving a figure: pictures, data, specification, and a line in the manifest.

use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::manifest::{self, Entry, FileEntry};
use super::spec::Figure;
use crate::{Error, Result, session};

/// Begins the names of files that are being written.
const UNFINISHED: &str = ".llmkit-unfinished-";

/// What [`Figure::save`] wrote.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The figure's stem: `quant/gptq`.
    pub stem: String,
    /// The files, in the order svg, pdf, png, csv, json.
    pub files: Vec<PathBuf>,
    /// Size on paper in inches: width, height.
    pub inches: (f64, f64),
    /// What was left out of the drawing.
    pub notes: Vec<String>,
}

impl Figure {
    /// Writes `<figures>/<stem>.{svg,pdf,png,csv,json}` and the manifest's line. The same figure writes the same
    /// bytes; files appear whole or not at all, also when several processes save at once.
    ///
    /// `stem` is one to four parts of letters, digits, `-` and `_` with `/` between: `"quant/gptq"`.
    ///
    /// # Errors
    /// [`Error::Argument`] for another stem; [`Error::Figure`] if it cannot be drawn; [`Error::Io`].
    pub fn save(&self, stem: &str) -> Result<Saved> {
        self.save_under(&session::figures_dir(), stem)
    }

    /// As [`Figure::save`], under the directory `figures` instead of the session's.
    ///
    /// # Errors
    /// As [`Figure::save`].
    pub fn save_under(&self, figures: &Path, stem: &str) -> Result<Saved> {
        check_stem(stem)?;
        let rendered = self.render()?;
        let contents = [
            ("svg", rendered.svg().as_bytes().to_vec()),
            ("pdf", rendered.pdf(self.outline_text)?),
            ("png", rendered.png()?),
            ("csv", self.to_csv()?),
            ("json", self.to_json()?.into_bytes()),
        ];
        let files = contents.iter().map(|(ending, bytes)| {
            let entry = FileEntry {
                sha256: Sha256::digest(bytes)
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect(),
                bytes: bytes.len() as u64,
            };
            ((*ending).to_owned(), entry)
        });
        let entry = Entry::now(self, files.collect(), rendered.inches);

        std::fs::create_dir_all(figures).map_err(Error::io("create directory", figures))?;
        let _lock = manifest::lock(figures)?;
        let mut written = Vec::new();
        for (ending, bytes) in &contents {
            let path = figures.join(format!("{stem}.{ending}"));
            write_whole(&path, bytes)?;
            written.push(path);
        }
        manifest::record(figures, stem, entry)?;
        Ok(Saved {
            stem: stem.to_owned(),
            files: written,
            inches: rendered.inches,
            notes: rendered.notes,
        })
    }

    /// The specification as JSON, from which [`Figure::from_json`] makes an equal figure.
    ///
    /// # Errors
    /// [`Error::Figure`] if a mistake was made while building the figure.
    pub fn to_json(&self) -> Result<String> {
        super::check::check(self)?;
        let mut json = serde_json::to_string_pretty(self).map_err(|source| Error::Json {
            context: self.name(),
            source,
        })?;
        json = one_line_lists(&json);
        json.push('\n');
        Ok(json)
    }

    /// Reads a specification.
    ///
    /// # Errors
    /// [`Error::Json`] for another form; [`Error::Figure`] if it cannot be drawn.
    pub fn from_json(json: &str) -> Result<Figure> {
        let figure: Figure = serde_json::from_str(json).map_err(|source| Error::Json {
            context: "figure".into(),
            source,
        })?;
        super::check::check(&figure)?;
        Ok(figure)
    }
}

/// Pretty JSON with each list of numbers on one line: short files, readable differences.
fn one_line_lists(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut lines = json.lines().peekable();
    while let Some(line) = lines.next() {
        text.push_str(line);
        if line.ends_with('[') && lines.peek().is_some_and(|next| is_plain_item(next)) {
            for (i, item) in
                std::iter::from_fn(|| lines.next_if(|next| is_plain_item(next))).enumerate()
            {
                text.push_str(if i > 0 { " " } else { "" });
                text.push_str(item.trim());
            }
            if let Some(close) = lines.next_if(|next| next.trim_start().starts_with(']')) {
                text.push_str(close.trim());
            }
        }
        text.push('\n');
    }
    text.trim_end().to_owned()
}

/// A line of a list that holds one number or null.
fn is_plain_item(line: &str) -> bool {
    let item = line.trim().trim_end_matches(',');
    item == "null" || item.parse::<f64>().is_ok()
}

/// Accepts `area/stem`: parts of letters, digits, `-` and `_`.
///
/// # Errors
/// [`Error::Argument`] that says what a stem is.
pub(super) fn check_stem(stem: &str) -> Result<()> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let parts: Vec<&str> = stem.split('/').collect();
    let is_good = parts.len() <= 4
        && stem.len() <= 120
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.chars().all(is_letter))
        && stem != "manifest"
        && parts[0] != "export";
    if is_good {
        return Ok(());
    }
    Err(Error::argument(
        "figure stem",
        "one to four parts of letters, digits, - and _ with / between, such as \"quant/gptq\" (not \"manifest\" or under \"export\")",
        format!("{stem:?}"),
    ))
}

/// Writes a file so that it appears whole, at once; leaves it alone if it has these bytes already.
///
/// # Errors
/// [`Error::Io`] with the path.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(Error::io("create directory", directory))?;
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are private; a figure is as readable as any file (less the umask).
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder
        .tempfile_in(directory)
        .map_err(Error::io("create file in", directory))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.persist(path)
        .map_err(|error| Error::io("write", path)(error.error))?;
    Ok(())
}

/// Removes what a killed process left behind in `directory`. Only under the manifest's lock.
pub(super) fn sweep(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems() {
        for good in ["gptq", "quant/gptq", "a/b/c/d", "quant/int4-g64_v2"] {
            assert!(check_stem(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/abs",
            "../up",
            "a//b",
            "a/../b",
            "a/",
            "ümlaut",
            "a b",
            "a.b",
            "manifest",
            "export/x",
            "a/b/c/d/e",
            "a\\b",
        ] {
            let error = check_stem(bad).unwrap_err().to_string();
            assert!(error.contains("quant/gptq"), "{bad}: {error}");
        }
    }

    #[test]
    fn lists_of_numbers_take_one_line() {
        let json = serde_json::to_string_pretty(
            &serde_json::json!({"a": [1, 2.5, null], "b": [], "c": ["x", 1]}),
        )
        .unwrap();
        let text = one_line_lists(&json);
        assert!(text.contains("\"a\": [1, 2.5, null],"), "{text}");
        let (before, after): (serde_json::Value, serde_json::Value) = (
            serde_json::from_str(&json).unwrap(),
            serde_json::from_str(&text).unwrap(),
        );
        assert_eq!(before, after);
    }
}
