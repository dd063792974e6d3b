//! What every format and every method promises, run over all of them.

mod format;
mod method;
