//! On AVX-512 elements are unpacked in registers, on their way from memory to the first rows. For those that follow they are kept.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Packed, Patch, Windowed};
use crate::kernels::dense::{self, Into, Out, SOON, put512, tile_panels, tile_rows};
use crate::kernels::isa::Isa;
use crate::kernels::panel::{LANES, Line};

/// Rows of the tallest tile.
const TALLEST: usize = 12;

/// Bytes that all streams of a tile together fetch ahead. Measured on Zen 5: one token's products take 4.0 ms with it and one stream, 4.6
/// without and eight streams (201 MB on two cores, 49 GB/s).
const AHEAD: usize = SOON * size_of::<Line>();

/// A product of as many rows and panels as a tile has.
struct Job {
    x: *const u32,
    words: usize,
    /// Panels of `words` lines.
    lines: *const Packed,
    /// One a panel.
    windows: *const Line,
    out: *mut f32,
    out_stride: usize,
    columns: usize,
    into: Into,
    /// Where the unpacked panels go, one after the other, for other rows; null if there are none.
    keep: *mut Line,
}

/// As [`some_panels`](super::some_panels); `lines` are those of two panels, at least.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi")]
pub(super) unsafe fn some_panels(
    (x, matrix): (&[u32], &Windowed),
    into: Into,
    out: Out,
    tokens: Range<usize>,
    panels: Range<usize>,
    lines: &mut [Line],
) {
    let words = matrix.words;
    // One row is bound by memory, which likes one stream better than several; few rows leave registers for many panels.
    let most = match tokens.len() {
        1 => 1,
        2..=6 => 4,
        _ => 2,
    };
    if tokens.is_empty() {
        return;
    }
    let mut panel = panels.start;
    while panel < panels.end {
        let together = tile_panels((panels.end - panel) * LANES, most);
        let mut patches = [[Patch::END].as_slice(); 4];
        for (i, patches) in patches.iter_mut().enumerate().take(together) {
            *patches = &matrix.patches[matrix.firsts[panel + i]..];
        }
        // Rows of the first tile; the rest comes when the panels are unpacked.
        let rows = tile_rows(tokens.len(), TALLEST);
        let rest = tokens.start + rows..tokens.end;
        let job = Job {
            x: x[tokens.start * words..].as_ptr(),
            words,
            lines: matrix.lines[panel * words..].as_ptr(),
            windows: matrix.windows[panel..].as_ptr(),
            out: out.place(tokens.start, panel * LANES),
            out_stride: out.stride,
            columns: out.end - panel * LANES,
            into,
            keep: match rest.is_empty() {
                true => std::ptr::null_mut(),
                false => lines[..together * words].as_mut_ptr(),
            },
        };
        macro_rules! tiles {
            ($($m:literal x $($p:literal)*),*) => {
                match (rows, together) {
                    $($(($m, $p) => tile::<$m, $p>(&job, patches),)*)*
                    _ => unreachable!("no tile of {rows} rows and {together} panels"),
                }
            };
        }
        // SAFETY: the job has these rows and panels.
        unsafe {
            tiles!(1 x 1, 2 x 1 2 3 4, 3 x 1 2 3 4, 4 x 1 2 3 4, 5 x 1 2 3 4, 6 x 1 2 3 4,
                   7 x 1 2, 8 x 1 2, 9 x 1 2, 10 x 1 2, 11 x 1 2, 12 x 1 2);
        }
        if !rest.is_empty() {
            let part = matrix.part(x, lines, panel + together);
            let these = panel..panel + together;
            // SAFETY: passed on.
            unsafe { dense::some_panels(Isa::Avx512, &part, into, out, rest, these) };
        }
        panel += together;
    }
}

/// Where the bytes of a [`Packed`] go: those of a row side by side, the third twice.
const SIDE_BY_SIDE: [u8; 64] = {
    let mut out = [0; 64];
    let mut at = 0;
    while at < 64 {
        let part = [0, 1, 2, 2][at % 4];
        out[at] = (part * LANES + at / 4) as u8;
        at += 1;
    }
    out
};

/// Which eight bits of two rows side by side a byte of the elements begins with: low byte, and the third as it is or turned by four.
const BITS: [u8; 64] = {
    let mut out = [0; 64];
    let mut at = 0;
    while at < 64 {
        out[at] = [0, 16, 8, 20][at % 4] + 32 * (at / 4 % 2) as u8;
        at += 1;
    }
    out
};

/// Constants of [`Unpacker::line`], in registers.
#[derive(Clone, Copy)]
struct Unpacker {
    side_by_side: __m512i,
    bits: __m512i,
    /// What is an element's own of the 16 bits that these begin with: all but what lies between sign and exponent.
    own: __m512i,
    /// Where a code is.
    codes: __m512i,
}

impl Unpacker {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn new() -> Unpacker {
        // SAFETY: both are 64 bytes.
        unsafe {
            Unpacker {
                side_by_side: _mm512_loadu_si512(SIDE_BY_SIDE.as_ptr().cast()),
                bits: _mm512_loadu_si512(BITS.as_ptr().cast()),
                own: _mm512_set1_epi16(0x87ff_u16 as i16),
                codes: _mm512_set1_epi16(0x780),
            }
        }
    }

    /// A line but for patches, as [`unpack`](super::unpack) says.
    ///
    /// # Safety
    /// There are 16 bytes behind the line.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn line(self, at: *const Packed, window: __m512i) -> __m512i {
        // SAFETY: the caller's.
        let line = unsafe { _mm512_loadu_si512(at.cast()) };
        let line = _mm512_permutexvar_epi8(self.side_by_side, line);
        let line = _mm512_and_si512(_mm512_multishift_epi64_epi8(self.bits, line), self.own);
        let is_in_window = _mm512_test_epi16_mask(line, self.codes);
        _mm512_mask_add_epi16(line, is_in_window, line, window)
    }
}

/// The lines of a panel, but for patches.
///
/// # Safety
/// This machine has these features, and there are 16 bytes behind the last line.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) unsafe fn unpack(packed: &[Packed], window: &Line, out: &mut [Line]) {
    let unpacker = Unpacker::new();
    // SAFETY: lines are 64 bytes and lie at multiples of it.
    unsafe {
        let window = _mm512_load_si512(window.0.as_ptr().cast());
        for (out, packed) in out.iter_mut().zip(packed) {
            let next: *const Packed = packed;
            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_byte_add(AHEAD).cast());
            _mm512_store_si512(out.0.as_mut_ptr().cast(), unpacker.line(packed, window));
        }
    }
}

/// Words that a matrix unit adds up before it adds them to what is there.
const STEP: usize = 16;

/// As [`some_panels`](super::some_panels) for one row, with the bits of a matrix unit: of each 16 words the first products in one sum and the
/// second in another, these two together, and then to what was there before (all of it seen on Sapphire Rapids, but for subnormal numbers,
/// which the unit takes as zero). The unit itself would have to wait for panels to be unpacked, and memory for the unit.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi")]
pub(super) unsafe fn one_row_as_unit(
    (x, matrix): (&[u32], &Windowed),
    into: Into,
    out: Out,
    token: usize,
    panels: Range<usize>,
) {
    let words = matrix.words;
    let x = &x[token * words..][..words];
    let unpacker = Unpacker::new();
    let first_of = |line| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(line));
    let second_of = |line| {
        let second = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        _mm512_castsi512_ps(_mm512_and_si512(line, second))
    };
    for panel in panels {
        let lines = matrix.lines[panel * words..].as_ptr();
        let mut patches = &matrix.patches[matrix.firsts[panel]..];
        let mut total = _mm512_setzero_ps();
        // SAFETY: the panel has these words, and 16 bytes behind the last; columns that are not there are masked.
        unsafe {
            let window = _mm512_load_si512(matrix.windows[panel].0.as_ptr().cast());
            for (step, x) in x.chunks(STEP).enumerate() {
                let mut sums = [_mm512_setzero_ps(); 2];
                for (at, &x) in (step * STEP..).zip(x) {
                    let line = lines.wrapping_add(at);
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_byte_add(AHEAD).cast());
                    let mut line = unpacker.line(line, window);
                    if patches[0].word as usize == at {
                        line = patched(line, &mut patches);
                    }
                    let x = _mm512_set1_epi32(x as i32);
                    sums[0] = _mm512_fmadd_ps(first_of(line), first_of(x), sums[0]);
                    sums[1] = _mm512_fmadd_ps(second_of(line), second_of(x), sums[1]);
                }
                total = _mm512_add_ps(total, _mm512_add_ps(sums[0], sums[1]));
            }
            let at = out.place(token, panel * LANES);
            put512(at, out.end - panel * LANES, into, total);
        }
    }
}

/// A line with its patches, which are taken away.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f")]
fn patched(line: __m512i, patches: &mut &[Patch]) -> __m512i {
    let mut kept = Line::ZERO;
    // SAFETY: a line is 64 bytes and lies at a multiple of it.
    unsafe { _mm512_store_si512((&raw mut kept).cast(), line) };
    let word = patches[0].word;
    while patches[0].word == word {
        patches[0].put(&mut kept);
        *patches = &patches[1..];
    }
    // SAFETY: as above.
    unsafe { _mm512_load_si512((&raw const kept).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi")]
unsafe fn tile<const M: usize, const P: usize>(job: &Job, mut patches: [&[Patch]; 4]) {
    let mut sums = [[_mm512_setzero_ps(); P]; M];
    let unpacker = Unpacker::new();
    // SAFETY: M rows and P panels lie inside the job, and 16 bytes behind the last; the last panel's columns are masked.
    unsafe {
        let x: [*const u32; M] = std::array::from_fn(|m| job.x.wrapping_add(m * job.words));
        let lines: [*const Packed; P] =
            std::array::from_fn(|p| job.lines.wrapping_add(p * job.words));
        let mut k = 0;
        macro_rules! unpacked {
            () => {{
                let mut out = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    let next = lines[p].wrapping_add(k).wrapping_byte_add(AHEAD / P);
                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                    let window = _mm512_load_si512(job.windows.wrapping_add(p).cast());
                    out[p] = unpacker.line(lines[p].wrapping_add(k), window);
                }
                out
            }};
        }
        macro_rules! add {
            ($lines:ident) => {
                if !job.keep.is_null() {
                    for (p, &line) in $lines.iter().enumerate() {
                        let to = job.keep.wrapping_add(p * job.words + k);
                        _mm512_store_si512(to.cast(), line);
                    }
                }
                for m in 0..M {
                    let x = _mm512_set1_epi32(*x[m].wrapping_add(k) as i32);
                    let halves = |it: __m512i| std::mem::transmute::<__m512i, __m512bh>(it);
                    for p in 0..P {
                        sums[m][p] = _mm512_dpbf16_ps(sums[m][p], halves($lines[p]), halves(x));
                    }
                }
            };
        }
        loop {
            // Up to the next word with a patch.
            let next = patches[..P].iter().map(|it| it[0].word as usize).min();
            let next = next.unwrap_or(job.words).min(job.words);
            while k < next {
                let lines = unpacked!();
                add!(lines);
                k = k.wrapping_add(1);
            }
            if k == job.words {
                break;
            }
            let mut lines = unpacked!();
            for (line, patches) in lines.iter_mut().zip(&mut patches) {
                let mut kept = Line::ZERO;
                _mm512_store_si512((&raw mut kept).cast(), *line);
                while patches[0].word as usize == k {
                    patches[0].put(&mut kept);
                    *patches = &patches[1..];
                }
                *line = _mm512_load_si512((&raw const kept).cast());
            }
            add!(lines);
            k += 1;
        }
        for (m, sums) in sums.iter().enumerate() {
            for (p, &sum) in sums.iter().enumerate() {
                let at = job.out.add(m * job.out_stride + p * LANES);
                put512(at, job.columns - p * LANES, job.into, sum);
            }
        }
    }
}
