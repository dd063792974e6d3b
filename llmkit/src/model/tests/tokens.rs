//! Token ids of nasty texts. `lab/check_tokens.py` compared the ids behind this hash with other people's tokenizers.

use sha2::{Digest, Sha256};

use super::real::real;

#[path = "../../../examples/tokens/strings.rs"]
mod strings;

/// As many as were compared.
const TEXTS: u64 = 12_000;

#[test]
fn texts_are_the_same_for_ever() {
    // If these change, the hash below is of other texts and has to be compared anew.
    let mut hash = Sha256::new();
    (0..TEXTS).for_each(|number| hash.update(strings::nasty(number)));
    assert_eq!(hex(hash), golden("texts"));
    assert_eq!(strings::nasty(7), strings::nasty(7));
    assert_ne!(strings::nasty(7), strings::nasty(8));
}

#[test]
fn ids_are_those_that_were_compared_and_come_back_as_texts() {
    let Some(model) = real() else { return };
    let mut hash = Sha256::new();
    let mut is_seen = vec![false; model.tokenizer.vocabulary()];
    for number in 0..TEXTS {
        let text = strings::nasty(number);
        let ids = model.encode(&text).unwrap();
        assert_eq!(model.decode(&ids).unwrap(), kept(&text), "text {number}");
        hash.update((ids.len() as u32).to_le_bytes());
        for id in ids {
            hash.update(id.to_le_bytes());
            is_seen[id as usize] = true;
        }
    }
    assert_eq!(hex(hash), golden("ids"));
    // Nasty enough: each of the 17 special tokens, and a good part of the vocabulary.
    assert!(is_seen[..17].iter().all(|it| *it), "{:?}", &is_seen[..17]);
    // Texts and ids are fixed by their hashes, so is this: with other texts the number tells whether they reach as far.
    let seen = is_seen.iter().filter(|it| **it).count();
    assert_eq!(seen, 3699, "of {} tokens", is_seen.len());
}

/// What comes back of a text: all but the bytes for which SmolLM2 has no token.
fn kept(text: &str) -> String {
    let is_kept =
        |byte: &u8| !matches!(byte, 0x04 | 0x06 | 0x13 | 0x14 | 0x16 | 0x1d | 0xf1 | 0xf2);
    let bytes: Vec<u8> = text.bytes().filter(is_kept).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect()
}

fn golden(what: &str) -> &'static str {
    let file = include_str!("../../../../data/golden/tokens.csv");
    let line = file
        .lines()
        .find_map(|line| line.strip_prefix(what)?.strip_prefix(','));
    line.expect("a line of data/golden/tokens.csv")
}
