//! Products of an 8-bit input with a matrix of 1- to 8-bit codes in groups: out (T, N) = x (T, K) · Wᵀ.
//!
//! W\[n, k\] = scale\[n, g\] · (code\[n, k\] − zero) or scale\[n, g\] · code\[n, k\] + min\[n, g\], g = k / group; the input is
//! x\[t, k\] = s\[t, g\] · q\[t, k\] with −127 ≤ q ≤ 127. Then
//!
//! out\[t, n\] = Σ_g scale·s · (Σ_k code·q − zero · Σ_k q)   (+ min·s · Σ_k q)
//!
//! The sums over k are whole numbers and exact in i32 on every instruction set; the sum over g is in f32, first group to last, in
//! one lane: as in [`dense`](super::dense) the bits do not depend on T or on how work is split.
//!
//! Codes are unsigned because the processor's byte product (`vpdpbusd`) takes one unsigned operand; the usual correction for signed
//! codes is the Σ q of the formula, computed once with the input.
//!
//! **Storage.** 32 consecutive codes of 16 rows are a *chunk*: as many [`Line`]s as a code has bits. Codes are cut into planes
//! of 8, 4, 2 and 1 bits (3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2), low bits in the first plane; line l of a b-bit plane holds the words
//! l·8/b … of the chunk, the i-th of them at bit i·b of each byte.
//!
//! Cost: 2·T·N·K operations on N·K·bits/8 + 2·N·K/group bytes (twice the latter with mins).

#![allow(unsafe_code)]

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::f16;
use rayon::prelude::*;

use super::dense::{Into, tile_panels, tile_rows};
use super::isa::{Isa, vectorized};
use super::panel::{LANES, Line};
use super::product::{Matrix, Product, multiply_all};
use super::team::Team;

/// Codes in a chunk; groups are whole chunks.
pub const CHUNK: usize = 32;
/// Words in a chunk.
const WORDS: usize = CHUNK / 4;

/// What turns codes into values besides the scale.
#[derive(Debug, Clone, PartialEq)]
pub enum Offset {
    /// scale · (code − zero).
    Zero(u8),
    /// scale · code + min, a min for each row and group, in the order of the scales.
    Mins(Vec<[f16; LANES]>),
}

/// A matrix (N, K) of codes, laid out for the kernels.
#[derive(Debug, Clone, PartialEq)]
pub struct IntPanels {
    rows: usize,
    columns: usize,
    bits: usize,
    group: usize,
    lines: Vec<Line>,
    /// Of each panel, for each group, one a row.
    scales: Vec<[f16; LANES]>,
    offset: Offset,
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
        // Collected in parallel, for the pages of new memory are made by who touches them first.
        let mut lines: Vec<Line> =
            rayon::iter::repeat_n(Line::ZERO, panels * chunks * bits).collect();
        lines
            .par_chunks_mut((chunks * bits).max(1))
            .enumerate()
            .for_each(|(panel, lines)| {
                for (chunk, lines) in lines.chunks_exact_mut(bits).enumerate() {
                    for lane in 0..LANES.min(rows - panel * LANES) {
                        let mut these = [0; CHUNK];
                        codes(panel * LANES + lane, chunk, &mut these);
                        put(lines, bits, lane, &these);
                    }
                }
            });
        let of_groups = |value: OfGroup<'_>| -> Vec<[f16; LANES]> {
            (0..panels * groups)
                .into_par_iter()
                .map(|at| {
                    let row = at / groups * LANES;
                    std::array::from_fn(|lane| match row + lane < rows {
                        true => value(row + lane, at % groups),
                        false => f16::ZERO,
                    })
                })
                .collect()
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

    fn chunks(&self) -> usize {
        self.columns.div_ceil(CHUNK)
    }

    /// A row that has a scale or a min that is no finite number.
    pub fn bad_scale(&self) -> Option<usize> {
        let mins = match &self.offset {
            Offset::Zero(_) => &[][..],
            Offset::Mins(mins) => mins,
        };
        let groups = self.groups();
        [self.scales.as_slice(), mins].into_iter().find_map(|all| {
            let at = all.iter().flatten().position(|it| !it.is_finite())?;
            Some(at / LANES / groups * LANES + at % LANES)
        })
    }

    /// Bytes in memory, padding included.
    pub fn bytes(&self) -> usize {
        let mins = match &self.offset {
            Offset::Zero(_) => 0,
            Offset::Mins(mins) => size_of_val(mins.as_slice()),
        };
        size_of_val(self.lines.as_slice()) + size_of_val(self.scales.as_slice()) + mins
    }

    /// The code of an element.
    pub fn code(&self, row: usize, column: usize) -> u8 {
        let chunk = row / LANES * self.chunks() + column / CHUNK;
        let lines = &self.lines[chunk * self.bits..(chunk + 1) * self.bits];
        get(lines, self.bits, row % LANES, column % CHUNK)
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

fn get(lines: &[Line], bits: usize, lane: usize, at: usize) -> u8 {
    let mut code = 0;
    for (first, width) in planes(bits) {
        let (line, shift) = place(first, width, at);
        let part = lines[line].0[lane] >> shift & ((1 << width) - 1);
        code |= (part as u8) << first;
    }
    code
}

/// Line in the chunk and bit in the lane of the part of a code that a plane holds. (A plane of `width` bits is `width` lines, and the
/// planes before it hold `first` bits, so it begins at line `first`.)
fn place(first: usize, width: usize, at: usize) -> (usize, usize) {
    let (word, byte) = (at / 4, at % 4);
    let in_line = 8 / width;
    (first + word / in_line, 8 * byte + word % in_line * width)
}

/// An input (T, K) rounded to 8 bits in groups: symmetric, largest magnitude to 127, ties to even.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bytes {
    tokens: usize,
    columns: usize,
    group: usize,
    /// (T, K padded to whole chunks / 4).
    words: Vec<u32>,
    /// (T, groups).
    scales: Vec<f32>,
    /// (T, groups): Σ q of the group.
    sums: Vec<i32>,
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

    fn code(&self, token: usize, column: usize) -> i8 {
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

/// out (T, N) = x · Wᵀ on the best instruction set of this machine and all threads of `team`.
///
/// # Panics
/// If `x` has other columns or groups than the matrix, or `out` is not (T, N).
pub fn multiply(x: &Bytes, matrix: &IntPanels, into: Into, out: &mut [f32], team: &Team) {
    multiply_at(Isa::best(), x, matrix, into, out, team);
}

/// [`multiply`] on a given instruction set.
///
/// # Panics
/// As [`multiply`], or if the machine lacks `isa`.
pub fn multiply_at(
    isa: Isa,
    x: &Bytes,
    matrix: &IntPanels,
    into: Into,
    out: &mut [f32],
    team: &Team,
) {
    let product = Product {
        matrix: Matrix::Integer { x, matrix },
        into,
        out,
    };
    multiply_all(isa, &mut [product], team);
}

/// Panels `panels` of all rows of `x` · Wᵀ, into `out` (T, N).
///
/// # Safety
/// * This machine has `isa`, which is not the reference.
/// * `x` has the matrix's columns and groups, `out` is (T, N); nobody else touches these columns of `out` meanwhile.
pub(super) unsafe fn some_panels(
    isa: Isa,
    (x, matrix): (&Bytes, &IntPanels),
    into: Into,
    out: *mut f32,
    panels: Range<usize>,
) {
    let groups = matrix.groups();
    let words = matrix.chunks() * WORDS;
    // As many rows of x as half a second-level cache holds, a whole number of tiles.
    let block = ((1 << 19) / (4 * words.max(1))).next_multiple_of(12);
    let first = panels.start * LANES;
    for start in (0..x.tokens).step_by(block) {
        let job = Job {
            x: x.words[start * words..].as_ptr(),
            x_scales: x.scales[start * groups..].as_ptr(),
            x_sums: x.sums[start * groups..].as_ptr(),
            rows: block.min(x.tokens - start),
            lines: matrix.lines[panels.start * matrix.chunks() * matrix.bits..].as_ptr(),
            scales: matrix.scales[panels.start * groups..].as_ptr(),
            mins: match &matrix.offset {
                Offset::Zero(_) => std::ptr::null(),
                Offset::Mins(mins) => mins[panels.start * groups..].as_ptr(),
            },
            zero: match matrix.offset {
                Offset::Zero(zero) => i32::from(zero),
                Offset::Mins(_) => 0,
            },
            chunks: matrix.chunks(),
            group_chunks: matrix.group / CHUNK,
            groups,
            // SAFETY: inside `out`, as start < T and first < N.
            out: unsafe { out.add(start * matrix.rows + first) },
            out_stride: matrix.rows,
            columns: (panels.end * LANES).min(matrix.rows) - first,
            into,
        };
        // SAFETY: all of these lie inside x, matrix and out; the rest is the caller's.
        unsafe {
            match matrix.bits {
                1 => run::<1>(isa, &job),
                2 => run::<2>(isa, &job),
                3 => run::<3>(isa, &job),
                4 => run::<4>(isa, &job),
                5 => run::<5>(isa, &job),
                6 => run::<6>(isa, &job),
                7 => run::<7>(isa, &job),
                _ => run::<8>(isa, &job),
            }
        }
    }
}

/// A product on raw memory.
#[derive(Clone, Copy)]
struct Job {
    /// (rows, chunks · 8).
    x: *const u32,
    /// (rows, groups).
    x_scales: *const f32,
    x_sums: *const i32,
    rows: usize,
    /// (panels, chunks, bits).
    lines: *const Line,
    /// (panels, groups).
    scales: *const [f16; LANES],
    /// As the scales; null if there are none.
    mins: *const [f16; LANES],
    zero: i32,
    chunks: usize,
    group_chunks: usize,
    groups: usize,
    out: *mut f32,
    out_stride: usize,
    columns: usize,
    into: Into,
}

impl Job {
    /// The job from an input row and an output column (a multiple of 16) on.
    ///
    /// # Safety
    /// Both lie inside.
    unsafe fn at<const BITS: usize>(&self, row: usize, column: usize) -> Job {
        let panel = column / LANES;
        // SAFETY: row < rows and panel < panels.
        unsafe {
            Job {
                x: self.x.add(row * self.chunks * WORDS),
                x_scales: self.x_scales.add(row * self.groups),
                x_sums: self.x_sums.add(row * self.groups),
                lines: self.lines.add(panel * self.chunks * BITS),
                scales: self.scales.add(panel * self.groups),
                mins: match self.mins.is_null() {
                    true => self.mins,
                    false => self.mins.add(panel * self.groups),
                },
                out: self.out.add(row * self.out_stride + column),
                columns: self.columns - column,
                ..*self
            }
        }
    }
}

/// # Safety
/// This machine has `isa`; the job's memory is valid and nobody else touches its output.
unsafe fn run<const BITS: usize>(isa: Isa, job: &Job) {
    // SAFETY: passed on.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::<BITS>(job),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::<BITS>(job),
            _ => unreachable!("the reference is not a tile kernel"),
        }
    }
}

/// Whole numbers in i64, the rest in f64, rounded once.
pub(super) fn reference(x: &Bytes, matrix: &IntPanels, into: Into, out: &mut [f32]) {
    let groups = matrix.groups();
    for (i, out) in out.iter_mut().enumerate() {
        let (token, row) = (i / matrix.rows, i % matrix.rows);
        let mut total = 0.0;
        for g in 0..groups {
            let columns = g * matrix.group..matrix.columns.min((g + 1) * matrix.group);
            let (mut dot, mut sum) = (0i64, 0i64);
            for k in columns {
                let q = i64::from(x.code(token, k));
                dot += q * i64::from(matrix.code(row, k));
                sum += q;
            }
            let at = row / LANES * groups + g;
            let scale = matrix.scales[at][row % LANES].to_f64();
            let x_scale = f64::from(x.scales[token * groups + g]);
            total += x_scale
                * match &matrix.offset {
                    Offset::Zero(zero) => scale * (dot - i64::from(*zero) * sum) as f64,
                    Offset::Mins(mins) => {
                        scale * dot as f64 + mins[at][row % LANES].to_f64() * sum as f64
                    }
                };
        }
        *out = match into {
            Into::Replace => total as f32,
            Into::Add => *out + total as f32,
        };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn avx512<const BITS: usize>(job: &Job) {
    let most = match job.rows {
        0..=2 => 4,
        3..=4 => 2,
        _ => 1,
    };
    let mut column = 0;
    while column < job.columns {
        let panels = tile_panels(job.columns - column, most);
        let mut row = 0;
        while row < job.rows {
            let rows = tile_rows(job.rows - row, 12);
            macro_rules! tiles {
                ($piece:ident: $($m:literal x $($p:literal)*),*) => {
                    match (rows, panels) {
                        $($(($m, $p) => tile512::<BITS, $m, $p>(&$piece),)*)*
                        _ => unreachable!("no tile of {rows} rows and {panels} panels"),
                    }
                };
            }
            // SAFETY: row < rows and column < columns; the piece has these rows and columns that reach into its last panel.
            unsafe {
                let piece = job.at::<BITS>(row, column);
                tiles!(piece: 1 x 1 2 4, 2 x 1 2 4, 3 x 1 2, 4 x 1 2, 5 x 1, 6 x 1, 7 x 1, 8 x 1, 9 x 1, 10 x 1, 11 x 1, 12 x 1);
            }
            row += rows;
        }
        column += panels * LANES;
    }
}

/// Word `j` of the codes of a chunk, 16 rows: a byte a code.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn word512<const BITS: usize>(chunk: *const Line, j: usize) -> __m512i {
    // SAFETY: a chunk has BITS lines, and j < 8.
    unsafe {
        if BITS == 8 {
            return _mm512_load_si512(chunk.wrapping_add(j).cast());
        }
        let mut word = _mm512_setzero_si512();
        let mut first = 0;
        for width in [4, 2, 1] {
            if BITS & width == 0 {
                continue;
            }
            let in_line = 8 / width;
            let line = _mm512_load_si512(chunk.wrapping_add(first + j / in_line).cast());
            let mask = _mm512_set1_epi8(((1 << width) - 1) as i8);
            let from = (j % in_line * width) as i32;
            let part = _mm512_srl_epi32(line, _mm_cvtsi32_si128(from));
            let part = _mm512_and_si512(part, mask);
            word = _mm512_or_si512(
                word,
                _mm512_sll_epi32(part, _mm_cvtsi32_si128(first as i32)),
            );
            first += width;
        }
        word
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile512<const BITS: usize, const M: usize, const P: usize>(job: &Job) {
    let mut totals = [[_mm512_setzero_ps(); P]; M];
    // SAFETY: M rows and P panels lie inside the job; the last panel's columns are masked.
    unsafe {
        let has_mins = !job.mins.is_null();
        // No arithmetic but additions of constants in the loops: their pace is one product a cycle.
        let x: [*const u32; M] =
            std::array::from_fn(|m| job.x.wrapping_add(m * job.chunks * WORDS));
        let lines: [*const Line; P] =
            std::array::from_fn(|p| job.lines.wrapping_add(p * job.chunks * BITS));
        let mut chunk = 0usize;
        for g in 0..job.groups {
            let mut sums = [[_mm512_setzero_si512(); P]; M];
            for (m, sums) in sums.iter_mut().enumerate() {
                let at = m.wrapping_mul(job.groups).wrapping_add(g);
                let correction = job
                    .zero
                    .wrapping_mul(*job.x_sums.wrapping_add(at))
                    .wrapping_neg();
                *sums = [_mm512_set1_epi32(correction); P];
            }
            let end = job.chunks.min((g + 1) * job.group_chunks);
            while chunk < end {
                let (word, line) = (chunk.wrapping_mul(WORDS), chunk.wrapping_mul(BITS));
                for j in 0..WORDS {
                    let codes: [__m512i; P] =
                        std::array::from_fn(|p| word512::<BITS>(lines[p].wrapping_add(line), j));
                    for m in 0..M {
                        let x = _mm512_set1_epi32(*x[m].wrapping_add(word.wrapping_add(j)) as i32);
                        for p in 0..P {
                            sums[m][p] = _mm512_dpbusd_epi32(sums[m][p], codes[p], x);
                        }
                    }
                }
                chunk = chunk.wrapping_add(1);
            }
            for p in 0..P {
                let at = p * job.groups + g;
                let scale = _mm512_cvtph_ps(_mm256_loadu_si256(job.scales.wrapping_add(at).cast()));
                let min = match has_mins {
                    true => _mm512_cvtph_ps(_mm256_loadu_si256(job.mins.wrapping_add(at).cast())),
                    false => _mm512_setzero_ps(),
                };
                for m in 0..M {
                    let at = (m.wrapping_mul(job.groups)).wrapping_add(g);
                    let x_scale = *job.x_scales.wrapping_add(at);
                    let sum = _mm512_cvtepi32_ps(sums[m][p]);
                    let factor = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
                    totals[m][p] = _mm512_fmadd_ps(sum, factor, totals[m][p]);
                    if has_mins {
                        let x_sum = x_scale * *job.x_sums.wrapping_add(at) as f32;
                        totals[m][p] = _mm512_fmadd_ps(min, _mm512_set1_ps(x_sum), totals[m][p]);
                    }
                }
            }
        }
        for (m, totals) in totals.iter().enumerate() {
            for (p, &total) in totals.iter().enumerate() {
                let left = job.columns - p * LANES;
                let mask = if left >= LANES {
                    !0
                } else {
                    (1u16 << left) - 1
                };
                let at = job.out.add(m * job.out_stride + p * LANES);
                let total = match job.into {
                    Into::Replace => total,
                    Into::Add => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), total),
                };
                _mm512_mask_storeu_ps(at, mask, total);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<const BITS: usize>(job: &Job) {
    for column in (0..job.columns).step_by(LANES) {
        let mut row = 0;
        while row < job.rows {
            let rows = tile_rows(job.rows - row, 4);
            // SAFETY: row < rows and column < columns.
            unsafe {
                let piece = job.at::<BITS>(row, column);
                for half in 0..2 {
                    match rows {
                        1 => tile256::<BITS, 1>(&piece, half),
                        2 => tile256::<BITS, 2>(&piece, half),
                        3 => tile256::<BITS, 3>(&piece, half),
                        _ => tile256::<BITS, 4>(&piece, half),
                    }
                }
            }
            row += rows;
        }
    }
}

/// Word `j` of the codes of a chunk, 8 rows (half 0 or 1 of the panel).
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn word256<const BITS: usize>(chunk: *const Line, half: usize, j: usize) -> __m256i {
    // SAFETY: a chunk has BITS lines of two halves, and j < 8.
    unsafe {
        let load = |line: usize| {
            _mm256_load_si256(chunk.wrapping_add(line).wrapping_byte_add(32 * half).cast())
        };
        if BITS == 8 {
            return load(j);
        }
        let mut word = _mm256_setzero_si256();
        let mut first = 0;
        for width in [4, 2, 1] {
            if BITS & width == 0 {
                continue;
            }
            let in_line = 8 / width;
            let mask = _mm256_set1_epi8(((1 << width) - 1) as i8);
            let from = (j % in_line * width) as i32;
            let part = _mm256_srl_epi32(load(first + j / in_line), _mm_cvtsi32_si128(from));
            let part = _mm256_and_si256(part, mask);
            word = _mm256_or_si256(
                word,
                _mm256_sll_epi32(part, _mm_cvtsi32_si128(first as i32)),
            );
            first += width;
        }
        word
    }
}

/// sum + the four byte products of each lane, exact. (`vpmaddubsw` saturates for codes of 8 bits, so these go by halves.)
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn dot256<const BITS: usize>(sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
    if BITS < 8 {
        let pairs = _mm256_maddubs_epi16(codes, x);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    let even_codes = _mm256_and_si256(codes, _mm256_set1_epi16(255));
    let even_x = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
    let even = _mm256_madd_epi16(even_codes, even_x);
    let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(codes), _mm256_srai_epi16::<8>(x));
    _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile256<const BITS: usize, const M: usize>(job: &Job, half: usize) {
    const HALF: usize = LANES / 2;
    let mut totals = [_mm256_setzero_ps(); M];
    // SAFETY: M rows and half a panel lie inside the job; columns beyond its own are not written.
    unsafe {
        let has_mins = !job.mins.is_null();
        let x: [*const u32; M] =
            std::array::from_fn(|m| job.x.wrapping_add(m * job.chunks * WORDS));
        let halves = |of: *const [f16; LANES], g: usize| {
            _mm256_cvtph_ps(_mm_loadu_si128(
                of.add(g).cast::<f16>().add(HALF * half).cast(),
            ))
        };
        for g in 0..job.groups {
            let mut sums = [_mm256_setzero_si256(); M];
            for (m, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_set1_epi32(-job.zero * *job.x_sums.add(m * job.groups + g));
            }
            for chunk in g * job.group_chunks..job.chunks.min((g + 1) * job.group_chunks) {
                let (at, line) = (chunk.wrapping_mul(WORDS), chunk.wrapping_mul(BITS));
                for j in 0..WORDS {
                    let word = word256::<BITS>(job.lines.wrapping_add(line), half, j);
                    for (m, sum) in sums.iter_mut().enumerate() {
                        let x = _mm256_set1_epi32(*x[m].wrapping_add(at.wrapping_add(j)) as i32);
                        *sum = dot256::<BITS>(*sum, word, x);
                    }
                }
            }
            let scale = halves(job.scales, g);
            for (m, total) in totals.iter_mut().enumerate() {
                let x_scale = *job.x_scales.add(m * job.groups + g);
                let factor = _mm256_mul_ps(scale, _mm256_set1_ps(x_scale));
                *total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[m]), factor, *total);
                if has_mins {
                    let x_sum = x_scale * *job.x_sums.add(m * job.groups + g) as f32;
                    *total = _mm256_fmadd_ps(halves(job.mins, g), _mm256_set1_ps(x_sum), *total);
                }
            }
        }
        for (m, &total) in totals.iter().enumerate() {
            let mut lanes = [0f32; HALF];
            _mm256_storeu_ps(lanes.as_mut_ptr(), total);
            for (lane, &value) in lanes.iter().enumerate() {
                let column = half * HALF + lane;
                if column < job.columns {
                    let at = job.out.add(m * job.out_stride + column);
                    *at = match job.into {
                        Into::Replace => value,
                        Into::Add => *at + value,
                    };
                }
            }
        }
    }
}
