//! bf16 matrices in 12 bits an element, to the bit.
//!
//! Trained weights use few of the 256 exponents that bf16 has. In a row nearly all lie in 15 that follow each other and end with its
//! largest, its *window*: of a normal distribution, 2·10⁻⁴ is smaller than 2⁻¹² of its width. So an element is kept as its sign, its 7
//! bits of mantissa and 4 that say which exponent of the window, or that it is zero's; the few outside of it are kept beside, with their
//! place, as patches, and put in where a kernel passes by. What it multiplies with has the bits of [`Panels`], and so have its results.
//!
//! A decoded token reads every weight once and waits for memory, which has a quarter less to bring.
//!
//! **Storage.** As in [`Panels`], 16 rows are a panel, and a word is two elements; a word of 16 rows is 48 bytes instead of 64. They
//! are, of each row, the low byte (lowest bit of the exponent in its window, mantissa) of the first element, that of the second, and a
//! byte for the rest:
//!
//! ```text
//! bit   7      6 5 4       3      2 1 0
//!     sign₁ exponent₂/2  sign₂ exponent₁/2
//! ```
//! Turned by four bits it is for the second element what it is for the first.
//!
//! Source of the idea that bf16 weights lose a third of their bits without loss: Zhang et al. 2025, DFloat11 (arXiv 2504.11651). Its
//! Huffman codes take 11 bits; a fixed width takes 12 and five instructions for 32 elements.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;

use rayon::prelude::*;

use super::dense::{self, Into, Out, Part};
use super::halves;
use super::isa::{Isa, vectorizable, vectorized};
use super::pages::{Pages, Zeroable};
use super::panel::{Element, LANES, Line, Panels, bf16_value};

/// Exponents in a window: those of 4 bits, but for zero's.
const WINDOW: u32 = 15;
/// Elements for each one that may lie outside of its row's window: with more, patches would cost more than windows save.
const FOR_EACH_PATCH: usize = 2048;
/// Panels that are unpacked at once: as many as the widest tile of many rows has.
const TOGETHER: usize = 2;

/// A word of 16 rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Packed([[u8; LANES]; 3]);

// SAFETY: an array of integers.
unsafe impl Zeroable for Packed {
    const ZERO: Packed = Packed([[0; LANES]; 3]);
}

/// An element outside of its row's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Patch {
    /// Which word of its row.
    word: u32,
    /// Twice the row's place in the panel, and one more for the second element of the word.
    half: u16,
    /// The element.
    bits: u16,
}

impl Patch {
    /// Behind the last one of a panel.
    const END: Patch = Patch {
        word: u32::MAX,
        half: 0,
        bits: 0,
    };
}

/// A matrix (N rows, some words a row) of bf16 in windows.
#[derive(Debug, Clone, PartialEq)]
pub struct Windowed {
    rows: usize,
    words: usize,
    /// Panel after panel, and one more: kernels load 64 bytes at a time.
    lines: Pages<Packed>,
    /// Of each panel, for each row, the exponent before its window, where both elements of a word have theirs.
    windows: Pages<Line>,
    /// Of each panel, in order, with an [`END`](Patch::END).
    patches: Vec<Patch>,
    /// Where those of each panel begin.
    firsts: Vec<usize>,
}

impl Windowed {
    /// A matrix (N, K) of f32, row-major, rounded to bf16; none if too many elements lie outside of their rows' windows.
    pub fn of_f32(values: &[f32], columns: usize) -> Option<Windowed> {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        let row = |row: usize, out: &mut [u32]| {
            let values = &values[row * columns..][..columns];
            halves::round(Isa::best(), values, out);
        };
        let (windows, outside) = pack::windows_of(rows, Element::Bf16.words(columns), &row);
        let is_worth_it = outside * FOR_EACH_PATCH <= values.len();
        is_worth_it.then(|| Windowed::pack(rows, columns.div_ceil(2), windows, &row))
    }

    /// Packs a matrix however many elements lie outside.
    #[cfg(test)]
    pub(super) fn of(panels: &Panels) -> Windowed {
        let (rows, words) = (panels.rows(), panels.words());
        let row = |row: usize, out: &mut [u32]| {
            (out.iter_mut().enumerate()).for_each(|(at, out)| *out = panels.word(row, at));
        };
        let (windows, _) = pack::windows_of(rows, words, &row);
        Windowed::pack(rows, words, windows, &row)
    }

    fn pack(
        rows: usize,
        words: usize,
        windows: Pages<Line>,
        row: &(impl Fn(usize, &mut [u32]) + Sync),
    ) -> Windowed {
        let mut patches = vec![Vec::new(); windows.len()];
        let lines = Pages::new(windows.len() * words + 1, |packed| {
            let packed = packed.par_chunks_exact_mut(words.max(1));
            let panels = packed.zip(&*windows).zip(&mut patches).enumerate();
            panels.for_each(|(panel, ((packed, window), patches))| {
                // Rows that are not there are zero.
                let mut of_panel = vec![0; LANES * words];
                for (lane, out) in of_panel.chunks_exact_mut(words.max(1)).enumerate() {
                    if panel * LANES + lane < rows {
                        row(panel * LANES + lane, out);
                    }
                }
                pack::panel(&of_panel, window, packed, patches);
                patches.push(Patch::END);
            });
        });
        let firsts = (patches.iter())
            .scan(0, |first, it| {
                *first += it.len();
                Some(*first - it.len())
            })
            .collect();
        Windowed {
            rows,
            words,
            lines,
            windows,
            patches: patches.concat(),
            firsts,
        }
    }

    /// Rows, N.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Words in a row.
    pub fn words(&self) -> usize {
        self.words
    }

    /// Elements outside of their rows' windows.
    pub fn outside(&self) -> usize {
        self.patches.len() - self.firsts.len()
    }

    /// Bytes in memory, padding included.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
            + size_of_val(&*self.windows)
            + size_of_val(&*self.patches)
            + size_of_val(&*self.firsts)
    }

    /// The elements of a row, into `out` (as many as are wanted, at most twice the words).
    ///
    /// # Panics
    /// If there is no such row, or it has not as many elements.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (row / LANES, row % LANES);
        let window = self.windows[panel].0[lane];
        let packed = &self.lines[panel * self.words..][..self.words];
        let element = Element::Bf16;
        for (out, packed) in out.chunks_mut(2).zip(packed) {
            let word = unpack(packed.0.map(|it| it[lane]), window);
            for (index, out) in out.iter_mut().enumerate() {
                *out = element.of_word(word, index);
            }
        }
        for it in self.patches_of(panel) {
            let half = usize::from(it.half);
            if let (true, Some(out)) = (
                half / 2 == lane,
                out.get_mut(2 * it.word as usize + half % 2),
            ) {
                *out = bf16_value(it.bits);
            }
        }
    }

    /// The matrix as it was before.
    pub(super) fn panels(&self, isa: Isa) -> Panels {
        let mut lines = vec![Line::ZERO; self.windows.len() * self.words];
        for (panel, lines) in lines.chunks_exact_mut(self.words.max(1)).enumerate() {
            self.unpack(isa, panel, lines);
        }
        Panels::pack(self.rows, self.words, |row, at| {
            lines[row / LANES * self.words + at].0[row % LANES]
        })
    }

    fn patches_of(&self, panel: usize) -> impl Iterator<Item = &Patch> {
        let all = self.patches[self.firsts[panel]..].iter();
        all.take_while(|&&it| it != Patch::END)
    }

    /// Panels that have been unpacked into `lines`, with an input; what comes next is panel `next`.
    fn part<'a>(&self, x: &'a [u32], lines: &'a [Line], next: usize) -> Part<'a> {
        Part {
            element: Element::Bf16,
            x,
            words: self.words,
            lines,
            // A little more than the next ones, for they are smaller than lines.
            next: self.kept(next),
        }
    }

    /// Where a panel is, or would be.
    pub(super) fn kept(&self, panel: usize) -> *const Line {
        self.lines.as_ptr().wrapping_add(panel * self.words).cast()
    }

    /// The lines of a panel as they were before.
    ///
    /// # Panics
    /// If the machine lacks `isa`.
    pub(super) fn unpack(&self, isa: Isa, panel: usize, out: &mut [Line]) {
        let packed = &self.lines[panel * self.words..][..self.words];
        let window = &self.windows[panel];
        match isa.checked() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: there is one line more than all panels have.
            Isa::Avx512 | Isa::Amx => unsafe { avx512::unpack(packed, window, out) },
            _ => vectorized(isa, Unpack, (packed, window, &mut *out)),
        }
        for it in self.patches_of(panel) {
            it.put(&mut out[it.word as usize]);
        }
    }
}

impl Patch {
    /// Puts the element in its place in a line.
    #[inline(always)]
    fn put(self, line: &mut Line) {
        let (lane, shift) = (usize::from(self.half / 2), 16 * (self.half % 2));
        let word = &mut line.0[lane];
        *word = *word & !(0xffff << shift) | u32::from(self.bits) << shift;
    }
}

/// Both elements of a word, but for patches.
#[inline(always)]
fn unpack([first, second, rest]: [u8; 3], window: u32) -> u32 {
    let high = |rest: u8| u32::from(rest & 0x87) << 8;
    let first = u32::from(first) | high(rest);
    let second = u32::from(second) | high(rest.rotate_left(4));
    // A window ends at the largest exponent at most: nothing is carried into a sign.
    let whole = |bits: u32| {
        bits + if bits & 0x780 == 0 {
            0
        } else {
            window & 0xffff
        }
    };
    whole(first) | whole(second) << 16
}

vectorizable!(Unpack<'a>: unpack_lines, (&'a [Packed], &'a Line, &'a mut [Line]) => ());

#[inline(always)]
fn unpack_lines((packed, window, out): (&[Packed], &Line, &mut [Line])) {
    for (out, packed) in out.iter_mut().zip(packed) {
        let [first, second, rest] = &packed.0;
        for lane in 0..LANES {
            out.0[lane] = unpack([first[lane], second[lane], rest[lane]], window.0[lane]);
        }
    }
}

thread_local! {
    /// Panels of this thread, unpacked.
    static UNPACKED: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Panels `panels` of rows `tokens` of `x` · Wᵀ, into `out` (T, N).
///
/// # Safety
/// * This machine has `isa`, which is not the reference.
/// * `x` and `out` are T rows of the matrix's sizes, `tokens` among them; nobody else touches these rows and columns of `out` meanwhile.
pub(super) unsafe fn some_panels(
    isa: Isa,
    (x, matrix): (&[u32], &Windowed),
    into: Into,
    out: Out,
    tokens: Range<usize>,
    panels: Range<usize>,
) {
    let words = matrix.words;
    UNPACKED.with_borrow_mut(|lines| {
        lines.resize(lines.len().max(TOGETHER * words), Line::ZERO);
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 {
            // SAFETY: passed on.
            return unsafe {
                avx512::some_panels((x, matrix), into, out, tokens, panels, lines);
            };
        }
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Amx && tokens.len() == 1 {
            // SAFETY: passed on; where there are matrix units there is AVX-512.
            return unsafe {
                avx512::one_row_as_unit((x, matrix), into, out, tokens.start, panels);
            };
        }
        for first in panels.clone().step_by(TOGETHER) {
            let these = first..panels.end.min(first + TOGETHER);
            for (panel, lines) in these.clone().zip(lines.chunks_exact_mut(words.max(1))) {
                matrix.unpack(isa, panel, lines);
            }
            let part = matrix.part(x, lines, these.end);
            // The first ones were asked for while these were unpacked.
            let part = Part {
                next: part.next.wrapping_add(dense::SOON),
                ..part
            };
            // SAFETY: passed on.
            unsafe { dense::some_panels(isa, &part, into, out, tokens.clone(), these) };
        }
    });
}

/// One row of products as [`avx512`] makes it where there is a matrix unit: on any machine with AVX-512, for comparison with a simulation.
#[cfg(all(test, target_arch = "x86_64"))]
pub(super) fn one_row_as_unit(x: &[u32], matrix: &Windowed, into: Into, out: &mut [f32]) {
    assert!(Isa::Avx512.is_here() && x.len() == matrix.words && out.len() == matrix.rows);
    let panels = 0..matrix.windows.len();
    let out = Out {
        streams: false,
        at: out.as_mut_ptr(),
        stride: matrix.rows,
        end: matrix.rows,
    };
    // SAFETY: the machine has AVX-512, and x and out are one row of the matrix's sizes.
    unsafe { avx512::one_row_as_unit((x, matrix), into, out, 0, panels) };
}

/// As [`dense::reference`].
pub(super) fn reference(x: &[u32], matrix: &Windowed, into: Into, out: &mut [f32]) {
    dense::reference(Element::Bf16, x, &matrix.panels(Isa::Reference), into, out);
}
