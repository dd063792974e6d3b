//! Inputs of integer kernels: rounded to 8 bits in groups.

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::marker::PhantomData;
use std::slice::from_raw_parts_mut;

use crate::kernels::activation::tree;
use crate::kernels::aligned::Aligned;
use crate::kernels::isa::{Isa, vectorizable, vectorized};
use crate::kernels::panel::LANES;
use crate::kernels::rows::Rows;
use crate::kernels::team::Team;

use super::panels::CHUNK;

/// An input (T, K) rounded to 8 bits in groups: symmetric, largest magnitude to 127, ties to even.
#[derive(Debug, Clone, Default)]
pub struct Bytes {
    pub(super) tokens: usize,
    pub(super) columns: usize,
    pub(super) group: usize,
    /// (T, K padded to whole chunks / 4), from a cache line on: a matrix unit loads 32 bytes of a row at a time.
    lines: Aligned,
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
        out.round_from(isa, Rows::Values(x), columns, group, team);
        out
    }

    /// As [`round`](Self::round), to whole numbers −`most` … `most` (1 … 127) with the scales that `rule` says.
    ///
    /// # Panics
    /// If `most` is not one of these.
    pub fn round_by(
        isa: Isa,
        (x, columns): (&[f32], usize),
        group: usize,
        (most, rule): (u8, Scale),
        team: &Team,
    ) -> Bytes {
        assert!((1..=127).contains(&most), "1 to 127, not {most}");
        let mut out = Bytes::default();
        let x = Rows::Values(x);
        out.fill(isa, (x, columns), group, (f32::from(most), rule), team);
        out
    }

    /// As [`round`](Self::round), into memory that is there already.
    pub fn round_from(&mut self, isa: Isa, x: Rows<'_>, columns: usize, group: usize, team: &Team) {
        self.fill(isa, (x, columns), group, (127.0, Scale::OfGroup), team);
    }

    fn fill(
        &mut self,
        isa: Isa,
        (x, columns): (Rows<'_>, usize),
        group: usize,
        (most, rule): (f32, Scale),
        team: &Team,
    ) {
        let tokens = x.len().checked_div(columns).unwrap_or(0);
        let groups = self.begin(tokens, columns, group);
        // Four rows at a time.
        team.tasks(tokens.div_ceil(4), &|part| {
            for index in part * 4..tokens.min((part + 1) * 4) {
                x.row(isa, columns, index, |x| {
                    // SAFETY: each row is written once.
                    unsafe { groups.put(isa, (index, 0), x, rule, most) };
                });
            }
        });
    }

    /// Makes room for (T, `columns`), to be written group by group.
    pub(super) fn begin(&mut self, tokens: usize, columns: usize, group: usize) -> Groups<'_> {
        let padded = columns.next_multiple_of(CHUNK);
        let group = group.min(padded).max(CHUNK);
        let groups = padded.div_ceil(group);
        (self.tokens, self.columns, self.group) = (tokens, columns, group);
        self.scales.resize(tokens * groups, 0.0);
        self.sums.resize(tokens * groups, 0);
        Groups {
            words: self.lines.words_mut(tokens * padded / 4).as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
            tokens,
            columns,
            group,
            of: PhantomData,
        }
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

    /// All values (T, K).
    pub fn values(&self) -> Vec<f32> {
        let (words, groups) = match self.tokens {
            0 => return Vec::new(),
            tokens => (self.row_words(), self.scales.len() / tokens),
        };
        let mut out = Vec::with_capacity(self.tokens * self.columns);
        let rows = self.words().chunks_exact(words);
        for (row, scales) in rows.zip(self.scales.chunks_exact(groups)) {
            let parts = row.chunks(self.group / 4).zip(scales);
            let start = out.len();
            for (words, scale) in parts {
                let bytes = words.iter().flat_map(|it| it.to_le_bytes());
                out.extend(bytes.map(|it| f32::from(it as i8) * scale));
            }
            out.truncate(start + self.columns);
        }
        out
    }

    /// Of a row.
    fn row_words(&self) -> usize {
        self.columns.next_multiple_of(CHUNK) / 4
    }

    /// (T, K padded to whole chunks / 4).
    pub(super) fn words(&self) -> &[u32] {
        &self.lines.words()[..self.tokens * self.row_words()]
    }

    /// Σ q of each group (T, groups).
    #[cfg(test)]
    pub(in crate::kernels) fn sums_of_groups(&self) -> Vec<i32> {
        self.sums.clone()
    }

    pub(in crate::kernels) fn code(&self, token: usize, column: usize) -> i8 {
        let word = self.words()[token * self.row_words() + column / 4];
        word.to_le_bytes()[column % 4] as i8
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        let shape = |it: &Bytes| (it.tokens, it.columns, it.group);
        shape(self) == shape(other)
            && self.words() == other.words()
            && self.scales == other.scales
            && self.sums == other.sums
    }
}

/// Where groups of an input are written, by several threads.
pub(super) struct Groups<'a> {
    /// As of [`Bytes`].
    words: *mut u32,
    scales: *mut f32,
    sums: *mut i32,
    tokens: usize,
    columns: usize,
    group: usize,
    of: PhantomData<&'a mut Bytes>,
}

// SAFETY: it is like a mutable slice, of groups that no two threads write.
unsafe impl Sync for Groups<'_> {}

impl Groups<'_> {
    /// Rounds `x` into the groups of a row from some column on, the first of a group; whole groups, or what there is up to the row's end.
    ///
    /// # Panics
    /// If they are not there.
    ///
    /// # Safety
    /// No other thread writes or reads these.
    pub(super) unsafe fn put(
        &self,
        isa: Isa,
        (row, column): (usize, usize),
        x: &[f32],
        rule: Scale,
        most: f32,
    ) {
        let (end, group) = (column + x.len(), self.group);
        let is_whole = end == self.columns || end.is_multiple_of(group);
        assert!(
            row < self.tokens && end <= self.columns && column.is_multiple_of(group) && is_whole,
            "columns {column} to {end} of row {row}"
        );
        let padded = self.columns.next_multiple_of(CHUNK);
        let words = row * padded + column..row * padded + end.next_multiple_of(CHUNK);
        let first = row * padded.div_ceil(group) + column / group;
        let groups = x.len().div_ceil(group);
        // SAFETY: the row and these of its columns are there, and nobody else is at them.
        let row = unsafe {
            Row {
                x,
                words: from_raw_parts_mut(self.words.add(words.start / 4), words.len() / 4),
                scales: from_raw_parts_mut(self.scales.add(first), groups),
                sums: from_raw_parts_mut(self.sums.add(first), groups),
            }
        };
        round(isa, row, group, (rule, most));
    }
}

/// Adding and subtracting it rounds a number below 2²² to a whole one, ties to even, without a call.
const ROUNDER: f32 = 12_582_912.0;

/// Which scale inputs are rounded with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// Largest magnitude of the group to the largest code.
    OfGroup,
    /// Largest magnitude of the row, the same for all of its groups.
    OfRow,
    /// This one; what lies beyond the largest code is cut to it.
    Fixed(f32),
}

/// A row and what becomes of it.
struct Row<'a> {
    x: &'a [f32],
    words: &'a mut [u32],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
}

fn round(isa: Isa, row: Row<'_>, group: usize, (rule, most): (Scale, f32)) {
    #[cfg(target_arch = "x86_64")]
    if isa.checked() >= Isa::Avx512
        && group == CHUNK
        && rule == Scale::OfGroup
        && row.x.len().is_multiple_of(CHUNK)
    {
        // SAFETY: `checked` has seen it.
        return unsafe { avx512::round_groups(row, most) };
    }
    vectorized(isa, RoundRow, (row, group, rule, most));
}

vectorizable!(RoundRow<'a>: round_row, (Row<'a>, usize, Scale, f32) => ());

#[inline(always)]
fn round_row((row, group, rule, most): (Row<'_>, usize, Scale, f32)) {
    let words = row.words.chunks_mut(group / 4);
    let outputs = words.zip(row.scales).zip(row.sums);
    let shared = match rule {
        Scale::OfGroup => None,
        Scale::OfRow => Some(scale_of(largest(row.x), most)),
        Scale::Fixed(scale) => Some(match largest(row.x).is_finite() {
            true => (scale, inverse_of(scale, 1.0)),
            false => (f32::NAN, 0.0),
        }),
    };
    for (x, ((words, scale), sum)) in row.x.chunks(group).zip(outputs) {
        let (own, inverse) = match shared {
            None => scale_of(largest(x), most),
            Some(shared) => shared,
        };
        *scale = own;
        *sum = match rule {
            Scale::Fixed(_) => codes::<true>(x, words, inverse, most),
            Scale::OfGroup | Scale::OfRow => codes::<false>(x, words, inverse, most),
        };
    }
}

/// Bits of the largest magnitude. Magnitudes are ordered as their bits, infinity and NaN above all numbers: a maximum of floats would
/// pass a NaN by.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let magnitude = |x: f32| x.to_bits() & 0x7fff_ffff;
    // Whole chunks for themselves: the compiler knows how many there are.
    let (chunks, rest) = x.as_chunks::<CHUNK>();
    let mut top = 0;
    for chunk in chunks {
        for &x in chunk {
            top = magnitude(x).max(top);
        }
    }
    for &x in rest {
        top = magnitude(x).max(top);
    }
    f32::from_bits(top)
}

/// The scale that takes `top` to `most`, and what values are multiplied by.
#[inline(always)]
fn scale_of(top: f32, most: f32) -> (f32, f32) {
    match top.is_finite() {
        true => (top / most, inverse_of(top, most)),
        false => (f32::NAN, 0.0),
    }
}

/// `most` / `top`; zero for a top so small that this overflows, and for none.
#[inline(always)]
fn inverse_of(top: f32, most: f32) -> f32 {
    let inverse = most / top;
    if top > 0.0 && inverse.is_finite() {
        inverse
    } else {
        0.0
    }
}

/// Writes the codes of x · inverse; returns their sum. Those beyond `most` are cut to it if `CUTS`.
#[inline(always)]
fn codes<const CUTS: bool>(x: &[f32], words: &mut [u32], inverse: f32, most: f32) -> i32 {
    let code = |x: f32| {
        let x = x * inverse;
        // A maximum with NaN would be a number: what is none stays none, and its scale is none, too.
        let x = if CUTS { x.clamp(-most, most) } else { x };
        (x + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()) as i32
    };
    let mut sums = [0i32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (whole, ends) = words.split_at_mut(chunks.len() * LANES / 4);
    let quads = whole.as_chunks_mut::<{ LANES / 4 }>().0;
    for (chunk, words) in chunks.iter().zip(quads) {
        let codes: [i32; LANES] = std::array::from_fn(|i| code(chunk[i]));
        for (sum, code) in sums.iter_mut().zip(codes) {
            *sum = sum.wrapping_add(code);
        }
        let bytes: [u8; LANES] = std::array::from_fn(|i| codes[i] as u8);
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
    }
    let mut sum = tree(sums, i32::wrapping_add);
    ends.fill(0);
    for (i, &x) in rest.iter().enumerate() {
        sum = sum.wrapping_add(code(x));
        ends[i / 4] |= (code(x) as u32 & 255) << (8 * (i % 4));
    }
    sum
}
