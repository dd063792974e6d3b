//! One error type for the whole crate: each variant is one sentence that says the operation, what was expected
//! and what came, with the file or tensor it concerns.

use std::path::PathBuf;

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in llmkit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("{operation} {path}: {source}", path = path.display())]
    Io {
        /// What was being done, as a verb phrase: "read", "create directory".
        operation: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file's content is not what its format promises.
    #[error("{file}: expected {expected}, got {got}")]
    Format {
        /// The file (and, after a colon, the tensor or field) concerned.
        file: String,
        /// What the format requires.
        expected: String,
        /// What was found.
        got: String,
    },
    /// An argument is outside what the operation accepts.
    #[error("{name}: expected {expected}, got {got}")]
    Argument {
        /// The argument's name as the caller knows it.
        name: String,
        /// What is accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// Two shapes do not fit together.
    #[error("{operation}: expected shape {expected}, got {got}")]
    Shape {
        /// The operation, with the tensor's name where there is one.
        operation: String,
        /// The shape required.
        expected: String,
        /// The shape given.
        got: String,
    },
    /// A name could not be resolved; every place that was looked at is listed.
    #[error("{what} was not found; tried:\n  - {}", tried.join("\n  - "))]
    NotFound {
        /// What was asked for.
        what: String,
        /// Each place looked at, with its answer.
        tried: Vec<String>,
    },
    /// A file's bytes differ from the pinned checksum.
    #[error("{file}: sha256 is {got}, expected {expected}")]
    Checksum {
        /// The file concerned.
        file: String,
        /// The pinned checksum.
        expected: String,
        /// The checksum of the bytes at hand.
        got: String,
    },
    /// An archive was refused: unsafe paths, too large, truncated.
    #[error("archive {archive} refused: {reason}")]
    Archive {
        /// The archive's name.
        archive: String,
        /// Why it was refused.
        reason: String,
    },
    /// A request over the network failed.
    #[error("{url}: {reason}")]
    Network {
        /// The address asked, without credentials.
        url: String,
        /// What happened.
        reason: String,
    },
    /// A figure could not be drawn or written.
    #[error("figure {figure}: {reason}")]
    Figure {
        /// The figure's stem or title.
        figure: String,
        /// What happened.
        reason: String,
    },
    /// The user pressed stop; the operation ended cleanly and variables are intact.
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// The tensor library reported an error.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The tokenizer reported an error.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// JSON could not be read or written.
    #[error("{context}: {source}")]
    Json {
        /// The file or value concerned.
        context: String,
        /// The parser's answer.
        source: serde_json::Error,
    },
    /// The table library reported an error.
    #[cfg(feature = "notebook")]
    #[error("table: {0}")]
    Table(#[from] polars::prelude::PolarsError),
}

impl Error {
    /// An [`Error::Io`] for `operation` on `path`, for use in `map_err`.
    pub fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io {
            operation,
            path,
            source,
        }
    }

    /// An [`Error::Argument`].
    pub fn argument(
        name: impl Into<String>,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Error {
        Error::Argument {
            name: name.into(),
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    /// An [`Error::Argument`] with the `layer` that it happened in; others as they are.
    pub(crate) fn in_layer(self, layer: &str) -> Error {
        match self {
            Error::Argument {
                name,
                expected,
                got,
            } => Error::Argument {
                name: format!("{layer}: {name}"),
                expected,
                got,
            },
            other => other,
        }
    }

    /// What `work` returns: code of another's library on a file that is not trusted. Should it panic, that is a mistake of the file,
    /// an [`Error::Format`] with what was said.
    pub(crate) fn guarded<R>(
        file: impl std::fmt::Display,
        expected: &str,
        work: impl FnOnce() -> R,
    ) -> Result<R> {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        caught.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let said = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Error::Format {
                file: file.to_string(),
                expected: expected.to_owned(),
                got: format!(
                    "one that its reader fails on: {}",
                    said.unwrap_or("no word")
                ),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_library_is_an_error_of_the_file() {
        assert_eq!(Error::guarded("f", "x", || 4).unwrap(), 4);
        let plain: fn() = || panic!("planted");
        let built: fn() = || panic!("planted {}", std::process::id());
        for work in [plain, built] {
            let said = Error::guarded("f", "x", work).unwrap_err().to_string();
            assert!(said.starts_with("f: expected x, got") && said.contains("planted"));
        }
    }
}
