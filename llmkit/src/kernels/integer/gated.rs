//! The gate of a feed-forward network where it is computed: silu(x · Gᵀ) ⊙ (x · Uᵀ), rounded to 8 bits in groups.
//!
//! A thread has some columns of both products in its caches, gates and rounds them, and what leaves is an eighth of it. Made from whole rows, gates
//! would be read by another thread than the one that computed them, half of them from its cache.
//!
//! Bits are those of two products and of rounding their gate ([`Rows`](crate::kernels::rows::Rows)).
//!
//! Source: Shazeer 2020, *GLU Variants Improve Transformer*, eq. 6.

use std::cell::RefCell;

use super::bytes::{Bytes, Scale};
use super::panels::IntPanels;
use super::some_panels;
use crate::kernels::aligned::Aligned;
use crate::kernels::dense::{Into, Out};
use crate::kernels::halves;
use crate::kernels::isa::Isa;
use crate::kernels::panel::LANES;
use crate::kernels::product::{MANY_ROWS, PIECE, TILE_ROWS, piece};
use crate::kernels::team::Team;

/// Columns that are multiplied and rounded together where there are many rows; where there are few, more.
const COLUMNS: usize = PIECE * LANES;
/// Columns of a cache line: two threads should not write into the same.
const APART: usize = 64;

thread_local! {
    /// Some columns of both products, and a row's gate.
    static PRODUCTS: RefCell<Aligned> = const { RefCell::new(Aligned::new()) };
}

/// Whether [`gated`] makes `outputs` columns in groups of `group`: whole groups, and not too long.
pub fn suits(isa: Isa, outputs: usize, group: usize) -> bool {
    let fits = COLUMNS.is_multiple_of(group) && outputs.is_multiple_of(group);
    isa != Isa::Reference && fits
}

/// out (T, N) = silu(x · Gᵀ) ⊙ (x · Uᵀ) in groups of `group`.
///
/// # Panics
/// If sizes do not fit, it does not [suit](suits), or the machine lacks `isa`.
pub fn gated(
    isa: Isa,
    x: &Bytes,
    matrices: [&IntPanels; 2],
    group: usize,
    out: &mut Bytes,
    team: &Team,
) {
    let [outputs, of_up] = matrices.map(IntPanels::rows);
    assert_eq!(outputs, of_up, "gate and up");
    assert!(
        suits(isa.checked(), outputs, group),
        "{outputs} outputs in {group}"
    );
    for it in matrices {
        let (got, own) = ((x.columns(), x.group()), (it.columns(), it.group()));
        assert_eq!(got, own, "columns and group");
    }
    let tokens = x.tokens();
    let groups = out.begin(tokens, outputs, group);
    let panels = outputs.div_ceil(LANES);
    let (piece, height) = piece(tokens, panels, TILE_ROWS, team);
    let columns = (piece * LANES).next_multiple_of(group.max(APART));
    let (heights, pieces) = (tokens.div_ceil(height), outputs.div_ceil(columns));
    let task = |index: usize| {
        let (first, part) = (index / heights * columns, index % heights);
        let end = outputs.min(first + columns);
        let rows = part * height..tokens.min((part + 1) * height);
        let width = (end - first).next_multiple_of(LANES);
        PRODUCTS.with_borrow_mut(|memory| {
            let memory = memory.floats_mut((2 * rows.len() + 1) * width);
            let (products, row) = memory.split_at_mut(2 * rows.len() * width);
            for (i, matrix) in matrices.into_iter().enumerate() {
                let out = Out {
                    // The first of these rows and columns is the first of its part.
                    at: products[i * rows.len() * width..]
                        .as_mut_ptr()
                        .wrapping_sub(rows.start * width + first),
                    stride: width,
                    end,
                    streams: false,
                };
                let panels = first / LANES..end.div_ceil(LANES);
                // SAFETY: sizes have been checked, and these rows and columns have a place in `products`, which is this thread's.
                unsafe { some_panels(isa, (x, matrix), Into::Replace, out, rows.clone(), panels) };
            }
            let (gates, ups) = products.split_at(rows.len() * width);
            let both = gates.chunks_exact(width).zip(ups.chunks_exact(width));
            for (index, (gate, up)) in rows.zip(both) {
                let gated = &mut row[..end - first];
                halves::gate(isa, &gate[..end - first], &up[..end - first], gated);
                // SAFETY: these rows and columns are of this task alone.
                unsafe { groups.put(isa, (index, first), gated, Scale::OfGroup, 127.0) };
            }
        });
    };
    // As products: few rows fetch what lies behind their panels while they pass by.
    match tokens < MANY_ROWS {
        true => team.neighbours(heights * pieces, &task),
        false => team.tasks(heights * pieces, &task),
    }
}
