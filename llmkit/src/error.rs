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
}
