//! Damage: a mutated copy of a seed, the same for the same number on every machine.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Integers that counts, lengths and offsets should not be.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    7,
    31,
    33,
    127,
    255,
    256,
    65_535,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
    (1 << 62) + 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// What may stand in a text file in place of a value.
const WORDS: [&str; 22] = [
    "0",
    "-1",
    "1",
    "1e999",
    "-1e-999",
    "99999999999999999999",
    "4294967296",
    "9223372036854775808",
    "0.5",
    "NaN",
    "null",
    "true",
    "\"\"",
    "\"x\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "\\ud800",
    "\u{0}",
    "\u{feff}",
    ",",
    "\"",
];

/// Number `index` of the damaged copies of `seeds`.
pub fn mutated(seeds: &[Vec<u8>], index: u64) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(index);
    let mut bytes = match seeds.choose(&mut random) {
        Some(seed) => seed.clone(),
        None => Vec::new(),
    };
    let edits = 1 << random.random_range(0..4);
    for _ in 0..random.random_range(1..=edits) {
        edit(&mut bytes, seeds, &mut random);
    }
    bytes
}

/// A place in `bytes`: anywhere, or, as often, among the first 2,000 bytes, where headers are.
fn place(bytes: &[u8], random: &mut ChaCha8Rng) -> usize {
    let limit = match random.random() {
        true => bytes.len(),
        false => bytes.len().min(2000),
    };
    random.random_range(0..=limit)
}

/// A range of `bytes`, mostly short.
fn range(bytes: &[u8], random: &mut ChaCha8Rng) -> std::ops::Range<usize> {
    let start = place(bytes, random);
    let longest = match random.random_range(0..4) {
        0 => bytes.len(),
        1 => 256,
        _ => 16,
    };
    let length = random.random_range(0..=longest).min(bytes.len() - start);
    start..start + length
}

fn edit(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut ChaCha8Rng) {
    let at = place(bytes, random);
    match random.random_range(0..13) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.random();
            }
        }
        // A number of one to eight bytes, little-endian: a known one, or the one there made a little larger or smaller.
        3..=5 => {
            let width = *[1, 2, 4, 8].choose(random).unwrap_or(&1);
            if let Some(field) = bytes.get_mut(at..at + width) {
                let mut old = [0; 8];
                old[..width].copy_from_slice(field);
                let old = u64::from_le_bytes(old);
                let new = match random.random_range(0..3) {
                    0 => old.wrapping_add(random.random_range(1..40)),
                    1 => old.wrapping_sub(random.random_range(1..40)),
                    _ => *NUMBERS.choose(random).unwrap_or(&0),
                };
                field.copy_from_slice(&new.to_le_bytes()[..width]);
            }
        }
        6 => bytes.truncate(at),
        7 => {
            bytes.drain(range(bytes, random));
        }
        // Twice, or somewhere else.
        8 => {
            let copy = bytes[range(bytes, random)].to_vec();
            bytes.splice(at..at, copy);
        }
        9 => {
            let other = seeds.choose(random).map(Vec::as_slice).unwrap_or_default();
            let piece = other[range(other, random)].to_vec();
            bytes.splice(range(bytes, random), piece);
        }
        // A value of a text: the digits or the word at the place.
        10 | 11 => {
            let is_value = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._".contains(byte);
            let start = at + bytes[at..].iter().take_while(|it| !is_value(it)).count();
            let length = bytes[start..].iter().take_while(|it| is_value(it)).count();
            let word = WORDS.choose(random).unwrap_or(&"");
            bytes.splice(start..start + length, word.bytes());
        }
        _ => {
            let deep = *[b'[', b'{', b'(', b'"', 0xff].choose(random).unwrap_or(&0);
            let count = *[1, 100, 3000].choose(random).unwrap_or(&1);
            bytes.splice(at..at, std::iter::repeat_n(deep, count));
        }
    }
}
