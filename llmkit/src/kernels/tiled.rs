//! Inputs in bf16 as a matrix unit reads them, and the products that it makes of them.
//!
//! A tile is 16 rows by 32 columns, a cache line a row. In a row-major input these lines are a row apart, and each load touches as many places as
//! it has lines; of rows of 1,536 elements all of them want the same four sets of the first cache. Here they lie one behind the other:
//! (T/16, K/32, 16 rows, 16 words). In a loop of its own that is worth 18 % of a product at K = 576, and 10 to 20 % at K = 1,536.
//!
//! [`gated`] is the gate of a feed-forward network where it is computed: silu(x · Gᵀ) ⊙ (x · Uᵀ), in tiles again. Of 512 tokens of 1,536 columns, gate and
//! what it is for are 6 MB in f32: more than second caches hold, written once and read once, and the third cache is slower than the unit. Here a
//! tile of each is made at the same time, and what leaves the first cache is a quarter of it.
//!
//! Results have the bits of row-major inputs ([`dense`](super::dense)), and [`gated`] those of two products and of rounding their gate ([`Rows`]).
//!
//! Source: Shazeer 2020, *GLU Variants Improve Transformer*, eq. 6.

#![allow(unsafe_code)]

use super::isa::Isa;
use super::panel::{LANES, Panels};
use super::rows::Rows;
use super::team::Team;
use super::windowed::Windowed;

/// Rows from which a product is bound by arithmetic.
const MANY_ROWS: usize = 32;
/// Words of a tile.
const TILE: usize = LANES * LANES;

/// A matrix of bf16, however it is kept.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// As it is multiplied with.
    Panels(&'a Panels),
    /// In 12 bits.
    Windowed(&'a Windowed),
}

/// Whether an input (T, K) had better be in tiles: on a matrix unit, if it has many rows of whole tiles.
pub fn suits(isa: Isa, tokens: usize, columns: usize) -> bool {
    isa == Isa::Amx && tokens >= MANY_ROWS && columns.is_multiple_of(2 * LANES)
}

/// Words of an input (T, K) in tiles: rows that are not there have a place, too.
pub fn words(tokens: usize, columns: usize) -> usize {
    tokens.div_ceil(LANES) * (columns / (2 * LANES)) * TILE
}

/// Rows of `columns` values rounded to bf16, into tiles.
///
/// # Panics
/// If columns are no whole tiles, `out` has not as many [`words`], or the machine has no matrix unit.
pub fn round(rows: Rows<'_>, columns: usize, out: &mut [u32], team: &Team) {
    let isa = Isa::Amx.checked();
    let tokens = rows.len().checked_div(columns).unwrap_or(0);
    assert_eq!(rows.len(), tokens * columns, "rows of {columns}");
    assert_eq!(out.len(), words(tokens, columns), "words in tiles");
    #[cfg(target_arch = "x86_64")]
    unit::round(isa, rows, (tokens, columns), out, team);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (isa, team);
}

/// The word of a row that holds columns 2·`word` and the next.
pub fn word(tiles: &[u32], columns: usize, row: usize, word: usize) -> u32 {
    let tile = row / LANES * (columns / (2 * LANES)) + word / LANES;
    tiles[tile * TILE + row % LANES * LANES + word % LANES]
}

impl Weights<'_> {
    /// N.
    pub fn outputs(self) -> usize {
        match self {
            Weights::Panels(it) => it.rows(),
            Weights::Windowed(it) => it.rows(),
        }
    }

    /// K / 2.
    pub fn words(self) -> usize {
        match self {
            Weights::Panels(it) => it.words(),
            Weights::Windowed(it) => it.words(),
        }
    }
}

/// out (T, N/2 words in tiles) = silu(x · Gᵀ) ⊙ (x · Uᵀ), x (T, K) in tiles.
///
/// # Panics
/// If sizes do not fit, N or K is no multiple of 32, or the machine has no matrix unit.
pub fn gated(x: &[u32], [gate, up]: [Weights<'_>; 2], tokens: usize, out: &mut [u32], team: &Team) {
    Isa::Amx.checked();
    let (outputs, k) = (gate.outputs(), 2 * gate.words());
    assert_eq!((up.outputs(), 2 * up.words()), (outputs, k), "gate and up");
    assert!(
        outputs.is_multiple_of(2 * LANES) && k.is_multiple_of(2 * LANES),
        "whole tiles"
    );
    assert_eq!(x.len(), words(tokens, k), "input words");
    assert_eq!(out.len(), words(tokens, outputs), "output words");
    #[cfg(target_arch = "x86_64")]
    unit::gated(x, [gate, up], tokens, out, team);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = team;
}

#[cfg(target_arch = "x86_64")]
pub(super) mod unit {
    use std::cell::RefCell;
    use std::ops::Range;

    use super::{Isa, LANES, Rows, TILE, Team, Weights};
    use crate::kernels::activation::each_row;
    use crate::kernels::dense::{Into, Job, Out};
    use crate::kernels::panel::Line;
    use crate::kernels::{amx, halves};

    /// Rows that a thread keeps near it while panels pass, a multiple of two tiles.
    const ROWS: usize = 256;

    thread_local! {
        /// Two panels, as they are multiplied with.
        static PANELS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }

    impl Weights<'_> {
        /// The lines of a panel.
        fn lines(self, panel: usize, out: &mut [Line]) {
            match self {
                Weights::Panels(it) => {
                    out.copy_from_slice(&it.lines()[panel * it.words()..][..it.words()]);
                }
                Weights::Windowed(it) => it.unpack(Isa::Avx512, panel, out),
            }
        }

        /// Where a panel is kept, or would be: to be fetched ahead.
        fn kept(self, panel: usize) -> *const Line {
            match self {
                Weights::Panels(it) => it.lines().as_ptr().wrapping_add(panel * it.words()),
                Weights::Windowed(it) => it.kept(panel),
            }
        }
    }

    /// Panels `panels` of rows `tokens` (whole tiles but for the last) of x · Wᵀ, x in tiles, into `out` (T, N).
    ///
    /// # Safety
    /// There is a unit; `x` and `out` are T rows of the matrix's sizes, `tokens` among them; nobody else touches these rows and columns of `out`
    /// meanwhile.
    pub(in crate::kernels) unsafe fn some_panels(
        (x, weights): (&[u32], Weights<'_>),
        into: Into,
        out: Out,
        tokens: Range<usize>,
        panels: Range<usize>,
    ) {
        let words = weights.words();
        let job = |panels: &Range<usize>, lines: &[Line], next| Job {
            x: x[tokens.start * words..].as_ptr(),
            x_stride: words,
            rows: tokens.len(),
            lines: lines.as_ptr(),
            line_stride: words,
            words,
            out: out.place(tokens.start, panels.start * LANES),
            out_stride: out.stride,
            columns: (panels.end * LANES).min(out.end) - panels.start * LANES,
            into,
            next,
            gap: 1,
            streams: out.streams,
        };
        if let Weights::Panels(it) = weights {
            let lines = &it.lines()[panels.start * words..panels.end * words];
            // SAFETY: passed on.
            return unsafe { amx::tiled(&job(&panels, lines, std::ptr::null())) };
        }
        PANELS.with_borrow_mut(|lines| {
            lines.resize(lines.len().max(2 * words), Line::ZERO);
            for first in panels.clone().step_by(2) {
                let these = first..panels.end.min(first + 2);
                for (panel, lines) in these.clone().zip(lines.chunks_exact_mut(words)) {
                    weights.lines(panel, lines);
                }
                // SAFETY: passed on.
                unsafe { amx::tiled(&job(&these, lines, weights.kept(these.end))) };
            }
        });
    }

    /// Rows rounded into tiles.
    pub(super) fn round(
        isa: Isa,
        rows: Rows<'_>,
        (tokens, columns): (usize, usize),
        out: &mut [u32],
        team: &Team,
    ) {
        each_row(out, LANES * columns / 2, team, |tile, out| {
            for row in 0..LANES.min(tokens - tile * LANES) {
                let (out, index) = (&mut out[row * LANES..], tile * LANES + row);
                // SAFETY: where there is a matrix unit there is AVX-512.
                unsafe {
                    match rows {
                        Rows::Gated { gate, up, roughly } if roughly => {
                            let here = index * columns..(index + 1) * columns;
                            let (gate, up) = (&gate[here.clone()], &up[here]);
                            halves::round_gated_apart(gate, up, out, TILE);
                        }
                        _ => rows.row(isa, columns, index, |x| halves::round_apart(x, out, TILE)),
                    }
                }
            }
        });
    }

    /// Where rows of words begin; threads write rows and columns of their own.
    struct Words(*mut u32);

    // SAFETY: see there.
    unsafe impl Sync for Words {}

    impl Words {
        fn at(&self, offset: usize) -> *mut f32 {
            self.0.wrapping_add(offset).cast()
        }
    }

    pub(super) fn gated(
        x: &[u32],
        [gate, up]: [Weights<'_>; 2],
        tokens: usize,
        out: &mut [u32],
        team: &Team,
    ) {
        /// Panels that are taken at a time.
        const PIECE: usize = 8;
        let (words, out_words) = (gate.words(), gate.outputs() / 2);
        let panels = gate.outputs() / LANES;
        let height = tokens
            .div_ceil(tokens.div_ceil(ROWS).max(1))
            .next_multiple_of(2 * LANES);
        let pieces = panels.div_ceil(PIECE);
        let out = Words(out.as_mut_ptr());
        // Panels of the same rows one after the other: a thread keeps its rows in its cache.
        team.neighbours(pieces * tokens.div_ceil(height), &|index| {
            let (piece, part) = (index % pieces, index / pieces);
            let rows = part * height..tokens.min((part + 1) * height);
            PANELS.with_borrow_mut(|lines| {
                lines.resize(lines.len().max(2 * words), Line::ZERO);
                for panel in piece * PIECE..panels.min((piece + 1) * PIECE) {
                    let (of_gate, of_up) = lines.split_at_mut(words);
                    gate.lines(panel, of_gate);
                    up.lines(panel, &mut of_up[..words]);
                    let next = [gate.kept(panel + 1), up.kept(panel + 1)];
                    let job = Job {
                        x: x[rows.start * words..].as_ptr(),
                        x_stride: words,
                        rows: rows.len(),
                        lines: lines.as_ptr(),
                        line_stride: words,
                        words,
                        out: out
                            .at(rows.start * out_words + panel / 2 * TILE + panel % 2 * LANES / 2),
                        out_stride: out_words,
                        columns: 2 * LANES,
                        into: Into::Replace,
                        next: next[0],
                        gap: next[1]
                            .addr()
                            .wrapping_sub(next[0].addr())
                            .cast_signed()
                            .div_euclid(64)
                            .cast_unsigned(),
                        streams: false,
                    };
                    // SAFETY: there is a unit, and x and out are these rows of the products' sizes (checked); nobody else has these rows and
                    // columns of out.
                    unsafe { amx::gated(&job) };
                }
            });
        });
    }
}
