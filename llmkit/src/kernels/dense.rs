//! Products of an input with a matrix of f32 or bf16 elements: out (T, N) = x (T, K) · Wᵀ, W (N, K) in [`Panels`].
//!
//! For each output the products are added along K, first to last, in one f32 lane: the sum depends neither on T nor on how work is
//! split, so one token and a batch of a thousand give the same bits. Parallelism comes from 16 outputs in a register and
//! from the M × P outputs of a *tile*: M input rows times P panels, held in registers while K passes by.
//!
//! bf16 products follow the processor's `vdpbf16ps` (pairs of products added to an f32, subnormals taken as zero), and AVX2
//! does the same in f32 steps; the two differ in the last bits.
//!
//! Cost: 2·T·N·K flops; the matrix is read once for each block of rows that fits half of a 1 MiB cache with it.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::isa::Isa;
pub use super::panel::Element;
use super::panel::{LANES, Line, Panels};
use super::product::{Matrix, Product, multiply_all};
use super::team::Team;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::put512;

/// Whether a product replaces what is in the output or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// out = x · Wᵀ.
    Replace,
    /// out = out + x · Wᵀ (a residual connection).
    Add,
}

/// out (T, N) = x (T, words) · Wᵀ on the best instruction set of this machine and all threads of `team`.
///
/// # Panics
/// If `x` or `out` are not T rows of the matrix's sizes.
pub fn multiply(
    element: Element,
    x: &[u32],
    matrix: &Panels,
    into: Into,
    out: &mut [f32],
    team: &Team,
) {
    multiply_at(Isa::best(), element, x, matrix, into, out, team);
}

/// [`multiply`] on a given instruction set.
///
/// # Panics
/// As [`multiply`], or if the machine lacks `isa`.
pub fn multiply_at(
    isa: Isa,
    element: Element,
    x: &[u32],
    matrix: &Panels,
    into: Into,
    out: &mut [f32],
    team: &Team,
) {
    let product = Product {
        matrix: Matrix::Dense { element, x, matrix },
        into,
        out,
    };
    multiply_all(isa, &mut [product], team);
}

/// Where the rows of a product go.
#[derive(Clone, Copy)]
pub(super) struct Out {
    /// Where the first column of the first row is, or would be if only later columns are wanted.
    pub at: *mut f32,
    /// From row to row.
    pub stride: usize,
    /// The first column that is not wanted any more, or not there.
    pub end: usize,
    /// Whether they go past the caches: as [`outgrows_caches`](Out::outgrows_caches) says, or not.
    pub streams: bool,
}

impl Out {
    /// Whether rows of `stride` at `out` are so many that none of them is left in a cache when they are wanted: then caches need not fetch what is
    /// written over, and keep what is read. Only from cache lines on.
    pub fn outgrows_caches(out: &[f32], stride: usize) -> bool {
        /// Twice the second caches of two cores.
        const MOST: usize = 1 << 23;
        let on_lines = out.as_ptr().addr().is_multiple_of(64) && stride.is_multiple_of(LANES);
        size_of_val(out) > MOST && on_lines
    }

    pub fn place(self, row: usize, column: usize) -> *mut f32 {
        self.at.wrapping_add(row * self.stride + column)
    }
}

/// A matrix from some panel on, and its input.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub element: Element,
    /// (T, words).
    pub x: &'a [u32],
    pub words: usize,
    /// From that panel on.
    pub lines: &'a [Line],
    /// As of a [`Job`], for the lines of some panels.
    pub next: *const Line,
}

/// Panels `panels` of rows `tokens` of x · Wᵀ, into `out` (T, N); those are the first that `part` has lines of.
///
/// # Safety
/// * This machine has `isa`, which is not the reference.
/// * `x` and `out` are T rows of the matrix's sizes, `tokens` among them; nobody else touches these rows and columns of `out` meanwhile.
pub(super) unsafe fn some_panels(
    isa: Isa,
    part: &Part<'_>,
    into: Into,
    out: Out,
    tokens: Range<usize>,
    panels: Range<usize>,
) {
    let &Part {
        element,
        x,
        words,
        lines,
        next,
    } = part;
    assert!(lines.len() >= panels.len() * words, "lines of all panels");
    // As many rows of x as half a second-level cache holds, a whole number of tiles. Processors with matrix units have twice the cache.
    let (bytes, tile) = match (isa, element) {
        (Isa::Amx, Element::Bf16) => (1 << 20, 32),
        _ => (1 << 19, 12),
    };
    let block = (bytes / (4 * words.max(1))).next_multiple_of(tile);
    let first = panels.start * LANES;
    for start in tokens.clone().step_by(block) {
        let job = Job {
            x: x[start * words..].as_ptr(),
            x_stride: words,
            rows: block.min(tokens.end - start),
            lines: lines.as_ptr(),
            line_stride: words,
            words,
            out: out.place(start, first),
            out_stride: out.stride,
            columns: (panels.end * LANES).min(out.end) - first,
            into,
            next,
            gap: 1,
            streams: out.streams,
        };
        // SAFETY: x, lines and out hold these rows, panels and columns; the rest is the caller's.
        unsafe { run(isa, element, &job) };
    }
}

/// A product on raw memory.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // nobody to hand it to
pub(super) struct Job {
    /// Input rows, `rows` × `words`, `x_stride` apart.
    pub x: *const u32,
    pub x_stride: usize,
    pub rows: usize,
    /// Panels of `words` lines, `line_stride` apart, enough for `columns`.
    pub lines: *const Line,
    pub line_stride: usize,
    pub words: usize,
    /// Output rows of `columns`, `out_stride` apart.
    pub out: *mut f32,
    pub out_stride: usize,
    pub columns: usize,
    pub into: Into,
    /// What is wanted from memory after these panels, as many lines as they have; null if nothing is. It need not be there.
    pub next: *const Line,
    /// Lines from there to what is wanted as soon: 1, or where the second of two panels is if they are not one behind the other.
    pub gap: usize,
    /// Whether results go past the caches where the kernel can do that; they begin on cache lines then.
    pub streams: bool,
}

/// Does a job.
///
/// # Safety
/// * This machine has `isa`, which is not the reference.
/// * All that the job's pointers, sizes and strides reach is valid; nobody else touches the output meanwhile.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn run(isa: Isa, element: Element, job: &Job) {
    // SAFETY: passed on.
    unsafe {
        match (isa, element) {
            (Isa::Avx512 | Isa::Amx, Element::F32) => avx512::run::<F32>(job),
            (Isa::Avx512, Element::Bf16) => avx512::run::<Bf16>(job),
            (Isa::Amx, Element::Bf16) => super::amx::bf16(job),
            (Isa::Avx2, Element::F32) => avx2::run::<F32>(job),
            (Isa::Avx2, Element::Bf16) => avx2::run::<Bf16>(job),
            (Isa::Reference, _) => unreachable!("the reference is not a tile kernel"),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn run(_: Isa, _: Element, _: &Job) {
    unreachable!("the reference is not a tile kernel")
}

/// Sums in f64, rounded once.
pub(super) fn reference(element: Element, x: &[u32], matrix: &Panels, into: Into, out: &mut [f32]) {
    let (words, outputs) = (matrix.words(), matrix.rows());
    for (i, out) in out.iter_mut().enumerate() {
        let (token, row) = (i / outputs, i % outputs);
        let mut sum = 0.0;
        for at in 0..words {
            for i in 0..element.per_word() {
                let a = element.of_word(x[token * words + at], i);
                let b = element.of_word(matrix.word(row, at), i);
                sum += f64::from(a) * f64::from(b);
            }
        }
        *out = match into {
            Into::Replace => sum as f32,
            Into::Add => *out + sum as f32,
        };
    }
}

/// One step along K of 16 (or 8) outputs.
#[cfg(target_arch = "x86_64")]
trait Dot {
    /// # Safety
    /// AVX-512 with BF16.
    unsafe fn dot512(sum: __m512, line: __m512i, x: __m512i) -> __m512;
    /// # Safety
    /// AVX2 with FMA.
    unsafe fn dot256(sum: __m256, line: __m256i, x: __m256i) -> __m256;
}

#[cfg(target_arch = "x86_64")]
struct F32;
#[cfg(target_arch = "x86_64")]
impl Dot for F32 {
    #[inline(always)]
    unsafe fn dot512(sum: __m512, line: __m512i, x: __m512i) -> __m512 {
        // SAFETY: the caller has the features.
        unsafe { _mm512_fmadd_ps(_mm512_castsi512_ps(line), _mm512_castsi512_ps(x), sum) }
    }
    #[inline(always)]
    unsafe fn dot256(sum: __m256, line: __m256i, x: __m256i) -> __m256 {
        // SAFETY: the caller has the features.
        unsafe { _mm256_fmadd_ps(_mm256_castsi256_ps(line), _mm256_castsi256_ps(x), sum) }
    }
}

#[cfg(target_arch = "x86_64")]
struct Bf16;
#[cfg(target_arch = "x86_64")]
impl Dot for Bf16 {
    #[inline(always)]
    unsafe fn dot512(sum: __m512, line: __m512i, x: __m512i) -> __m512 {
        // SAFETY: the caller has the features; __m512bh is the same 64 bytes.
        unsafe {
            let halves = |it: __m512i| std::mem::transmute::<__m512i, __m512bh>(it);
            _mm512_dpbf16_ps(sum, halves(line), halves(x))
        }
    }
    #[inline(always)]
    unsafe fn dot256(sum: __m256, line: __m256i, x: __m256i) -> __m256 {
        // SAFETY: the caller has the features.
        unsafe {
            let low = |it| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(it));
            let high = |it| {
                let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                _mm256_castsi256_ps(_mm256_and_si256(it, mask))
            };
            let sum = _mm256_fmadd_ps(high(line), high(x), sum);
            _mm256_fmadd_ps(low(line), low(x), sum)
        }
    }
}

/// Rows of the tile that comes next: tiles of at most `most`, as equal as can be.
#[cfg(target_arch = "x86_64")]
pub(super) fn tile_rows(rest: usize, most: usize) -> usize {
    rest.div_ceil(rest.div_ceil(most).max(1))
}

/// Panels of the tile that comes next, for what `columns` reach into: at most `most`, as equal as can be.
#[cfg(target_arch = "x86_64")]
pub(super) fn tile_panels(columns: usize, most: usize) -> usize {
    tile_rows(columns.div_ceil(LANES).max(1), most)
}

/// Lines that one row fetches ahead: 4 KiB, as measured for [`windowed`](super::windowed).
pub(super) const SOON: usize = 64;

/// The bits of f32 values, for [`multiply`] with [`Element::F32`].
pub fn f32_words(values: &[f32]) -> &[u32] {
    // SAFETY: same size and alignment, and any bits are a u32.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}
