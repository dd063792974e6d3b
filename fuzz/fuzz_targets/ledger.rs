//! A ledger of claims.
#![no_main]

#[allow(dead_code)]
#[path = "../../llmkit/tests/hostile/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // An error is a fine answer.
    let _ = entry::ledger(bytes);
});
