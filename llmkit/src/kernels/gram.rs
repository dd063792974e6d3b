//! Gram matrices: G (K, K) = Xᵀ · X of an activation X (T, K), what second-order methods know of a layer's inputs.
//!
//! Columns of X become rows of A = Xᵀ and panels of it, and G = A · Aᵀ is the product of [`dense`] with itself: the
//! sums go along T. G is symmetric, so panels right of the diagonal block are left out: only G\[i, j\] with j ≤ i is defined, what
//! is beyond it in the last blocks is not.
//!
//! f32 elements: products in f32, summed in f32 over [`SLAB`] rows and then added to what was there. bf16 elements: X is rounded to
//! bf16 first (relative 2⁻⁸ at most each, which adds about 10⁻⁶ of itself to the diagonal), the rest is the same.
//!
//! Cost: T·K² flops (half of the full product), and A twice in memory.

#![allow(unsafe_code)]

use std::cell::RefCell;

use super::dense::{self, Element, Into, Job};
use super::isa::Isa;
use super::panel::{LANES, Line, bf16_bits, bf16_pair, bf16_value};
use super::team::Team;

/// Rows of X whose products are summed before they are added to G: f32 sums stay short, and what is read stays in the cache.
pub const SLAB: usize = 512;
/// Rows of G in a task, a whole number of panels.
const BLOCK: usize = 192;
/// Rows of a block that share their last column: half of such a square on the diagonal is for nothing.
const STEP: usize = 48;
/// Rows of X that are fetched before they are transposed.
const AHEAD: usize = 32;

/// What is known of the columns of an activation.
#[derive(Debug)]
pub struct Moments<'a> {
    /// (K, K), of which the lower triangle is defined.
    pub gram: &'a mut [f32],
    /// Of each column Σ|x|.
    pub sums: &'a mut [f64],
    /// Of each column max|x|.
    pub greatest: &'a mut [f32],
}

/// Of `x` (T, `columns`): puts Xᵀ · X into the lower triangle of the Gram matrix, adds Σ|x| to the sums and raises the greatest to
/// max|x|. A sum with what is not a number is none.
///
/// # Panics
/// If `x` is not whole rows of `columns`, the Gram matrix is not (K, K), sums and greatest are not K, or the machine lacks `isa`.
pub fn moments_at(
    isa: Isa,
    element: Element,
    x: &[f32],
    columns: usize,
    moments: Moments<'_>,
    team: &Team,
) {
    let Moments {
        gram,
        sums,
        greatest,
    } = moments;
    assert!(sums.len() == columns && greatest.len() == columns, "K");
    all_slabs(
        isa,
        (element, x, columns),
        Into::Replace,
        gram,
        Some((sums, greatest)),
        team,
    );
}

/// Adds Xᵀ · X of `x` (T, `columns`) to the lower triangle of `gram` (K, K).
///
/// # Panics
/// If `x` is not whole rows of `columns`, `gram` not (K, K), or the machine lacks `isa`.
pub fn gram_at(
    isa: Isa,
    element: Element,
    x: &[f32],
    columns: usize,
    gram: &mut [f32],
    team: &Team,
) {
    all_slabs(isa, (element, x, columns), Into::Add, gram, None, team);
}

/// Σ|x| and max|x| of some columns.
type Magnitudes<'a> = (&'a mut [f64], &'a mut [f32]);

fn all_slabs(
    isa: Isa,
    (element, x, columns): (Element, &[f32], usize),
    into: Into,
    gram: &mut [f32],
    mut magnitudes: Option<Magnitudes<'_>>,
    team: &Team,
) {
    let isa = isa.checked();
    assert_eq!(gram.len(), columns * columns, "K by K");
    assert!(
        columns > 0 && x.len().is_multiple_of(columns),
        "rows of {columns}"
    );
    if isa == Isa::Reference || (x.is_empty() && into == Into::Replace) {
        if into == Into::Replace {
            gram.fill(0.0);
        }
        return reference(element, x, columns, gram, magnitudes);
    }
    for (index, slab) in x.chunks(SLAB * columns).enumerate() {
        let into = if index == 0 { into } else { Into::Add };
        let magnitudes =
            (magnitudes.as_mut()).map(|(sums, greatest)| (&mut **sums, &mut **greatest));
        slab_at(isa, (element, slab, columns), into, gram, magnitudes, team);
    }
}

/// Sums in f64, rounded once.
fn reference(
    element: Element,
    x: &[f32],
    columns: usize,
    gram: &mut [f32],
    magnitudes: Option<Magnitudes<'_>>,
) {
    let value = |t: usize, k: usize| {
        let value = x[t * columns + k];
        f64::from(match element {
            Element::F32 => value,
            Element::Bf16 => bf16_value(bf16_bits(value)),
        })
    };
    for i in 0..columns {
        for j in 0..=i {
            let sum: f64 = (0..x.len() / columns)
                .map(|t| value(t, i) * value(t, j))
                .sum();
            gram[i * columns + j] += sum as f32;
        }
    }
    let Some((sums, greatest)) = magnitudes else {
        return;
    };
    for row in x.chunks_exact(columns) {
        for ((x, sum), most) in row.iter().zip(&mut *sums).zip(&mut *greatest) {
            *sum += f64::from(x.abs());
            *most = if x.abs() <= *most { *most } else { x.abs() };
        }
    }
}

/// A where threads write blocks of rows of their own.
struct Shared<T>(*mut T);

// SAFETY: whoever uses the pointer writes a part that no other thread has.
unsafe impl<T> Sync for Shared<T> {}

/// Sixteen columns of X, where they go, and what is to be known of their magnitudes.
struct Part<'a> {
    element: Element,
    x: &'a [f32],
    columns: usize,
    /// The first of the sixteen, or of fewer if it is the last part.
    first: usize,
    lines: &'a mut [Line],
    rows: &'a mut [u32],
    magnitudes: Option<Magnitudes<'a>>,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn transpose_avx512(part: Part<'_>) {
    transpose(part, |square| turned_avx512(square));
}

/// Fetches what is at an address, if there is anything.
#[inline(always)]
fn prefetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; no memory is touched.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// A part of X as the lines of a panel, and as rows of words; `turned` transposes a square.
#[inline(always)]
fn transpose(part: Part<'_>, turned: impl Fn(&[Line; LANES]) -> [Line; LANES]) {
    let Part {
        element,
        x,
        columns,
        first,
        lines,
        rows,
        magnitudes,
    } = part;
    let (words, lanes) = (lines.len(), LANES.min(columns - first));
    // Sixteen of row `t`, those that are not there being zero.
    let sixteen = |t: usize| -> [f32; LANES] {
        let row = x.get(t * columns + first..).unwrap_or_default();
        match row.first_chunk() {
            Some(whole) if lanes == LANES => *whole,
            _ => {
                let mut out = [0.0; LANES];
                let count = lanes.min(row.len());
                out[..count].copy_from_slice(&row[..count]);
                out
            }
        }
    };
    let (mut sums, mut greatest) = ([0f32; LANES], [0f32; LANES]);
    let mut seen = |x: [f32; LANES]| {
        sums = std::array::from_fn(|lane| sums[lane] + x[lane].abs());
        greatest = std::array::from_fn(|lane| match x[lane].abs() <= greatest[lane] {
            true => greatest[lane],
            false => x[lane].abs(),
        });
        x
    };
    for start in (0..words).step_by(LANES) {
        let end = words.min(start + LANES);
        for (at, line) in lines[start..end].iter_mut().enumerate() {
            let at = start + at;
            // Rows are further apart than the processor looks ahead.
            for t in [2 * at + AHEAD, 2 * at + AHEAD + 1] {
                prefetch(x.as_ptr().wrapping_add(t * columns + first));
            }
            line.0 = match element {
                Element::F32 => seen(sixteen(at)).map(f32::to_bits),
                Element::Bf16 => {
                    let (low, high) = (seen(sixteen(2 * at)), seen(sixteen(2 * at + 1)));
                    std::array::from_fn(|lane| bf16_pair(low[lane], high[lane]))
                }
            };
        }
        let mut square = [Line::ZERO; LANES];
        square[..end - start].copy_from_slice(&lines[start..end]);
        let square = turned(&square);
        for (row, line) in rows.chunks_exact_mut(words).zip(&square) {
            let row = &mut row[start..end];
            match row.first_chunk_mut() {
                Some(whole) => *whole = line.0,
                None => row.copy_from_slice(&line.0[..end - start]),
            }
        }
    }
    if let Some((of_sums, of_greatest)) = magnitudes {
        for lane in 0..lanes {
            of_sums[lane] += f64::from(sums[lane]);
            let most = &mut of_greatest[lane];
            *most = if greatest[lane] <= *most {
                *most
            } else {
                greatest[lane]
            };
        }
    }
}

/// A square of words, rows for columns.
fn turned(square: &[Line; LANES]) -> [Line; LANES] {
    std::array::from_fn(|lane| Line(square.map(|line| line.0[lane])))
}

/// [`turned`] in four steps of exchanges: of words and pairs of words inside quarters of registers, then of quarters.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn turned_avx512(square: &[Line; LANES]) -> [Line; LANES] {
    use std::arch::x86_64::*;
    // SAFETY: a line is 64 aligned bytes.
    let r: [__m512i; LANES] =
        std::array::from_fn(|i| unsafe { _mm512_load_si512((&raw const square[i]).cast()) });
    let pairs: [__m512i; LANES] = std::array::from_fn(|i| match i % 2 {
        0 => _mm512_unpacklo_epi32(r[i], r[i + 1]),
        _ => _mm512_unpackhi_epi32(r[i - 1], r[i]),
    });
    // Register 4·i + j: in each quarter, column j of rows 4·i … 4·i + 3.
    let quads: [__m512i; LANES] = std::array::from_fn(|at| {
        let (i, j) = (at / 4 * 4, at % 4);
        let (a, b) = (pairs[i + j / 2], pairs[i + 2 + j / 2]);
        match j % 2 {
            0 => _mm512_unpacklo_epi64(a, b),
            _ => _mm512_unpackhi_epi64(a, b),
        }
    });
    let mut out = [Line::ZERO; LANES];
    for j in 0..4 {
        let even_low = _mm512_shuffle_i32x4::<0b10_00_10_00>(quads[j], quads[4 + j]);
        let odd_low = _mm512_shuffle_i32x4::<0b11_01_11_01>(quads[j], quads[4 + j]);
        let even_high = _mm512_shuffle_i32x4::<0b10_00_10_00>(quads[8 + j], quads[12 + j]);
        let odd_high = _mm512_shuffle_i32x4::<0b11_01_11_01>(quads[8 + j], quads[12 + j]);
        let of_quarters = [
            _mm512_shuffle_i32x4::<0b10_00_10_00>(even_low, even_high),
            _mm512_shuffle_i32x4::<0b10_00_10_00>(odd_low, odd_high),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(even_low, even_high),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(odd_low, odd_high),
        ];
        for (quarter, line) in of_quarters.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_store_si512((&raw mut out[4 * quarter + j]).cast(), line) };
        }
    }
    out
}

/// At most [`SLAB`] rows.
fn slab_at(
    isa: Isa,
    (element, x, columns): (Element, &[f32], usize),
    into: Into,
    gram: &mut [f32],
    magnitudes: Option<Magnitudes<'_>>,
    team: &Team,
) {
    let tokens = x.len() / columns;
    let words = match element {
        Element::F32 => tokens,
        Element::Bf16 => tokens.div_ceil(2),
    };
    let panels = columns.div_ceil(LANES);
    // Used again from call to call: all of it is written.
    thread_local! {
        static MEMORY: RefCell<(Vec<Line>, Vec<u32>)> = RefCell::default();
    }
    let (mut lines, mut rows) = MEMORY.take();
    lines.resize(panels * words, Line::ZERO);
    rows.resize(columns * words, 0);
    let mut magnitudes: Vec<Option<Magnitudes<'_>>> = match magnitudes {
        Some((sums, greatest)) => {
            let parts = sums.chunks_mut(LANES).zip(greatest.chunks_mut(LANES));
            parts.map(Some).collect()
        }
        None => (0..panels).map(|_| None).collect(),
    };
    let parts = lines
        .chunks_mut(words.max(1))
        .zip(rows.chunks_mut((LANES * words).max(1)))
        .zip(magnitudes.iter_mut().map(Option::take));
    team.each(parts, &|panel, ((lines, rows), magnitudes)| {
        let part = Part {
            element,
            x,
            columns,
            first: panel * LANES,
            lines,
            rows,
            magnitudes,
        };
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `isa` was checked.
            Isa::Avx512 | Isa::Amx => unsafe { transpose_avx512(part) },
            _ => transpose(part, turned),
        }
    });
    let out = Shared(gram.as_mut_ptr());
    let blocks = columns.div_ceil(BLOCK);
    team.tasks(blocks, &|index| {
        let out = &out;
        // The longest rows first: what ends last is then short.
        let first = (blocks - 1 - index) * BLOCK;
        let end = columns.min(first + BLOCK);
        // All that is left of the diagonal block, then that block in steps.
        let left = (first > 0).then_some((first..end, 0..first));
        let steps = (first..end).step_by(STEP).map(|row| {
            let end = end.min(row + STEP);
            (row..end, first..end)
        });
        for (of_rows, of_columns) in left.into_iter().chain(steps) {
            let job = Job {
                x: rows[of_rows.start * words..].as_ptr(),
                x_stride: words,
                rows: of_rows.len(),
                lines: lines[of_columns.start / LANES * words..].as_ptr(),
                line_stride: words,
                words,
                // SAFETY: row and column are below K.
                out: unsafe { out.0.add(of_rows.start * columns + of_columns.start) },
                out_stride: columns,
                columns: of_columns.len(),
                into,
                next: std::ptr::null(),
                gap: 1,
                streams: false,
            };
            // SAFETY: `isa` was checked and is not the reference; the job's rows, panels and columns lie inside; these rows of G are
            // this task's.
            unsafe { dense::run(isa, element, &job) };
        }
    });
    MEMORY.set((lines, rows));
}
