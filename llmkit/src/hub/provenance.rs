//! Where the bytes of a loaded model or corpus come from: one line that notebooks print.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a model's weights are stored, and what they were before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// Element type of the original checkpoint: "BF16".
    pub original_dtype: String,
    /// Element type or block format of these files: "BF16", "Q4_1 (embedding Q8_0, norms F32)".
    pub stored_as: String,
    /// Whether bits were lost between the two.
    pub is_quantized: bool,
}

impl Weights {
    /// The checkpoint as published.
    pub fn original(dtype: &str) -> Weights {
        Weights {
            original_dtype: dtype.to_owned(),
            stored_as: dtype.to_owned(),
            is_quantized: false,
        }
    }

    /// A checkpoint of `dtype` rounded to `stored_as`.
    pub fn quantized(dtype: &str, stored_as: &str) -> Weights {
        Weights {
            original_dtype: dtype.to_owned(),
            stored_as: stored_as.to_owned(),
            is_quantized: true,
        }
    }
}

/// Name and checksum of one local file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// File name.
    pub name: String,
    /// sha256 of its bytes, in hexadecimal.
    pub sha256: String,
}

/// Where the bytes at hand come from. [`Display`](fmt::Display) is one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The name asked for.
    pub name: String,
    /// Publisher: "Hugging Face owner/name", "PyPI package", "file".
    pub source: String,
    /// Commit or release; empty if there is none.
    pub revision: String,
    /// The files, the main one first.
    pub files: Vec<FileRecord>,
    /// For models: how the weights are stored.
    pub weights: Option<Weights>,
    /// Licence, as the publisher states it; "unknown" for a user's own file.
    pub licence: String,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} · {}", self.name, self.source)?;
        if !self.revision.is_empty() {
            // A commit is recognised by its first 12 digits.
            let is_commit =
                self.revision.len() == 40 && self.revision.bytes().all(|b| b.is_ascii_hexdigit());
            let shown = if is_commit { 12 } else { self.revision.len() };
            write!(f, " {}", &self.revision[..shown])?;
        }
        if let Some(file) = self.files.first() {
            let digits = file.sha256.get(..12).unwrap_or(&file.sha256);
            write!(f, " · {} sha256 {digits}…", file.name)?;
        }
        match &self.weights {
            Some(w) if w.is_quantized => write!(
                f,
                " · original {}, quantized: {}",
                w.original_dtype, w.stored_as
            )?,
            Some(w) => write!(f, " · {}, not quantized", w.stored_as)?,
            None => {}
        }
        write!(f, " · licence: {}", self.licence)
    }
}

impl Provenance {
    /// Shows the line in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_with_everything() {
        let provenance = Provenance {
            name: "tiny".into(),
            source: "Hugging Face a/b".into(),
            revision: "0123456789abcdef0123456789abcdef01234567".into(),
            files: vec![FileRecord {
                name: "m.gguf".into(),
                sha256: "ab".repeat(32),
            }],
            weights: Some(Weights::quantized("BF16", "Q4_1")),
            licence: "MIT".into(),
        };
        assert_eq!(
            provenance.to_string(),
            "tiny · Hugging Face a/b 0123456789ab · m.gguf sha256 abababababab… · original BF16, quantized: Q4_1 · licence: MIT"
        );
    }

    #[test]
    fn odd_revisions_do_not_panic() {
        let provenance = Provenance {
            name: "n".into(),
            source: "file".into(),
            revision: "é".repeat(20),
            files: vec![],
            weights: None,
            licence: "unknown".into(),
        };
        assert!(provenance.to_string().contains("ééé"));
    }
}
