//! How a strip of query rows passes through a block: scores, weights, mixed values.

use std::ops::Range;

use super::{BLOCK, Block, Scratch, Seen};
#[cfg(target_arch = "x86_64")]
use super::{avx512, lazy};
use crate::kernels::activation::{Running, online_softmax};
#[cfg(target_arch = "x86_64")]
use crate::kernels::amx::{self, Hardware, SIDE, Unit};
use crate::kernels::dense::{self, Into, Job, f32_words};
use crate::kernels::halves;
use crate::kernels::isa::{Isa, vectorizable, vectorized};
use crate::kernels::panel::Element;
#[cfg(target_arch = "x86_64")]
use crate::kernels::panel::LANES;

/// Query rows that pass through a block together, so that their scores stay in the first cache: two tiles of a matrix unit …
const UNIT_STRIP: usize = 32;
/// … or a multiple of all tiles' rows.
const STRIP: usize = 96;

/// How a strip of query rows passes through a block: the instruction set, and what is known of all rows so far.
pub(super) struct Steps<'a> {
    isa: Isa,
    element: Element,
    head_dim: usize,
    /// Rows of a strip, at most.
    pub(super) strip: usize,
    /// (R, words of D).
    queries: &'a [u32],
    /// (strip, 64).
    scores: &'a mut [f32],
    /// (strip, words of 64), if they are rounded.
    weights: &'a mut [u32],
    running: &'a mut [Running],
    #[cfg(target_arch = "x86_64")]
    lazy: &'a mut [lazy::Row],
    /// The rows that a matrix unit is configured for, if it is used; zero if it is not yet.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // nobody to hand it to
    unit: Option<usize>,
}

impl<'a> Steps<'a> {
    pub(super) fn new(
        (isa, element): (Isa, Element),
        (queries, head_dim): (&'a [f32], usize),
        scratch: &'a mut Scratch,
    ) -> Steps<'a> {
        let rows = queries.len() / head_dim;
        let is_rounded = element == Element::Bf16;
        let is_on_unit = is_rounded && isa == Isa::Amx && [32, 64].contains(&head_dim);
        let strip = if is_on_unit { UNIT_STRIP } else { STRIP };
        let some = rows.min(strip);
        scratch.running.clear();
        scratch.running.resize(rows, Running::NEW);
        #[cfg(target_arch = "x86_64")]
        {
            scratch.lazy.clear();
            scratch.lazy.resize(rows, lazy::Row::NEW);
        }
        Steps {
            isa,
            element,
            head_dim,
            strip,
            queries: match is_rounded {
                false => f32_words(queries),
                true => {
                    let words = scratch.queries.words_mut(rows * element.words(head_dim));
                    halves::round(isa, queries, words);
                    words
                }
            },
            scores: scratch.scores.floats_mut(some * BLOCK),
            weights: match is_rounded {
                false => &mut [],
                true => scratch.weights.words_mut(some * element.words(BLOCK)),
            },
            running: &mut scratch.running,
            #[cfg(target_arch = "x86_64")]
            lazy: &mut scratch.lazy,
            unit: is_on_unit.then_some(0),
        }
    }

    /// Rows `strip` through a block of which they see some keys; `out` is theirs.
    pub(super) fn strip(
        &mut self,
        block: &Block<'_>,
        strip: Range<usize>,
        seen: &Seen<'_>,
        out: &mut [f32],
    ) {
        let (row, column) = (self.element.words(self.head_dim), self.element.words(BLOCK));
        let scores = Job {
            x: self.queries[strip.start * row..].as_ptr(),
            x_stride: row,
            rows: strip.len(),
            lines: block.keys.as_ptr(),
            line_stride: row,
            words: row,
            out: self.scores.as_mut_ptr(),
            out_stride: BLOCK,
            columns: seen.keys,
            into: Into::Replace,
            next: std::ptr::null(),
            gap: 1,
            streams: false,
        };
        // SAFETY: x is all rows × D elements, the block has 64 keys of as many (asserted), scores are a strip's rows × 64.
        unsafe { self.multiply(scores) };
        let x = self.weigh(strip.clone(), seen, out);
        let mix = Job {
            x,
            x_stride: column,
            rows: strip.len(),
            lines: block.values.as_ptr(),
            line_stride: column,
            words: self.element.words(seen.keys),
            out: out.as_mut_ptr(),
            out_stride: self.head_dim,
            columns: self.head_dim,
            into: Into::Add,
            next: std::ptr::null(),
            gap: 1,
            streams: false,
        };
        // SAFETY: x is these rows × 64 elements, the block has D features of as many (asserted), out is these rows × D.
        unsafe { self.multiply(mix) };
    }

    /// Scores to weights, with the rows of `out` (R, D) rescaled as that asks; weights (R, words of 64), those that are not visible zero.
    fn weigh(&mut self, strip: Range<usize>, seen: &Seen<'_>, out: &mut [f32]) -> *const u32 {
        let rows = strip.len();
        let scores = &mut self.scores[..rows * BLOCK];
        let column = self.element.words(BLOCK);
        match (self.element, self.isa) {
            #[cfg(target_arch = "x86_64")]
            (Element::Bf16, Isa::Avx512 | Isa::Amx) => {
                let (weights, rows) = (&mut self.weights[..rows * column], &mut self.lazy[strip]);
                // SAFETY: the machine has it, as `attend` has checked.
                unsafe {
                    match seen.keys <= BLOCK / 2 {
                        true => lazy::weigh::<2>(scores, weights, rows, out, seen),
                        false => lazy::weigh::<4>(scores, weights, rows, out, seen),
                    }
                }
                weights.as_ptr()
            }
            (element, isa) => {
                let running = &mut self.running[strip];
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: as above.
                    Isa::Avx512 | Isa::Amx => unsafe {
                        avx512::weigh(scores, running, out, seen);
                    },
                    _ => vectorized(isa, Weigh, (&mut *scores, running, out, *seen)),
                }
                match element {
                    Element::F32 => f32_words(scores).as_ptr(),
                    Element::Bf16 => {
                        let weights = &mut self.weights[..rows * column];
                        halves::round(isa, scores, weights);
                        weights.as_ptr()
                    }
                }
            }
        }
    }

    /// # Safety
    /// All that the job's pointers, sizes and strides reach is valid; scores and weights have 64 columns whatever the job says.
    unsafe fn multiply(&mut self, job: Job) {
        #[cfg(target_arch = "x86_64")]
        if let Some(configured) = &mut self.unit {
            for row in (0..job.rows).step_by(SIDE) {
                let rows = (job.rows - row).min(SIDE);
                // Whole pairs of panels and steps: there are 64 keys, and weights of those that are not visible are zero.
                let tile = Job {
                    x: job.x.wrapping_add(row * job.x_stride),
                    rows,
                    columns: job.columns.next_multiple_of(2 * LANES),
                    words: job.words.next_multiple_of(SIDE),
                    out: job.out.wrapping_add(row * job.out_stride),
                    ..job
                };
                // SAFETY: `attend` has checked that there is a unit; the rest is the caller's.
                unsafe {
                    if *configured != rows {
                        Hardware.configure([rows, rows], SIDE);
                        *configured = rows;
                    }
                    amx::short(&mut Hardware, &tile);
                }
            }
            return;
        }
        // SAFETY: passed on.
        unsafe { dense::run(self.isa, self.element, &job) }
    }

    /// Divides by the sums of weights.
    pub(super) fn end(self, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.unit.is_some_and(|rows| rows > 0) {
            // SAFETY: there is a unit.
            unsafe { Hardware.release() };
        }
        for (r, out) in out.chunks_exact_mut(self.head_dim).enumerate() {
            let total = match (self.element, self.isa) {
                #[cfg(target_arch = "x86_64")]
                (Element::Bf16, Isa::Avx512 | Isa::Amx) => self.lazy[r].total(),
                _ => self.running[r].total,
            };
            vectorized(self.isa, Divide, (out, total));
        }
    }
}

vectorizable!(Divide<'a>: divide, (&'a mut [f32], f32) => ());

#[inline(always)]
fn divide((values, by): (&mut [f32], f32)) {
    values.iter_mut().for_each(|it| *it /= by);
}

vectorizable!(Weigh<'a>: weigh, (&'a mut [f32], &'a mut [Running], &'a mut [f32], Seen<'a>) => ());

/// Scores (R, 64) to weights, with the rows of `out` (R, D) rescaled where a larger score turned up.
#[inline(always)]
fn weigh((scores, running, out, seen): (&mut [f32], &mut [Running], &mut [f32], Seen<'_>)) {
    let head_dim = out.len() / seen.positions.len();
    // Arrays: of a size that the compiler knows.
    let rows = scores.as_chunks_mut::<BLOCK>().0.iter_mut().zip(running);
    for ((scores, running), (out, &position)) in
        rows.zip(out.chunks_exact_mut(head_dim).zip(seen.positions))
    {
        let (from, to) = seen.of(position);
        if (from, to) != (0, BLOCK) {
            scores[..from].fill(f32::NEG_INFINITY);
            scores[to..].fill(f32::NEG_INFINITY);
        }
        let factor = online_softmax(scores, running);
        if factor != 1.0 {
            out.iter_mut().for_each(|it| *it *= factor);
        }
    }
}
