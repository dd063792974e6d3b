//! The gate of a feed-forward network where it is computed: out (T, N) = silu(x · Gᵀ) ⊙ (x · Uᵀ), rounded to bf16.
//!
//! Of 512 tokens, gate and what it is for are 6 MB in f32: more than second caches hold, written once and read once. A matrix unit is done with the
//! products sooner than the third cache with that. Here a tile of each is made at the same time, and what leaves the first cache is a quarter of it.
//! The bits are those of two products, [`swiglu`](super::activation::swiglu) and rounding.
//!
//! Source: Shazeer 2020, *GLU Variants Improve Transformer*, eq. 6.

#![allow(unsafe_code)]

use super::isa::Isa;
use super::panel::Element;
use super::product::Matrix;
use super::team::Team;

/// Rows from which it is worth it: fewer stay in caches anyway.
const MANY_ROWS: usize = 32;

/// Whether there is a kernel for these two, of `tokens` rows: on matrix units, for bf16.
pub fn has_kernel(isa: Isa, gate: Matrix<'_>, up: Matrix<'_>, tokens: usize) -> bool {
    let is_bf16 = |it: Matrix<'_>| match it {
        Matrix::Dense { element, .. } => element == Element::Bf16,
        Matrix::Windowed { .. } => true,
        Matrix::Integer { .. } => false,
    };
    isa == Isa::Amx && is_bf16(gate) && is_bf16(up) && tokens >= MANY_ROWS
}

/// The gated product of one input, into `out` (T, N/2 words, rows filled up with zero).
///
/// # Panics
/// If there is no kernel for it ([`has_kernel`]), or sizes do not fit.
pub fn multiply(isa: Isa, gate: Matrix<'_>, up: Matrix<'_>, out: &mut [u32], team: &Team) {
    let outputs = gate.outputs();
    let words = outputs.div_ceil(2);
    let tokens = out.len().checked_div(words).unwrap_or(0);
    assert_eq!(out.len(), tokens * words, "rows of {words} words");
    assert_eq!(up.outputs(), outputs, "columns of gate and up");
    assert!(
        has_kernel(isa.checked(), gate, up, tokens),
        "no kernel for {tokens} rows on {isa}"
    );
    gate.check(tokens);
    up.check(tokens);
    #[cfg(target_arch = "x86_64")]
    unit::multiply((gate, up), tokens, out, team);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = team;
}

#[cfg(target_arch = "x86_64")]
mod unit {
    use std::cell::RefCell;

    use super::{Matrix, Team};
    use crate::kernels::amx;
    use crate::kernels::dense::{Into, Job};
    use crate::kernels::panel::{LANES, Line};

    /// Rows that a thread keeps near it while panels pass, a multiple of two tiles.
    const ROWS: usize = 256;

    thread_local! {
        /// A panel of each, as it is multiplied with.
        static PANELS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }

    /// Where rows of words begin; threads write rows of their own.
    struct Out(*mut u32);

    // SAFETY: see there.
    unsafe impl Sync for Out {}

    impl Out {
        fn row(&self, offset: usize) -> *mut f32 {
            self.0.wrapping_add(offset).cast()
        }
    }

    pub(super) fn multiply(
        (gate, up): (Matrix<'_>, Matrix<'_>),
        tokens: usize,
        out: &mut [u32],
        team: &Team,
    ) {
        let (outputs, panels) = (gate.outputs(), gate.outputs().div_ceil(LANES));
        let out_words = outputs.div_ceil(2);
        let (x, words) = gate.halves();
        let height = tokens.div_ceil(tokens.div_ceil(ROWS)).next_multiple_of(32);
        let heights = tokens.div_ceil(height);
        let out = Out(out.as_mut_ptr());
        // Panels of a thread's rows one after the other; the rows stay in its cache.
        const PIECE: usize = 8;
        let pieces = panels.div_ceil(PIECE);
        team.neighbours(pieces * heights, &|index| {
            let (piece, part) = (index % pieces, index / pieces);
            let rows = part * height..tokens.min((part + 1) * height);
            PANELS.with_borrow_mut(|lines| {
                lines.resize(lines.len().max(2 * words), Line::ZERO);
                for panel in piece * PIECE..panels.min((piece + 1) * PIECE) {
                    let (first, second) = lines.split_at_mut(words);
                    gate.lines(panel, first);
                    up.lines(panel, &mut second[..words]);
                    let (next, of_up) = (gate.kept(panel + 1), up.kept(panel + 1));
                    let job = Job {
                        x: x[rows.start * words..].as_ptr(),
                        x_stride: words,
                        rows: rows.len(),
                        lines: lines.as_ptr(),
                        line_stride: words,
                        words,
                        out: out.row(rows.start * out_words + panel * LANES / 2),
                        out_stride: out_words,
                        columns: LANES + (outputs - panel * LANES).min(LANES),
                        into: Into::Replace,
                        next,
                        gap: (of_up.addr().wrapping_sub(next.addr()) as isize / 64) as usize,
                    };
                    // SAFETY: there is a unit (`has_kernel`); x and out are these rows of the products' sizes (checked), and nobody else has
                    // these rows and columns.
                    unsafe { amx::gated(&job) };
                }
            });
        });
    }
}
