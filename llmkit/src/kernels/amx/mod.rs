//! Matrix units (AMX): products of bf16 elements by tiles of 16 rows of 64 bytes. Products of bytes are driven by
//! [`integer`](super::integer), with the same unit.
//!
//! ```text
//! for 32 outputs (two panels B₀ B₁) and 32 inputs (two tiles A₀ A₁), K in steps of 16 words:
//!     C₀₀ += A₀·B₀   C₀₁ += A₀·B₁   C₁₀ += A₁·B₀   C₁₁ += A₁·B₁
//! ```
//! Sixteen [`Line`]s of a panel are a tile of B as they lie in memory, sixteen words of sixteen input rows are one of A. Four products
//! for four loads keep the unit busy: a product takes 16 cycles, a load from the first cache 8. Panels stay in the first cache while rows pass by,
//! as rows are loaded with the hint that they will not be wanted again soon ("T1"): 3.5 instead of 2.8 TFLOP/s on two cores for K = 576. All of
//! it has to begin on cache lines, or a load is two: [`Aligned`](super::aligned::Aligned).
//!
//! An output's sum goes along K in steps of 32 elements, whatever T is and wherever K is cut: tiles of fewer rows are configured, not padded. Ends of K
//! go through a copy filled up with zeros. So, as in [`dense`](super::dense), bits do not depend on T or on how work is split; they differ from
//! AVX-512's in the last places, as the unit adds even and odd products apart.
//!
//! The driver is written against the trait `Unit`, which has two implementations: `Hardware`, five instructions, and a simulation after the
//! manual's pseudo-code, on which the tests run where there is no such unit. [`is_here`] asks the system for the tiles once and then
//! multiplies two known matrices: a unit that is not there, or does not do what this file expects, is not used.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1 chapter 18 and volume 2, `TDPBF16PS`.

#![allow(unsafe_code)]

mod probe;
mod short;
mod unit;

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch, _mm_sfence, _mm512_load_ps, _mm512_stream_ps};
use std::cell::RefCell;

use super::dense::{Into, Job, put512};
use super::halves;
use super::isa::Isa;
use super::panel::{LANES, Line};

pub use probe::{has_bytes, is_here};
pub(super) use short::short;
use unit::load_tiles;
pub(super) use unit::{Hardware, SIDE, Unit, chain, chain_of_bytes, store_tiles, zero_tiles};

/// Does a job of bf16 elements.
///
/// # Safety
/// * [`is_here`].
/// * All that the job's pointers, sizes and strides reach is valid; nobody else touches the output meanwhile.
pub(super) unsafe fn bf16(job: &Job) {
    // SAFETY: passed on.
    unsafe {
        match job.streams {
            true => drive::<_, false, STREAMED>(&mut Hardware, job),
            false => drive::<_, false, PLAIN>(&mut Hardware, job),
        }
    }
}

/// Does a job whose input lies in tiles (see [`tiled`](super::tiled)): `x_stride` is the words of a row, whole steps.
///
/// # Safety
/// As [`bf16`].
pub(super) unsafe fn tiled(job: &Job) {
    // SAFETY: passed on.
    unsafe {
        match job.streams {
            true => drive::<_, true, STREAMED>(&mut Hardware, job),
            false => drive::<_, true, PLAIN>(&mut Hardware, job),
        }
    }
}

/// Does a job of two panels, of a gate and of what it is for, and writes silu(gate) · up in bf16: into tiles, as the input lies in; `out_stride` is
/// the words of a row.
///
/// # Safety
/// As [`bf16`].
pub(super) unsafe fn gated(job: &Job) {
    // SAFETY: passed on.
    unsafe { drive::<_, true, GATED>(&mut Hardware, job) }
}

/// What becomes of tiles of C at the end: they are results, results that go past the caches, or a gate and what it is for.
const PLAIN: u8 = 0;
const STREAMED: u8 = 1;
const GATED: u8 = 2;

/// # Safety
/// As [`Unit`] and [`Job`] ask.
unsafe fn drive<U: Unit, const TILED: bool, const END: u8>(unit: &mut U, job: &Job) {
    SUMS.with_borrow_mut(|sums| {
        let parts = job.words.div_ceil(PART).max(1);
        let part = (job.words.div_ceil(parts)).next_multiple_of(SIDE);
        if parts > 1 {
            sums.resize(ROWS * 2, Line::ZERO);
        }
        // SAFETY: passed on.
        unsafe { in_parts::<U, TILED, END>(unit, job, part, sums) }
    });
}

/// [`drive`] with K in parts of `part` words, a multiple of 16; `sums` are the tiles of [`ROWS`] rows and two panels if there are several.
///
/// # Safety
/// As [`drive`].
unsafe fn in_parts<U: Unit, const TILED: bool, const END: u8>(
    unit: &mut U,
    job: &Job,
    part: usize,
    sums: &mut [Line],
) {
    let mut configured = [0; 2];
    // Both panels' lines that come next are one behind the other, or not.
    let (at_once, all) = match job.gap {
        1 => (AHEAD, 2 * job.words),
        _ => (AHEAD / 2, job.words),
    };
    for start in (0..job.rows).step_by(ROWS) {
        for column in (0..job.columns).step_by(2 * LANES) {
            let panel = column / LANES + 2;
            let mut next = match panel * LANES < job.columns {
                true => job.lines.wrapping_add(panel * job.line_stride),
                false => job.next,
            };
            let end = next.wrapping_add(all);
            let rows = (start..job.rows.min(start + ROWS)).step_by(2 * SIDE);
            let parts = (0..job.words.max(1)).step_by(part.max(1));
            for (k, row) in parts.flat_map(|k| rows.clone().map(move |row| (k, row))) {
                let left = job.rows - row;
                let rows = [left.min(SIDE), left.saturating_sub(SIDE).min(SIDE)];
                // SAFETY: row and column lie inside, so the piece does; its tiles have been configured.
                unsafe {
                    if rows != configured {
                        unit.configure(rows, SIDE);
                        configured = rows;
                    }
                    let piece = Job {
                        x: job.x.add(row * job.x_stride + apart::<TILED>(k)),
                        rows: rows[0] + rows[1],
                        lines: job.lines.add(column / LANES * job.line_stride + k),
                        words: part.min(job.words - k),
                        out: job.out.add(row * job.out_stride + column),
                        columns: job.columns - column,
                        next,
                        ..*job
                    };
                    let tiles = (row - start) * 2;
                    let way = Way {
                        from: (k > 0).then(|| sums[tiles..].as_ptr()),
                        to: (k + part < job.words).then(|| sums[tiles..].as_mut_ptr()),
                    };
                    match (rows[1] > 0, piece.columns > LANES) {
                        (false, false) => block::<U, TILED, END, false, false>(unit, &piece, &way),
                        (false, true) => block::<U, TILED, END, false, true>(unit, &piece, &way),
                        (true, false) => block::<U, TILED, END, true, false>(unit, &piece, &way),
                        (true, true) => block::<U, TILED, END, true, true>(unit, &piece, &way),
                    }
                    next = match next.wrapping_add(piece.words / SIDE * at_once) {
                        after if after < end && !next.is_null() => after,
                        _ => std::ptr::null(),
                    };
                }
            }
        }
    }
    // SAFETY: the unit is there, and what every such processor has.
    unsafe {
        unit.release();
        if END == STREAMED {
            // Before anybody is told that they are there.
            _mm_sfence();
        }
    }
}

/// Words from the first step of K of a row to the one that begins with word `k`: in tiles, those of other rows lie between.
#[inline(always)]
fn apart<const TILED: bool>(k: usize) -> usize {
    match TILED {
        true => k.wrapping_mul(SIDE),
        false => k,
    }
}

/// Rows that pass by two panels, which stay in the second cache with them; a multiple of two tiles.
const ROWS: usize = 256;

/// Words of two panels that stay in the first cache while rows pass by: 36 KiB of 48. More of them pass in parts, between which sums wait in memory
/// as tiles, with the bits they have.
const PART: usize = 288;

thread_local! {
    /// Sums of parts of K.
    static SUMS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Where four tiles of C come from, zero if from nowhere, and where they go, to the output if nowhere else.
struct Way {
    from: Option<*const Line>,
    to: Option<*mut Line>,
}

/// Lines of the panels that come next, two to be told apart by where they are, which are asked for in each step of 16 words: with 256 rows that are half of panels, or two thirds of
/// windows; the rest comes by the processor's own prefetch. Four a step are no faster.
const AHEAD: usize = 2;

/// Up to 32 × 32 outputs: one or two tiles of rows (`TALL`), one or two panels (`WIDE`).
///
/// # Safety
/// As [`drive`]; the unit is configured for the job's rows.
#[inline(always)]
unsafe fn block<U: Unit, const TILED: bool, const END: u8, const TALL: bool, const WIDE: bool>(
    unit: &mut U,
    job: &Job,
    way: &Way,
) {
    let whole = job.words / SIDE * SIDE;
    // SAFETY: the job has these rows and panels; tiles without rows are not named.
    unsafe {
        match way.from {
            None => zero_tiles::<U, TALL, WIDE>(unit),
            Some(from) => load_tiles::<U, TALL, WIDE>(unit, from),
        }
        let second_rows = job.x.wrapping_add(SIDE * job.x_stride);
        let second_panel = job.lines.wrapping_add(job.line_stride);
        for k in (0..whole).step_by(SIDE) {
            let from = apart::<TILED>(k);
            let a = [job.x.wrapping_add(from), second_rows.wrapping_add(from)];
            let b = [job.lines.wrapping_add(k), second_panel.wrapping_add(k)];
            if !job.next.is_null() {
                let at_once = if job.gap == 1 { AHEAD } else { AHEAD / 2 };
                let next = job.next.wrapping_add(k / SIDE * at_once);
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(job.gap).cast());
            }
            let stride = if TILED { LANES } else { job.x_stride };
            step::<U, TALL, WIDE>(unit, a, stride, b);
        }
        debug_assert!(!TILED || whole == job.words, "whole steps of a tiled input");
        if whole < job.words {
            // The end of K, copied and filled up with zeros.
            let words = job.words - whole;
            let mut a = [[Line::ZERO; SIDE]; 2];
            for (row, line) in a.as_flattened_mut().iter_mut().enumerate().take(job.rows) {
                let from = job.x.wrapping_add(row * job.x_stride + whole);
                std::ptr::copy_nonoverlapping(from, line.0.as_mut_ptr(), words);
            }
            let mut b = [[Line::ZERO; SIDE]; 2];
            let panels = [job.lines, second_panel];
            for (end, panel) in b.iter_mut().zip(panels).take(1 + usize::from(WIDE)) {
                let from = panel.wrapping_add(whole);
                std::ptr::copy_nonoverlapping(from, end.as_mut_ptr(), words);
            }
            let a = [a[0].as_ptr().cast(), a[1].as_ptr().cast()];
            step::<U, TALL, WIDE>(unit, a, LANES, [b[0].as_ptr(), b[1].as_ptr()]);
        }
        if let Some(to) = way.to {
            return store_tiles::<U, TALL, WIDE>(unit, to);
        }
        if END == GATED {
            put_gated::<U, 0, 1>(unit, job, 0);
            if TALL {
                put_gated::<U, 2, 3>(unit, job, 1);
            }
            return;
        }
        put::<U, 0, END>(unit, job, 0, 0);
        if WIDE {
            put::<U, 1, END>(unit, job, 0, 1);
        }
        if TALL {
            put::<U, 2, END>(unit, job, 1, 0);
            if WIDE {
                put::<U, 3, END>(unit, job, 1, 1);
            }
        }
    }
}

/// 16 words of K.
///
/// # Safety
/// As [`block`]; `a` has rows `stride` words apart, `b` 16 lines.
#[inline(always)]
unsafe fn step<U: Unit, const TALL: bool, const WIDE: bool>(
    unit: &mut U,
    a: [*const u32; 2],
    stride: usize,
    b: [*const Line; 2],
) {
    // SAFETY: passed on.
    unsafe {
        unit.load_once::<4>(a[0], stride);
        if TALL {
            unit.load_once::<5>(a[1], stride);
        }
        unit.load::<6>(b[0].cast(), LANES);
        if WIDE {
            unit.load::<7>(b[1].cast(), LANES);
        }
        unit.dot::<0, 4, 6>();
        if WIDE {
            unit.dot::<1, 4, 7>();
        }
        if TALL {
            unit.dot::<2, 5, 6>();
            if WIDE {
                unit.dot::<3, 5, 7>();
            }
        }
    }
}

/// Tile C to its place in the output: straight, or by way of memory of its own if columns are missing or it is to be added.
///
/// # Safety
/// As [`drive`].
#[inline(always)]
unsafe fn put<U: Unit, const C: u8, const END: u8>(
    unit: &mut U,
    job: &Job,
    tall: usize,
    wide: usize,
) {
    let columns = (job.columns - wide * LANES).min(LANES);
    // SAFETY: these rows and columns are the job's.
    unsafe {
        let out = (job.out).add(tall * SIDE * job.out_stride + wide * LANES);
        if columns == LANES && job.into == Into::Replace && END != STREAMED {
            return unit.store::<C>(out.cast(), job.out_stride);
        }
        let mut tile = [Line::ZERO; SIDE];
        unit.store::<C>(tile.as_mut_ptr().cast(), LANES);
        let rows = (job.rows - tall * SIDE).min(SIDE);
        if END == STREAMED && columns == LANES && job.into == Into::Replace {
            return stream(&tile[..rows], out, job.out_stride);
        }
        put_lines(&tile[..rows], out, job.out_stride, columns, job.into);
    }
}

/// silu(gate) · up of two tiles, in bf16, to its place in the output.
///
/// # Safety
/// As [`drive`].
#[inline(always)]
unsafe fn put_gated<U: Unit, const GATE: u8, const UP: u8>(unit: &mut U, job: &Job, tall: usize) {
    let mut tiles = [[Line::ZERO; SIDE]; 2];
    let mut words = [0u32; SIDE * LANES / 2];
    // SAFETY: these rows and columns are the job's, and a line is as many numbers as words.
    unsafe {
        unit.store::<GATE>(tiles[0].as_mut_ptr().cast(), LANES);
        unit.store::<UP>(tiles[1].as_mut_ptr().cast(), LANES);
        let [gate, up] = &mut tiles;
        let gate = std::slice::from_raw_parts(gate.as_ptr().cast(), SIDE * LANES);
        let up = std::slice::from_raw_parts(up.as_ptr().cast(), SIDE * LANES);
        // As it is done to whole rows: where there are matrix units there is AVX-512.
        halves::round_gated(Isa::Avx512, gate, up, &mut words);
        let out: *mut u32 = job.out.add(tall * SIDE * job.out_stride).cast();
        let rows = (job.rows - tall * SIDE).min(SIDE);
        for (row, words) in words.chunks_exact(LANES / 2).enumerate().take(rows) {
            std::ptr::copy_nonoverlapping(words.as_ptr(), out.add(row * LANES), LANES / 2);
        }
    }
}

/// Lines to rows of the output, the first `columns` of each.
///
/// # Safety
/// As [`drive`]: where there are matrix units there is AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn put_lines(lines: &[Line], out: *mut f32, stride: usize, columns: usize, into: Into) {
    for (row, line) in lines.iter().enumerate() {
        // SAFETY: the caller's rows and columns.
        unsafe {
            let sum = _mm512_load_ps(line.0.as_ptr().cast());
            put512(out.add(row * stride), columns, into, sum);
        }
    }
}

/// Lines to rows of the output, past the caches.
///
/// # Safety
/// As [`drive`]; rows begin on cache lines.
#[target_feature(enable = "avx512f")]
unsafe fn stream(lines: &[Line], out: *mut f32, stride: usize) {
    for (row, line) in lines.iter().enumerate() {
        // SAFETY: the caller's rows.
        unsafe {
            let sum = _mm512_load_ps(line.0.as_ptr().cast());
            _mm512_stream_ps(out.wrapping_add(row.wrapping_mul(stride)), sum);
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::Simulated;
