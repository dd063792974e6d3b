//! From words of rows to windows.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rayon::prelude::*;

use super::{Packed, Patch, WINDOW};
use crate::kernels::isa::{Isa, vectorizable, vectorized};
use crate::kernels::pages::Pages;
use crate::kernels::panel::{LANES, Line};

/// Packs the rows of a panel, one after the other; what is outside of the windows goes to `patches`.
pub(super) fn panel(rows: &[u32], window: &Line, packed: &mut [Packed], patches: &mut Vec<Patch>) {
    vectorized(Isa::best(), Pack, (rows, window, packed, patches));
}

/// For each row the window that ends with the largest exponent in it, as it is added to both elements of a word; how many elements are in none.
pub(super) fn windows_of(
    rows: usize,
    words: usize,
    row: &(impl Fn(usize, &mut [u32]) + Sync),
) -> (Pages<Line>, usize) {
    let outside = AtomicUsize::new(0);
    let lines = Pages::new(rows.div_ceil(LANES), |lines: &mut [Line]| {
        let panels = lines.par_iter_mut().enumerate();
        panels.for_each_init(
            || vec![0; words],
            |buffer, (panel, line)| {
                for (out, n) in line.0.iter_mut().zip(panel * LANES..rows) {
                    row(n, buffer);
                    let (window, count) = vectorized(Isa::best(), WindowOf, buffer);
                    *out = window;
                    outside.fetch_add(count, Relaxed);
                }
            },
        );
    });
    (lines, outside.into_inner())
}

vectorizable!(WindowOf<'a>: window_of, &'a [u32] => (u32, usize));

#[inline(always)]
fn window_of(row: &[u32]) -> (u32, usize) {
    let mut top = 0;
    for word in row {
        top = top.max(word & 0x7fff).max(word >> 16 & 0x7fff);
    }
    let before = (top >> 7).saturating_sub(WINDOW);
    let mut outside = 0;
    for word in row {
        outside += u32::from(is_outside(word & 0xffff, before));
        outside += u32::from(is_outside(word >> 16, before));
    }
    (before << 7 | before << 23, outside as usize)
}

/// Whether an element is in no window, which begins behind exponent `before`. (Those of exponent zero have a code of their own.)
#[inline(always)]
fn is_outside(bits: u32, before: u32) -> bool {
    (bits >> 7 & 0xff).wrapping_sub(1) < before
}

vectorizable!(Pack<'a>: pack_panel, (&'a [u32], &'a Line, &'a mut [Packed], &'a mut Vec<Patch>) => ());

#[inline(always)]
fn pack_panel((rows, window, packed, patches): (&[u32], &Line, &mut [Packed], &mut Vec<Patch>)) {
    let words = packed.len();
    for (at, packed) in packed.iter_mut().enumerate() {
        let mut outside = 0;
        for lane in 0..LANES {
            let (word, before) = (rows[lane * words + at], window.0[lane] >> 7 & 0xff);
            let code = |bits: u32| match bits >> 7 & 0xff {
                0 => 0,
                exponent => exponent.wrapping_sub(before),
            };
            let low = |bits: u32| (code(bits) << 7 | bits & 0x7f) as u8;
            let rest = |bits: u32| (bits >> 8 & 0x80 | code(bits) >> 1 & 7) as u8;
            let (one, two) = (word & 0xffff, word >> 16);
            packed.0[0][lane] = low(one);
            packed.0[1][lane] = low(two);
            packed.0[2][lane] = rest(one) | rest(two).rotate_left(4);
            outside |= u32::from(is_outside(one, before) | is_outside(two, before));
        }
        if outside == 0 {
            continue;
        }
        // They are patched over whatever was made of them.
        for half in 0..2 * LANES {
            let bits = (rows[half / 2 * words + at] >> (16 * (half % 2))) as u16;
            if is_outside(u32::from(bits), window.0[half / 2] >> 7 & 0xff) {
                patches.push(Patch {
                    word: at as u32,
                    half: half as u16,
                    bits,
                });
            }
        }
    }
}
