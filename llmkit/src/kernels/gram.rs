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

use super::dense::{self, Element, Into, Job};
use super::isa::Isa;
use super::panel::{LANES, Line, bf16_bits, bf16_pair, bf16_value};
use super::team::Team;

/// Rows of X whose products are summed before they are added to G: f32 sums stay short, and what is read stays in the cache.
pub const SLAB: usize = 512;
/// Rows of G in a task, a whole number of panels.
const BLOCK: usize = 192;

/// Adds Xᵀ · X of `x` (T, `columns`) to the lower triangle of `gram` (K, K), on the best instruction set and all threads of `team`.
///
/// # Panics
/// If `x` is not whole rows of `columns`, or `gram` not (K, K).
pub fn gram(element: Element, x: &[f32], columns: usize, gram: &mut [f32], team: &Team) {
    gram_at(Isa::best(), element, x, columns, gram, team);
}

/// [`gram`] on a given instruction set.
///
/// # Panics
/// As [`gram`], or if the machine lacks `isa`.
pub fn gram_at(
    isa: Isa,
    element: Element,
    x: &[f32],
    columns: usize,
    gram: &mut [f32],
    team: &Team,
) {
    let isa = isa.checked();
    assert_eq!(gram.len(), columns * columns, "K by K");
    assert!(
        columns > 0 && x.len().is_multiple_of(columns),
        "rows of {columns}"
    );
    if isa == Isa::Reference {
        return reference(element, x, columns, gram);
    }
    for slab in x.chunks(SLAB * columns) {
        slab_at(isa, element, slab, columns, gram, team);
    }
}

/// Sums in f64, rounded once.
fn reference(element: Element, x: &[f32], columns: usize, gram: &mut [f32]) {
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
}

/// A where threads write blocks of rows of their own.
struct Shared<T>(*mut T);

// SAFETY: whoever uses the pointer writes a part that no other thread has.
unsafe impl<T> Sync for Shared<T> {}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn transpose_avx512(part: (Element, &[f32], usize, usize), lines: &mut [Line], rows: &mut [u32]) {
    transpose(part, lines, rows);
}

/// Columns `first` … of X, up to 16: as the lines of a panel, and as rows of words.
#[inline(always)]
fn transpose(
    (element, x, columns, first): (Element, &[f32], usize, usize),
    lines: &mut [Line],
    rows: &mut [u32],
) {
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
    for start in (0..words).step_by(LANES) {
        let end = words.min(start + LANES);
        for (at, line) in lines[start..end].iter_mut().enumerate() {
            let at = start + at;
            line.0 = match element {
                Element::F32 => sixteen(at).map(f32::to_bits),
                Element::Bf16 => {
                    let (low, high) = (sixteen(2 * at), sixteen(2 * at + 1));
                    std::array::from_fn(|lane| bf16_pair(low[lane], high[lane]))
                }
            };
        }
        for (lane, row) in rows.chunks_exact_mut(words).enumerate() {
            let from = &lines[start..end];
            for (word, line) in row[start..end].iter_mut().zip(from) {
                *word = line.0[lane];
            }
        }
    }
}

/// At most [`SLAB`] rows.
fn slab_at(isa: Isa, element: Element, x: &[f32], columns: usize, gram: &mut [f32], team: &Team) {
    let tokens = x.len() / columns;
    let words = match element {
        Element::F32 => tokens,
        Element::Bf16 => tokens.div_ceil(2),
    };
    let panels = columns.div_ceil(LANES);
    let mut lines = vec![Line::ZERO; panels * words];
    let mut rows = vec![0u32; columns * words];
    let parts = lines
        .chunks_mut(words.max(1))
        .zip(rows.chunks_mut((LANES * words).max(1)));
    team.each(parts, &|panel, (lines, rows)| {
        let part = (element, x, columns, panel * LANES);
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `isa` was checked.
            Isa::Avx512 | Isa::Amx => unsafe { transpose_avx512(part, lines, rows) },
            _ => transpose(part, lines, rows),
        }
    });
    let out = Shared(gram.as_mut_ptr());
    let blocks = columns.div_ceil(BLOCK);
    team.tasks(blocks, &|index| {
        let out = &out;
        // The longest rows first: what ends last is then short.
        let first = (blocks - 1 - index) * BLOCK;
        let end = columns.min(first + BLOCK);
        let job = Job {
            x: rows[first * words..].as_ptr(),
            x_stride: words,
            rows: end - first,
            lines: lines.as_ptr(),
            line_stride: words,
            words,
            // SAFETY: first < K.
            out: unsafe { out.0.add(first * columns) },
            out_stride: columns,
            columns: end,
            into: Into::Add,
        };
        // SAFETY: `isa` was checked and is not the reference; the job's rows, panels and columns lie inside; these rows of G are
        // this task's.
        unsafe { dense::run(isa, element, &job) };
    });
}

/// Of each column of `x` (T, `columns`): adds Σ|x| to `sums` and raises `greatest` to max|x|. What is not a number makes both so.
///
/// # Panics
/// If sizes do not fit.
pub fn magnitudes(
    isa: Isa,
    x: &[f32],
    columns: usize,
    sums: &mut [f64],
    greatest: &mut [f32],
    team: &Team,
) {
    assert!(sums.len() == columns && greatest.len() == columns, "K");
    assert!(x.len().is_multiple_of(columns), "rows of {columns}");
    let parts = sums.chunks_mut(BLOCK).zip(greatest.chunks_mut(BLOCK));
    let isa = isa.checked();
    team.each(parts, &|index, (sums, greatest)| {
        let part = (x, columns, index * BLOCK);
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `checked` has seen the features on this machine.
            Isa::Avx512 | Isa::Amx => unsafe { magnitudes_avx512(part, sums, greatest) },
            _ => some_magnitudes(part, sums, greatest),
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
fn magnitudes_avx512(part: (&[f32], usize, usize), sums: &mut [f64], greatest: &mut [f32]) {
    some_magnitudes(part, sums, greatest);
}

/// Of the columns from `first` on that `sums` has.
#[inline(always)]
fn some_magnitudes(
    (x, columns, first): (&[f32], usize, usize),
    sums: &mut [f64],
    greatest: &mut [f32],
) {
    for rows in x.chunks(SLAB * columns) {
        let mut short = [0f32; BLOCK];
        for row in rows.chunks_exact(columns) {
            let row = &row[first..][..sums.len()];
            for ((x, sum), most) in row.iter().zip(&mut short).zip(greatest.iter_mut()) {
                *sum += x.abs();
                *most = if x.abs() <= *most { *most } else { x.abs() };
            }
        }
        for (sum, short) in sums.iter_mut().zip(short) {
            *sum += f64::from(short);
        }
    }
}
