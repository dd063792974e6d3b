//! A matrix of codes as the integer kernels want it.
//!
//! **Storage.** 32 consecutive codes of 16 rows are a *chunk*: as many [`Line`]s as a code has bits. Codes are cut into planes
//! of 8, 4, 2 and 1 bits (3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2), low bits in the first plane; line l of a b-bit plane holds the words
//! l·8/b … of the chunk, the i-th of them at bit i·b of each byte.

use half::f16;
use rayon::prelude::*;

use crate::kernels::pages::Pages;
use crate::kernels::panel::{LANES, Line};

/// Codes in a chunk; groups are whole chunks.
pub const CHUNK: usize = 32;
/// Words in a chunk.
pub(super) const WORDS: usize = CHUNK / 4;

/// What turns codes into values besides the scale.
#[derive(Debug, Clone, PartialEq)]
pub enum Offset {
    /// scale · (code − zero).
    Zero(u8),
    /// scale · code + min, a min for each row and group, in the order of the scales.
    Mins(Pages<[f16; LANES]>),
}

/// A matrix (N, K) of codes, laid out for the kernels.
#[derive(Debug, Clone, PartialEq)]
pub struct IntPanels {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) bits: usize,
    pub(super) group: usize,
    pub(super) lines: Pages<Line>,
    /// Of each panel, for each group, one a row.
    pub(super) scales: Pages<[f16; LANES]>,
    pub(super) offset: Offset,
}

/// Where scales and mins come from: row and group to value.
pub type OfGroup<'a> = &'a (dyn Fn(usize, usize) -> f16 + Sync);

impl IntPanels {
    /// Lays out codes of `bits` bits in groups of `group` along K. `zero_or_min` is the zero-point of all, or the source of mins.
    /// A `group` beyond K is one group a row.
    ///
    /// # Panics
    /// Unless bits is 1 to 8 and the group a multiple of 32 or at least K.
    pub fn pack(
        (rows, columns): (usize, usize),
        bits: usize,
        group: usize,
        code: impl Fn(usize, usize) -> u8 + Sync,
        scale: OfGroup<'_>,
        zero_or_min: Result<u8, OfGroup<'_>>,
    ) -> IntPanels {
        let codes = |row: usize, chunk: usize, out: &mut [u8; CHUNK]| {
            let columns = chunk * CHUNK..columns.min((chunk + 1) * CHUNK);
            out.iter_mut()
                .zip(columns)
                .for_each(|(out, k)| *out = code(row, k));
        };
        IntPanels::pack_chunks((rows, columns), bits, group, codes, scale, zero_or_min)
    }

    /// As [`pack`](Self::pack), from a source that writes the codes of a row's `chunk`-th 32 columns at once (into zeros; those
    /// beyond K stay zero).
    ///
    /// # Panics
    /// As [`pack`](Self::pack).
    pub fn pack_chunks(
        (rows, columns): (usize, usize),
        bits: usize,
        group: usize,
        codes: impl Fn(usize, usize, &mut [u8; CHUNK]) + Sync,
        scale: OfGroup<'_>,
        zero_or_min: Result<u8, OfGroup<'_>>,
    ) -> IntPanels {
        assert!((1..=8).contains(&bits), "1 to 8 bits, not {bits}");
        let group = group.min(columns.next_multiple_of(CHUNK)).max(CHUNK);
        assert!(
            group.is_multiple_of(CHUNK),
            "a group of whole chunks of {CHUNK}, not {group}"
        );
        let chunks = columns.div_ceil(CHUNK);
        let groups = columns.div_ceil(group);
        let panels = rows.div_ceil(LANES);
        let lines = Pages::new(panels * chunks * bits, |lines| {
            let panels = lines.par_chunks_mut((chunks * bits).max(1)).enumerate();
            panels.for_each(|(panel, lines)| {
                for (chunk, lines) in lines.chunks_exact_mut(bits).enumerate() {
                    for lane in 0..LANES.min(rows - panel * LANES) {
                        let mut these = [0; CHUNK];
                        codes(panel * LANES + lane, chunk, &mut these);
                        put(lines, bits, lane, &these);
                    }
                }
            });
        });
        let of_groups = |value: OfGroup<'_>| {
            Pages::new(panels * groups, |all| {
                all.par_iter_mut().enumerate().for_each(|(at, of_panel)| {
                    let row = at / groups * LANES;
                    *of_panel = std::array::from_fn(|lane| match row + lane < rows {
                        true => value(row + lane, at % groups),
                        false => f16::ZERO,
                    });
                });
            })
        };
        IntPanels {
            rows,
            columns,
            bits,
            group,
            lines,
            scales: of_groups(scale),
            offset: match zero_or_min {
                Ok(zero) => Offset::Zero(zero),
                Err(min) => Offset::Mins(of_groups(min)),
            },
        }
    }

    /// Rows, N.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, K.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Columns that share a scale.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Bits in a code.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Groups in a row.
    pub fn groups(&self) -> usize {
        self.columns.div_ceil(self.group)
    }

    pub(super) fn chunks(&self) -> usize {
        self.columns.div_ceil(CHUNK)
    }

    /// −zero, what Σ q of a group counts in its sum; zero where there are mins instead of a zero-point.
    pub(super) fn minus_zero(&self) -> i32 {
        match self.offset {
            Offset::Zero(zero) => -i32::from(zero),
            Offset::Mins(_) => 0,
        }
    }

    /// The values of a row, into `out` (K).
    ///
    /// # Panics
    /// If there is no such row, or `out` is not K long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns, "columns");
        let (panel, lane) = (row / LANES, row % LANES);
        for (chunk, out) in out.chunks_mut(CHUNK).enumerate() {
            let at = panel * self.groups() + chunk * CHUNK / self.group;
            let scale = self.scales[at][lane].to_f64();
            let (zero, min) = match &self.offset {
                Offset::Zero(zero) => (f64::from(*zero), 0.0),
                Offset::Mins(mins) => (0.0, mins[at][lane].to_f64()),
            };
            let first = (panel * self.chunks() + chunk) * self.bits;
            let lines = &self.lines[first..first + self.bits];
            for (word, out) in out.chunks_mut(4).enumerate() {
                let codes = get_four(lines, self.bits, lane, word).to_le_bytes();
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = (scale * (f64::from(code) - zero) + min) as f32;
                }
            }
        }
    }

    /// A row that has a scale or a min that is no finite number.
    pub fn bad_scale(&self) -> Option<usize> {
        let mins = match &self.offset {
            Offset::Zero(_) => &[][..],
            Offset::Mins(mins) => &**mins,
        };
        let groups = self.groups();
        [&*self.scales, mins].into_iter().find_map(|all| {
            let at = all.iter().flatten().position(|it| !it.is_finite())?;
            Some(at / LANES / groups * LANES + at % LANES)
        })
    }

    /// Bytes in memory, padding included.
    pub fn bytes(&self) -> usize {
        let mins = match &self.offset {
            Offset::Zero(_) => 0,
            Offset::Mins(mins) => size_of_val(&**mins),
        };
        size_of_val(&*self.lines) + size_of_val(&*self.scales) + mins
    }

    /// The code of an element.
    pub fn code(&self, row: usize, column: usize) -> u8 {
        let chunk = row / LANES * self.chunks() + column / CHUNK;
        let lines = &self.lines[chunk * self.bits..(chunk + 1) * self.bits];
        let at = column % CHUNK;
        get_four(lines, self.bits, row % LANES, at / 4).to_le_bytes()[at % 4]
    }

    /// An element's value, in f64.
    pub fn value(&self, row: usize, column: usize) -> f64 {
        let at = row / LANES * self.groups() + column / self.group;
        let code = f64::from(self.code(row, column));
        let scale = self.scales[at][row % LANES].to_f64();
        match &self.offset {
            Offset::Zero(zero) => scale * (code - f64::from(*zero)),
            Offset::Mins(mins) => scale * code + mins[at][row % LANES].to_f64(),
        }
    }
}

/// The planes of a code: first bit and width.
fn planes(bits: usize) -> impl Iterator<Item = (usize, usize)> {
    let widths = [8, 4, 2, 1]
        .into_iter()
        .filter(move |width| bits & width != 0);
    widths.scan(0, |first, width| {
        *first += width;
        Some((*first - width, width))
    })
}

/// Writes 32 codes of `bits` bits into their lane of the lines of a chunk.
fn put(lines: &mut [Line], bits: usize, lane: usize, codes: &[u8; CHUNK]) {
    let (words, _) = codes.as_chunks::<4>();
    for (first, width) in planes(bits) {
        // The part of a code that the plane holds, in each of a word's four bytes.
        let mask = 0x0101_0101 * ((1u32 << width) - 1);
        for (line, words) in words.chunks_exact(8 / width).enumerate() {
            let parts = words.iter().enumerate().map(|(i, word)| {
                let part = u32::from_le_bytes(*word) >> first & mask;
                part << (i * width)
            });
            lines[first + line].0[lane] = parts.fold(0, |all, part| all | part);
        }
    }
}

/// The `word`-th four codes of a chunk's lane, a byte each.
fn get_four(lines: &[Line], bits: usize, lane: usize, word: usize) -> u32 {
    planes(bits).fold(0, |all, (first, width)| {
        let in_line = 8 / width;
        let mask = 0x0101_0101 * ((1u32 << width) - 1);
        let part = lines[first + word / in_line].0[lane] >> (word % in_line * width) & mask;
        all | part << first
    })
}
