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

mod unit;

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use super::dense::{Into, Job};
use super::panel::{LANES, Line, bf16_bits};

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
            for (column, &bits) in line.0.iter().enumerate().take(columns) {
                let at = out.add(row * job.out_stride + column);
                *at = match job.into {
                    Into::Replace => f32::from_bits(bits),
                    Into::Add => *at + f32::from_bits(bits),
                };
            }
        }
    }
}

/// Whether this processor has matrix units for bf16, the system lends them, and they multiply as this file expects.
pub fn is_here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| is_announced() && is_permitted() && multiplies())
}

/// [`is_here`], and it multiplies bytes, as this file expects, too.
pub fn has_bytes() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| {
        let is_announced = is_here() && features() & (1 << 25) != 0;
        // SAFETY: the unit is there, and AMX-INT8's bit says that it can.
        is_announced && unsafe { knows_its_bytes(&mut Hardware) }
    })
}

/// `CPUID`: AMX-BF16 and AMX-TILE.
fn is_announced() -> bool {
    features() & (1 << 22) != 0 && features() & (1 << 24) != 0
}

/// `CPUID` leaf 7, EDX.
fn features() -> u32 {
    match __cpuid_count(0, 0).eax {
        7.. => __cpuid_count(7, 0).edx,
        _ => 0,
    }
}

/// Asks Linux for the tiles' state (`arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`), once for all threads. Without it the first tile
/// instruction ends the process.
fn is_permitted() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let result: i64;
        // SAFETY: a system call that touches no memory of ours; `syscall` overwrites rcx and r11.
        unsafe {
            asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
                 lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        result == 0
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Multiplies small whole numbers, whose sums are exact in any order, and compares.
fn multiplies() -> bool {
    // SAFETY: `is_here` has seen and asked.
    unsafe { knows_its_sums(&mut Hardware) }
}

/// # Safety
/// The unit is there.
unsafe fn knows_its_sums<U: Unit>(unit: &mut U) -> bool {
    // More than one tile and a broken end in each direction.
    let (tokens, words, outputs) = (70, 21, 43);
    let x_at = |t: usize, k: usize| ((t * 7 + k * 3) % 11) as f32 - 5.0;
    let w_at = |n: usize, k: usize| ((n * 5 + k * 2) % 13) as f32 - 6.0;
    let pair = |at: &dyn Fn(usize) -> f32, word: usize| {
        u32::from(bf16_bits(at(2 * word))) | u32::from(bf16_bits(at(2 * word + 1))) << 16
    };
    let x: Vec<u32> = (0..tokens * words)
        .map(|i| pair(&|k| x_at(i / words, k), i % words))
        .collect();
    let w = super::Panels::pack(outputs, words, |n, word| pair(&|k| w_at(n, k), word));
    let mut out = vec![0f32; tokens * outputs];
    let job = Job {
        x: x.as_ptr(),
        x_stride: words,
        rows: tokens,
        lines: w.lines().as_ptr(),
        line_stride: words,
        words,
        out: out.as_mut_ptr(),
        out_stride: outputs,
        columns: outputs,
        into: Into::Replace,
    };
    // SAFETY: the job's sizes are those of x, w and out.
    unsafe { drive(unit, &job) };
    out.iter().enumerate().all(|(i, &got)| {
        let dot = |k: usize| x_at(i / outputs, k) * w_at(i % outputs, k);
        got == (0..2 * words).map(dot).sum::<f32>()
    })
}

/// Multiplies two tiles of bytes, the extremes of both signs among them, and compares.
///
/// # Safety
/// The unit is there and multiplies bytes.
unsafe fn knows_its_bytes<U: Unit>(unit: &mut U) -> bool {
    // Not whole tiles: 11 rows of 32 bytes.
    let (rows, words) = (11, 8);
    let a: [Line; SIDE] =
        std::array::from_fn(|m| Line(std::array::from_fn(|k| mix(m * SIDE + k, 1))));
    let b: [Line; SIDE] =
        std::array::from_fn(|k| Line(std::array::from_fn(|n| mix(k * SIDE + n, 2))));
    let mut c = [Line([1; SIDE]); SIDE];
    // SAFETY: a, b and c are whole tiles.
    unsafe {
        unit.configure([rows, 0], words);
        unit.zero::<0>();
        unit.load::<4>(a.as_ptr().cast(), LANES);
        unit.load::<6>(b.as_ptr().cast(), LANES);
        unit.dot_bytes::<0, 4, 6>();
        unit.dot_bytes::<0, 4, 6>();
        unit.store::<0>(c.as_mut_ptr().cast(), LANES);
        unit.release();
    }
    let expected = |m: usize, n: usize| -> i32 {
        let words = a[m].0.iter().zip(&b).take(words);
        let bytes = words.flat_map(|(a, b)| a.to_le_bytes().into_iter().zip(b.0[n].to_le_bytes()));
        bytes
            .map(|(a, b)| 2 * i32::from(a as i8) * i32::from(b))
            .sum()
    };
    (0..SIDE * SIDE).all(|at| {
        let (m, n) = (at / SIDE, at % SIDE);
        c[m].0[n] as i32 == if m < rows { expected(m, n) } else { 1 }
    })
}

/// Four bytes of no order, 0x80 and 0xff among them.
fn mix(at: usize, seed: u32) -> u32 {
    match at % 5 {
        0 => 0x80ff_7f80,
        _ => (at as u32 + seed).wrapping_mul(0x9e37_79b9).rotate_left(13),
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::Simulated;
