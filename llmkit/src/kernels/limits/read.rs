//! Memory, read as fast as an instruction set can.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::kernels::isa::Isa;
use crate::kernels::panel::Line;

/// Touches every word. Eight accumulators, so that additions never wait for one another.
pub(super) fn read(isa: Isa, lines: &[Line]) -> u32 {
    match isa.checked() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `checked` has seen the features on this machine.
        Isa::Avx512 | Isa::Amx => unsafe { read_avx512(lines) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { read_avx2(lines) },
        _ => (lines.iter().flat_map(|line| line.0)).fold(0, |all, word| all ^ word),
    }
}

/// Eight lines at a time, by intrinsics: of the plain loop the compiler makes 18 or 140 GB/s, as it happens to be inlined.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn read_avx512(lines: &[Line]) -> u32 {
    let mut sums = [_mm512_setzero_si512(); 8];
    let (groups, rest) = lines.as_chunks::<8>();
    let add = |sum: &mut __m512i, line: &Line| {
        // SAFETY: a line is 64 aligned bytes.
        let line = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
        *sum = _mm512_xor_si512(*sum, line);
    };
    for group in groups {
        sums.iter_mut()
            .zip(group)
            .for_each(|(sum, line)| add(sum, line));
    }
    sums.iter_mut()
        .zip(rest)
        .for_each(|(sum, line)| add(sum, line));
    let all = sums
        .into_iter()
        .fold(_mm512_setzero_si512(), |a, b| _mm512_xor_si512(a, b));
    let mut line = Line::ZERO;
    // SAFETY: as above.
    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), all) };
    line.0.into_iter().fold(0, |all, word| all ^ word)
}

/// Four lines at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn read_avx2(lines: &[Line]) -> u32 {
    let mut sums = [_mm256_setzero_si256(); 8];
    let (groups, rest) = lines.as_chunks::<4>();
    let add = |sums: &mut [__m256i; 2], line: &Line| {
        let half = line.0.as_ptr().cast::<__m256i>();
        // SAFETY: a line is 64 aligned bytes.
        let (low, high) = unsafe { (_mm256_load_si256(half), _mm256_load_si256(half.add(1))) };
        sums[0] = _mm256_xor_si256(sums[0], low);
        sums[1] = _mm256_xor_si256(sums[1], high);
    };
    let (pairs, _) = sums.as_chunks_mut::<2>();
    for group in groups {
        pairs
            .iter_mut()
            .zip(group)
            .for_each(|(sums, line)| add(sums, line));
    }
    pairs
        .iter_mut()
        .zip(rest)
        .for_each(|(sums, line)| add(sums, line));
    let all = sums
        .into_iter()
        .fold(_mm256_setzero_si256(), |a, b| _mm256_xor_si256(a, b));
    let mut line = Line::ZERO;
    // SAFETY: as above.
    unsafe { _mm256_store_si256(line.0.as_mut_ptr().cast(), all) };
    line.0.into_iter().fold(0, |all, word| all ^ word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        for isa in Isa::here() {
            for count in [1, 7, 8, 9, 100] {
                let mut lines = vec![Line::ZERO; count];
                for at in 0..count {
                    lines[at].0[at % 16] = 1 << (at % 32);
                    assert_eq!(read(isa, &lines), 1 << (at % 32), "{isa} {count} {at}");
                    lines[at] = Line::ZERO;
                }
            }
        }
    }
}
