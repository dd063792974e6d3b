//! Inputs of integer kernels: rounded to 8 bits in groups.

use crate::kernels::isa::{Isa, vectorized};
use crate::kernels::panel::LANES;
use crate::kernels::team::Team;

use super::panels::CHUNK;

/// An input (T, K) rounded to 8 bits in groups: symmetric, largest magnitude to 127, ties to even.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bytes {
    pub(super) tokens: usize,
    pub(super) columns: usize,
    pub(super) group: usize,
    /// (T, K padded to whole chunks / 4).
    pub(super) words: Vec<u32>,
    /// (T, groups).
    pub(super) scales: Vec<f32>,
    /// (T, groups): Σ q of the group.
    pub(super) sums: Vec<i32>,
}

impl Bytes {
    /// Rounds `x` (T, `columns`). A group beyond `columns` is one group a row; an input of zeros has scale zero.
    /// A group with a value that is not finite has scale NaN, so that all that depends on it is NaN and seen to be.
    pub fn round(isa: Isa, x: &[f32], columns: usize, group: usize, team: &Team) -> Bytes {
        let mut out = Bytes::default();
        out.round_from(isa, x, columns, group, team);
        out
    }

    /// As [`round`](Self::round), into memory that is there already.
    pub fn round_from(&mut self, isa: Isa, x: &[f32], columns: usize, group: usize, team: &Team) {
        let padded = columns.next_multiple_of(CHUNK);
        let group = group.min(padded).max(CHUNK);
        let (tokens, groups) = (
            x.len().checked_div(columns).unwrap_or(0),
            padded.div_ceil(group),
        );
        (self.tokens, self.columns, self.group) = (tokens, columns, group);
        self.words.resize(tokens * padded / 4, 0);
        self.scales.resize(tokens * groups, 0.0);
        self.sums.resize(tokens * groups, 0);
        if tokens == 0 {
            return;
        }
        let rows = std::sync::Mutex::new(
            x.chunks_exact(columns)
                .zip(self.words.chunks_exact_mut(padded / 4))
                .zip(self.scales.chunks_exact_mut(groups))
                .zip(self.sums.chunks_exact_mut(groups)),
        );
        let parts = if tokens < 4 { 1 } else { team.threads() };
        team.tasks(parts, &|_| {
            loop {
                // Four rows at a time: the lock costs less than a row.
                let taken: Vec<_> = match rows.lock() {
                    Ok(mut rows) => rows.by_ref().take(4).collect(),
                    Err(_) => return,
                };
                if taken.is_empty() {
                    return;
                }
                for (((x, words), scales), sums) in taken {
                    vectorized(isa, || {
                        let words = words.chunks_mut(group / 4);
                        let outputs = words.zip(scales.iter_mut()).zip(sums.iter_mut());
                        for (x, ((words, scale), sum)) in x.chunks(group).zip(outputs) {
                            (*scale, *sum) = round_group(x, words);
                        }
                    });
                }
            }
        });
    }

    /// Rows, T.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns, K.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Columns that share a scale.
    pub fn group(&self) -> usize {
        self.group
    }

    /// An element's value.
    pub fn value(&self, token: usize, column: usize) -> f64 {
        let groups = self.scales.len() / self.tokens;
        let scale = f64::from(self.scales[token * groups + column / self.group]);
        scale * f64::from(self.code(token, column))
    }

    pub(super) fn code(&self, token: usize, column: usize) -> i8 {
        let words = self.words.len() / self.tokens;
        self.words[token * words + column / 4].to_le_bytes()[column % 4] as i8
    }
}

/// Adding and subtracting it rounds a number below 2²² to a whole one, ties to even, without a call.
const ROUNDER: f32 = 12_582_912.0;

#[inline(always)]
fn round_group(x: &[f32], words: &mut [u32]) -> (f32, i32) {
    // Magnitudes are ordered as their bits, infinity and NaN above all numbers: a maximum of floats would pass a NaN by.
    let magnitude = |x: &f32| x.to_bits() & 0x7fff_ffff;
    let mut tops = [0u32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in chunks.by_ref() {
        for (top, x) in tops.iter_mut().zip(chunk) {
            *top = (*top).max(magnitude(x));
        }
    }
    let rest = chunks.remainder().iter().map(magnitude);
    let top = f32::from_bits(tops.into_iter().chain(rest).fold(0, u32::max));
    let (scale, inverse) = if !top.is_finite() {
        (f32::NAN, 0.0)
    } else if top > 0.0 {
        (top / 127.0, 127.0 / top)
    } else {
        (0.0, 0.0)
    };
    // A top so small that 127 / top overflows rounds to zero.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let mut sum = 0;
    let code = |x: f32| {
        (x * inverse + ROUNDER)
            .to_bits()
            .wrapping_sub(ROUNDER.to_bits()) as i32
    };
    let mut quads = x.chunks_exact(4);
    let mut slots = words.iter_mut();
    for (quad, word) in quads.by_ref().zip(slots.by_ref()) {
        let codes: [i32; 4] = std::array::from_fn(|i| code(quad[i]));
        sum = codes
            .iter()
            .fold(sum, |sum: i32, &code| sum.wrapping_add(code));
        *word = (codes[0] as u32 & 255)
            | (codes[1] as u32 & 255) << 8
            | (codes[2] as u32 & 255) << 16
            | (codes[3] as u32 & 255) << 24;
    }
    let mut rest = 0u32;
    for (i, &x) in quads.remainder().iter().enumerate() {
        sum = sum.wrapping_add(code(x));
        rest |= (code(x) as u32 & 255) << (8 * i);
    }
    for word in slots {
        *word = std::mem::take(&mut rest);
    }
    (scale, sum)
}
