//! Tiles on AVX-512 with VNNI: M input rows times P panels.

use std::arch::x86_64::*;

use half::f16;

use super::{Job, WORDS};
use crate::kernels::dense::{SOON, put512, tile_panels, tile_rows};
use crate::kernels::panel::{LANES, Line};

/// # Safety
/// This machine has these features; the job's memory is valid and nobody else touches its output.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn run<const BITS: usize>(job: &Job) {
    // One row is bound by memory, which likes one stream better than several. More are bound by arithmetic, and with two panels what is
    // loaded and spread of x serves two products.
    let most = if job.rows == 1 { 1 } else { 2 };
    let mut column = 0;
    while column < job.columns {
        let panels = tile_panels(job.columns - column, most);
        let passes = job.rows.div_ceil(12 / panels);
        let (mut row, mut pass) = (0, 0);
        while row < job.rows {
            let rows = tile_rows(job.rows - row, 12 / panels);
            macro_rules! tiles {
                ($piece:ident: $($m:literal x $($p:literal)*),*) => {
                    match (rows, panels) {
                        $($(($m, $p) => tile512::<BITS, $m, $p>(&$piece),)*)*
                        _ => unreachable!("no tile of {rows} rows and {panels} panels"),
                    }
                };
            }
            // SAFETY: row < rows and column < columns; the piece has these rows and columns that reach into its last panel.
            unsafe {
                let mut piece = job.at::<BITS>(row, column);
                // Rows that pass by a tile's panels fetch those of the next tile: processors do not begin a stream by themselves before it has
                // been missed a few times, and a panel is short. Each pass has its share, so that memory does not rest. Behind the last tile
                // there is what this thread does next, most times.
                piece.ahead = match job.rows {
                    1 => SOON,
                    _ => panels * job.chunks * BITS,
                };
                (piece.first, piece.every) = (pass, passes);
                tiles!(piece: 1 x 1 2, 2 x 1 2, 3 x 1 2, 4 x 1 2, 5 x 1 2, 6 x 1 2, 7 x 1, 8 x 1, 9 x 1, 10 x 1, 11 x 1, 12 x 1);
            }
            row += rows;
            pass += 1;
        }
        column += panels * LANES;
    }
}

/// Word `J` of the codes of a chunk, 16 rows: a byte a code.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn word512<const BITS: usize, const J: usize>(chunk: *const Line) -> __m512i {
    // SAFETY: a chunk has BITS lines, and J < 8.
    unsafe {
        if BITS == 8 {
            return _mm512_load_si512(chunk.wrapping_add(J).cast());
        }
        let mut word = _mm512_setzero_si512();
        // No loop: shifts must be known when this is compiled.
        if BITS & 4 != 0 {
            word = plane512::<J>(chunk, 0, 4);
        }
        if BITS & 2 != 0 {
            word = _mm512_or_si512(word, plane512::<J>(chunk, BITS & 4, 2));
        }
        if BITS & 1 != 0 {
            word = _mm512_or_si512(word, plane512::<J>(chunk, BITS & 6, 1));
        }
        word
    }
}

/// What the plane of `width` bits that begins at bit (and line) `first` has of word `J`, in its place.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn plane512<const J: usize>(chunk: *const Line, first: usize, width: usize) -> __m512i {
    // SAFETY: the plane has `width` lines from `first` on, and J < 8.
    unsafe {
        let in_line = 8 / width;
        let line = _mm512_load_si512(chunk.wrapping_add(first + J / in_line).cast());
        let mask = _mm512_set1_epi8(((1 << width) - 1) as i8);
        let from = (J % in_line * width) as i32;
        let part = _mm512_and_si512(_mm512_srl_epi32(line, _mm_cvtsi32_si128(from)), mask);
        _mm512_sll_epi32(part, _mm_cvtsi32_si128(first as i32))
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile512<const BITS: usize, const M: usize, const P: usize>(job: &Job) {
    let mut totals = [[_mm512_setzero_ps(); P]; M];
    // Sums of few products at a time would wait for each other: those of odd words are apart. They are whole numbers, so the bits are the same.
    let is_split = M * P <= 4;
    // SAFETY: M rows and P panels lie inside the job; the last panel's columns are masked.
    unsafe {
        let has_mins = !job.mins.is_null();
        // No arithmetic but additions of constants in the loops: their pace is one product a cycle.
        let x: [*const u32; M] =
            std::array::from_fn(|m| job.x.wrapping_add(m * job.chunks * WORDS));
        let lines: [*const Line; P] =
            std::array::from_fn(|p| job.lines.wrapping_add(p * job.chunks * BITS));
        let (mut chunk, mut fetch) = (0usize, job.first);
        if job.first == 0 {
            // Scales of the next tile, less than a processor would notice as a stream.
            let bytes = P * job.groups * size_of::<[f16; LANES]>();
            for of_groups in [job.scales, job.mins]
                .iter()
                .take(1 + usize::from(has_mins))
            {
                let mut at = of_groups.wrapping_byte_add(bytes);
                for _ in 0..bytes.div_ceil(64) {
                    _mm_prefetch::<_MM_HINT_T0>(at.cast());
                    at = at.wrapping_byte_add(64);
                }
            }
        }
        for g in 0..job.groups {
            let mut sums = [[_mm512_setzero_si512(); P]; M];
            let mut odd = sums;
            for (m, sums) in sums.iter_mut().enumerate() {
                let at = m.wrapping_mul(job.groups).wrapping_add(g);
                // Wrapping: a group with a value that is no number has a scale that is none, and any sum.
                let correction = job.minus_zero.wrapping_mul(*job.x_sums.wrapping_add(at));
                *sums = [_mm512_set1_epi32(correction); P];
            }
            let end = job.chunks.min((g + 1) * job.group_chunks);
            while chunk < end {
                let (word, line) = (chunk.wrapping_mul(WORDS), chunk.wrapping_mul(BITS));
                if chunk == fetch {
                    for lines in lines {
                        let next = lines.wrapping_add(line).wrapping_add(job.ahead);
                        for bit in 0..BITS {
                            let line = next.wrapping_add(bit).cast();
                            match M {
                                1 => _mm_prefetch::<_MM_HINT_T0>(line),
                                _ => _mm_prefetch::<_MM_HINT_T1>(line),
                            }
                        }
                    }
                    fetch = fetch.wrapping_add(job.every);
                }
                macro_rules! words {
                    ($($j:literal)*) => {$(
                        let mut codes = [_mm512_setzero_si512(); P];
                        for p in 0..P {
                            codes[p] = word512::<BITS, $j>(lines[p].wrapping_add(line));
                        }
                        for m in 0..M {
                            let x = _mm512_set1_epi32(*x[m].wrapping_add(word.wrapping_add($j)) as i32);
                            for p in 0..P {
                                let sum = if is_split && $j % 2 == 1 { &mut odd[m][p] } else { &mut sums[m][p] };
                                *sum = _mm512_dpbusd_epi32(*sum, codes[p], x);
                            }
                        }
                    )*};
                }
                words!(0 1 2 3 4 5 6 7);
                chunk = chunk.wrapping_add(1);
            }
            for p in 0..P {
                let at = p * job.groups + g;
                let scale = _mm512_cvtph_ps(_mm256_loadu_si256(job.scales.wrapping_add(at).cast()));
                let min = match has_mins {
                    true => _mm512_cvtph_ps(_mm256_loadu_si256(job.mins.wrapping_add(at).cast())),
                    false => _mm512_setzero_ps(),
                };
                for m in 0..M {
                    let at = (m.wrapping_mul(job.groups)).wrapping_add(g);
                    let x_scale = *job.x_scales.wrapping_add(at);
                    let sum = match is_split {
                        true => _mm512_add_epi32(sums[m][p], odd[m][p]),
                        false => sums[m][p],
                    };
                    let sum = _mm512_cvtepi32_ps(sum);
                    let factor = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
                    totals[m][p] = _mm512_fmadd_ps(sum, factor, totals[m][p]);
                    if has_mins {
                        let x_sum = x_scale * *job.x_sums.wrapping_add(at) as f32;
                        totals[m][p] = _mm512_fmadd_ps(min, _mm512_set1_ps(x_sum), totals[m][p]);
                    }
                }
            }
        }
        for (m, totals) in totals.iter().enumerate() {
            for (p, &total) in totals.iter().enumerate() {
                let at = job.out.add(m * job.out_stride + p * LANES);
                put512(at, job.columns - p * LANES, job.into, total);
            }
        }
    }
}
