//! Matrix units (AMX): products of bf16 elements by tiles of 16 rows of 64 bytes. Products of bytes are driven by
//! [`integer`](super::integer), with the same unit.
//!
//! ```text
//! for 32 outputs (two panels B₀ B₁) and 32 inputs (two tiles A₀ A₁), K in steps of 16 words:
//!     C₀₀ += A₀·B₀   C₀₁ += A₀·B₁   C₁₀ += A₁·B₀   C₁₁ += A₁·B₁
//! ```
//! Sixteen [`Line`]s of a panel are a tile of B as they lie in memory, sixteen words of sixteen input rows are one of A. Four products
//! for four loads keep the unit busy: a product takes 16 cycles, a load from the first cache 8.
//!
//! An output's sum goes along K in steps of 32 elements, whatever T is: tiles of fewer rows are configured, not padded. Ends of K
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
mod unit;

use std::mem::MaybeUninit;

use super::dense::{Into, Job};
use super::panel::{LANES, Line};

pub use probe::{has_bytes, is_here};
pub(super) use unit::{Hardware, SIDE, Unit, chain, chain_of_bytes};

/// Does a job of bf16 elements.
///
/// # Safety
/// * [`is_here`].
/// * All that the job's pointers, sizes and strides reach is valid; nobody else touches the output meanwhile.
pub(super) unsafe fn bf16(job: &Job) {
    // SAFETY: passed on.
    unsafe { drive(&mut Hardware, job) }
}

/// # Safety
/// As [`Unit`] and [`Job`] ask.
unsafe fn drive<U: Unit>(unit: &mut U, job: &Job) {
    // As even as whole steps allow; few rows see each panel once anyway.
    let depths = match job.rows > 2 * SIDE {
        true => job.words.div_ceil(DEPTH),
        false => 1,
    };
    let depth = job.words.div_ceil(depths.max(1)).next_multiple_of(SIDE);
    let mut configured = [0; 2];
    // Written before they are read.
    let mut sums = [MaybeUninit::<[Line; 4 * SIDE]>::uninit(); ROWS / (2 * SIDE)];
    for start in (0..job.rows).step_by(ROWS) {
        for column in (0..job.columns).step_by(2 * LANES) {
            for k in (0..job.words.max(1)).step_by(depth.max(1)) {
                for row in (start..job.rows.min(start + ROWS)).step_by(2 * SIDE) {
                    let left = job.rows - row;
                    let rows = [left.min(SIDE), left.saturating_sub(SIDE).min(SIDE)];
                    let words = depth.min(job.words - k);
                    let stage = Stage {
                        is_first: k == 0,
                        is_last: k + words == job.words,
                    };
                    let sums = sums[(row - start) / (2 * SIDE)].as_mut_ptr().cast();
                    // SAFETY: row, column and k lie inside, so the piece does; its tiles have been configured.
                    unsafe {
                        if rows != configured {
                            unit.configure(rows, SIDE);
                            configured = rows;
                        }
                        let piece = Job {
                            x: job.x.add(row * job.x_stride + k),
                            rows: rows[0] + rows[1],
                            lines: job.lines.add(column / LANES * job.line_stride + k),
                            words,
                            out: job.out.add(row * job.out_stride + column),
                            columns: job.columns - column,
                            ..*job
                        };
                        match (rows[1] > 0, piece.columns > LANES) {
                            (false, false) => block::<U, false, false>(unit, &piece, stage, sums),
                            (false, true) => block::<U, false, true>(unit, &piece, stage, sums),
                            (true, false) => block::<U, true, false>(unit, &piece, stage, sums),
                            (true, true) => block::<U, true, true>(unit, &piece, stage, sums),
                        }
                    }
                }
            }
        }
    }
    // SAFETY: the unit is there.
    unsafe { unit.release() }
}

/// Words of K whose two panels stay in the first cache (16 KiB) while [`ROWS`] rows pass by, which come from the second. Sums
/// of a longer K wait in memory, in f32 as in the unit, and go on where they were.
const DEPTH: usize = 128;
/// Rows that pass by; a multiple of two tiles.
const ROWS: usize = 128;

/// Where in K a block begins and ends.
#[derive(Clone, Copy)]
struct Stage {
    is_first: bool,
    is_last: bool,
}

/// Up to 32 × 32 outputs: one or two tiles of rows (`TALL`), one or two panels (`WIDE`).
///
/// # Safety
/// As [`drive`]; the unit is configured for the job's rows; `sums` has room for four tiles, which are there unless the stage is the first.
#[inline(always)]
unsafe fn block<U: Unit, const TALL: bool, const WIDE: bool>(
    unit: &mut U,
    job: &Job,
    stage: Stage,
    sums: *mut Line,
) {
    let whole = job.words / SIDE * SIDE;
    // SAFETY: the job has these rows and panels; tiles without rows are not named; sums are whole tiles.
    unsafe {
        start::<U, 0>(unit, stage, sums);
        if WIDE {
            start::<U, 1>(unit, stage, sums);
        }
        if TALL {
            start::<U, 2>(unit, stage, sums);
            if WIDE {
                start::<U, 3>(unit, stage, sums);
            }
        }
        let second_rows = job.x.wrapping_add(SIDE * job.x_stride);
        let second_panel = job.lines.wrapping_add(job.line_stride);
        for k in (0..whole).step_by(SIDE) {
            let a = [job.x.wrapping_add(k), second_rows.wrapping_add(k)];
            let b = [job.lines.wrapping_add(k), second_panel.wrapping_add(k)];
            step::<U, TALL, WIDE>(unit, a, job.x_stride, b);
        }
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
        end::<U, 0>(unit, job, stage, sums);
        if WIDE {
            end::<U, 1>(unit, job, stage, sums);
        }
        if TALL {
            end::<U, 2>(unit, job, stage, sums);
            if WIDE {
                end::<U, 3>(unit, job, stage, sums);
            }
        }
    }
}

/// Nothing, or the sums so far.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn start<U: Unit, const C: u8>(unit: &mut U, stage: Stage, sums: *mut Line) {
    // SAFETY: the caller's sums.
    unsafe {
        match stage.is_first {
            true => unit.zero::<C>(),
            false => unit.load::<C>(sums.add(C as usize * SIDE).cast(), LANES),
        }
    }
}

/// Sums to where they wait, or to where they belong.
///
/// # Safety
/// As [`block`].
#[inline(always)]
unsafe fn end<U: Unit, const C: u8>(unit: &mut U, job: &Job, stage: Stage, sums: *mut Line) {
    // SAFETY: the caller's sums; the rest is passed on.
    unsafe {
        match stage.is_last {
            true => put::<U, C>(unit, job, C as usize / 2, C as usize % 2),
            false => unit.store::<C>(sums.add(C as usize * SIDE).cast(), LANES),
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
        unit.load::<4>(a[0], stride);
        if TALL {
            unit.load::<5>(a[1], stride);
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
unsafe fn put<U: Unit, const C: u8>(unit: &mut U, job: &Job, tall: usize, wide: usize) {
    let columns = (job.columns - wide * LANES).min(LANES);
    // SAFETY: these rows and columns are the job's.
    unsafe {
        let out = (job.out).add(tall * SIDE * job.out_stride + wide * LANES);
        if columns == LANES && job.into == Into::Replace {
            return unit.store::<C>(out.cast(), job.out_stride);
        }
        let mut tile = [Line::ZERO; SIDE];
        unit.store::<C>(tile.as_mut_ptr().cast(), LANES);
        let rows = (job.rows - tall * SIDE).min(SIDE);
        for (row, line) in tile.iter().enumerate().take(rows) {
            let out = out.add(row * job.out_stride);
            if columns == LANES {
                // Sixteen, as the compiler knows.
                let out: &mut [f32; LANES] = &mut *out.cast();
                out.iter_mut()
                    .zip(line.0)
                    .for_each(|(out, bits)| *out += f32::from_bits(bits));
                continue;
            }
            for (column, &bits) in line.0.iter().enumerate().take(columns) {
                let at = out.add(column);
                *at = match job.into {
                    Into::Replace => f32::from_bits(bits),
                    Into::Add => *at + f32::from_bits(bits),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::Simulated;
