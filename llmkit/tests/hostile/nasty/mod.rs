//! Nasty files, one by one: each is refused with an error that names the file and the place, or loads and behaves.

mod activations;
mod folder;
mod gguf;
mod gguf_model;
mod ledger;
mod template;

use llmkit::Result;

/// Asserts that `run` refuses `bytes` in words that contain each of `words`.
fn refused(what: &str, run: fn(&[u8]) -> Result<()>, bytes: &[u8], words: &[&str]) {
    match run(bytes) {
        Ok(()) => panic!("{what} is accepted"),
        Err(error) => {
            let said = error.to_string();
            for word in words {
                assert!(said.contains(word), "{what}: no {word:?} in: {said}");
            }
            // A message is to be read: no dump of the whole file.
            assert!(said.len() < 1000, "{what}: {} characters", said.len());
        }
    }
}
