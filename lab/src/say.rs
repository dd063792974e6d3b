//! Standard output whose reader may leave: `cargo lab ledger --json | head -1`.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

/// Prints a line. A reader that is gone has what it wanted.
///
/// # Errors
/// If standard output cannot be written for another reason (a full disk).
pub fn say(line: impl Display) -> Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.context("write to standard output"),
    }
}
