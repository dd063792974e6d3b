//! A ledger of claims.
#![no_main]

#[allow(dead_code)]
#[path = "../../llmkit/tests/hostile/entry.rs"]
mod entry;
mod run;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run::run(entry::ledger, bytes));
