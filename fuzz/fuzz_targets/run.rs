//! How a target runs: libFuzzer's own hook aborts in every panic, also in those that llmkit catches where another's library reads an
//! untrusted file and answers with an error.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::{Mutex, Once, PoisonError};

use super::entry::Entry;

/// What the last panic said, and where.
static SAID: Mutex<String> = Mutex::new(String::new());
static HOOK: Once = Once::new();

/// Calls `entry`; a panic that comes out of it ends the process, and libFuzzer keeps the input.
pub fn run(entry: Entry, bytes: &[u8]) {
    HOOK.call_once(|| {
        set_hook(Box::new(|panic| {
            *SAID.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
        }));
    });
    // An error is a fine answer.
    if catch_unwind(AssertUnwindSafe(|| entry(bytes))).is_err() {
        eprintln!("{}", SAID.lock().unwrap_or_else(PoisonError::into_inner));
        std::process::abort();
    }
}
