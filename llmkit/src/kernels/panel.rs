//! Matrices laid out for the kernels: panels of 16 rows, a 64-byte line for each 4-byte word of K.
//!
//! A *word* is as many consecutive elements of a row as 4 bytes hold: one f32, two bf16, four bytes. A [`Line`] holds the same
//! word of 16 consecutive rows, one a lane. The lines of a panel follow each other along K, so a kernel reads memory
//! straight through, broadcasts a word of the input and has 16 outputs at once, without a sum across lanes at the end. It is also
//! the order in which matrix units (AMX) want their second operand.
//!
//! Rows that fill the last panel up, and elements that fill the last word, are zero.

use rayon::prelude::*;

use super::pages::Pages;

/// Rows in a panel: the 4-byte lanes of a 64-byte register.
pub const LANES: usize = 16;

/// What a word holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// One f32.
    F32,
    /// Two bf16, the first in the low half.
    Bf16,
}

impl Element {
    /// The name in tables: `f32`, `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::Bf16 => "bf16",
        }
    }

    /// Elements in a word.
    pub const fn per_word(self) -> usize {
        match self {
            Element::F32 => 1,
            Element::Bf16 => 2,
        }
    }

    /// Words of `count` elements, the last one filled up.
    pub const fn words(self, count: usize) -> usize {
        count.div_ceil(self.per_word())
    }

    /// Element `index` of a word.
    pub fn of_word(self, word: u32, index: usize) -> f32 {
        match self {
            Element::F32 => f32::from_bits(word),
            Element::Bf16 => bf16_value((word >> (16 * index)) as u16),
        }
    }
}

/// Two values rounded to bf16, as they share a word.
#[inline(always)]
pub fn bf16_pair(low: f32, high: f32) -> u32 {
    u32::from(bf16_bits(low)) | u32::from(bf16_bits(high)) << 16
}

/// One word of 16 rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line(pub [u32; LANES]);

impl Line {
    /// All zeros.
    pub const ZERO: Line = Line([0; LANES]);
}

const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == 64);

/// A matrix (N rows, some words a row) in panels.
#[derive(Debug, Clone, PartialEq)]
pub struct Panels {
    rows: usize,
    words: usize,
    lines: Pages<Line>,
}

impl Panels {
    /// Lays out a matrix of `rows` × `words`, whose words `word(row, at)` gives. Work is spread over all cores.
    pub fn pack(rows: usize, words: usize, word: impl Fn(usize, usize) -> u32 + Sync) -> Panels {
        // Line by line and not lane by lane: memory is written once, and its new pages are made by all threads.
        let lines = Pages::new(rows.div_ceil(LANES) * words, |lines| {
            let lines = lines.par_iter_mut().with_min_len(1024).enumerate();
            lines.for_each(|(at, line)| {
                let (panel, at) = (at / words, at % words);
                *line = Line(std::array::from_fn(|lane| {
                    let row = panel * LANES + lane;
                    if row < rows { word(row, at) } else { 0 }
                }));
            });
        });
        Panels { rows, words, lines }
    }

    /// A matrix (N, K) of f32, row-major. `values` must be a whole number of rows.
    pub fn of_f32(values: &[f32], columns: usize) -> Panels {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        Panels::pack(rows, columns, |row, at| {
            values[row * columns + at].to_bits()
        })
    }

    /// A matrix (N, K) of f32, row-major, rounded to bf16.
    pub fn of_bf16(values: &[f32], columns: usize) -> Panels {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        Panels::pack(rows, columns.div_ceil(2), |row, at| {
            let high = match 2 * at + 1 < columns {
                true => values[row * columns + 2 * at + 1],
                false => 0.0,
            };
            bf16_pair(values[row * columns + 2 * at], high)
        })
    }

    /// Rows, N.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Words in a row.
    pub fn words(&self) -> usize {
        self.words
    }

    /// Panels.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// All lines, panel after panel.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Word `at` of `row`.
    pub fn word(&self, row: usize, at: usize) -> u32 {
        self.lines[row / LANES * self.words + at].0[row % LANES]
    }

    /// Bytes in memory, padding included.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }
}

/// The bits of `value` rounded to bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    if is_nan {
        (bits >> 16) as u16 | 0x40
    } else {
        rounded
    }
}

/// The value of bf16 bits.
#[inline(always)]
pub fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_where_they_were_put_and_padding_is_zero() {
        for (rows, words) in [(1, 1), (16, 3), (17, 2), (40, 5), (0, 4), (4, 0)] {
            let panels = Panels::pack(rows, words, |row, at| (row * 1000 + at + 1) as u32);
            for row in 0..rows {
                for at in 0..words {
                    assert_eq!(panels.word(row, at), (row * 1000 + at + 1) as u32);
                }
            }
            let filled = panels.lines.iter().flat_map(|it| it.0);
            assert_eq!(filled.filter(|&it| it != 0).count(), rows * words);
        }
    }

    #[test]
    fn bf16_is_rounded_as_the_half_crate_does() {
        let odd = [
            0.0,
            -0.0,
            1.0,
            1.003_906_2,
            1.011_718_8,
            3.4e38,
            f32::INFINITY,
        ];
        let more = (0..100_000u32).map(|it| f32::from_bits(it.wrapping_mul(42_949)));
        for value in odd.into_iter().chain(more) {
            let expected = half::bf16::from_f32(value);
            let got = bf16_bits(value);
            if expected.is_nan() {
                assert!(bf16_value(got).is_nan());
            } else {
                assert_eq!(got, expected.to_bits(), "{value}");
            }
        }
    }

    #[test]
    fn an_odd_last_element_shares_its_word_with_zero() {
        let panels = Panels::of_bf16(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3);
        assert_eq!((panels.rows(), panels.words()), (2, 2));
        assert_eq!(panels.word(1, 1), 0x40c0);
    }
}
