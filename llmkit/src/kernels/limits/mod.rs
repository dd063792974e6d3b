//! What the machine can do at most: how fast memory is read, and how fast registers are multiplied.
//!
//! A kernel is judged against these, measured in the same run (Williams et al. 2009, *Roofline*). Nothing here computes anything:
//! results are thrown away, behind a fence that the optimiser does not see through.
//!
//! * [`read_bandwidth`]: each thread reads a buffer of its own from end to end, again and again, in whole cache lines. The size
//!   decides which cache answers.
//! * [`peak`]: chains of multiply-adds on registers, as many in flight as hide their latency; no memory at all.
//!
//! Cost: as long as is asked for, plus one pass over the buffer.

#![allow(unsafe_code)]

mod read;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::hint::black_box;
use std::sync::{Barrier, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::dense::Element;
use super::isa::Isa;
use super::pages::Pages;
use super::panel::Line;
use super::team::Team;
use read::read;

/// What is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// f32 times f32, added to f32.
    F32,
    /// Pairs of bf16 products, added to f32.
    Bf16,
    /// Fours of byte products (unsigned × signed), added to i32.
    Int8,
}

impl Arithmetic {
    /// All of them.
    pub const ALL: [Arithmetic; 3] = [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::F32 => "f32",
            Arithmetic::Bf16 => "bf16",
            Arithmetic::Int8 => "int8",
        }
    }
}

/// Chains in flight: two multipliers of latency four, and some more.
const CHAINS: usize = 12;

/// Bytes a second read by all threads of `team` together, each of them from `bytes` of its own, for at least `time`.
/// The best of the passes' averages, since whatever else the machine does only slows it.
///
/// # Panics
/// If the machine lacks `isa`.
pub fn read_bandwidth(isa: Isa, bytes: usize, time: Duration, team: &Team) -> f64 {
    let lines = (bytes / size_of::<Line>()).max(16);
    // Read at least 256 KiB between two looks at the clock.
    let passes = (256 * 1024 / (lines * size_of::<Line>())).max(1);
    sum_of_threads(
        team,
        &|| {
            // In the pages that weights have.
            let buffer = Pages::new(lines, |lines| {
                let numbered = lines.iter_mut().zip(0..);
                numbered.for_each(|(line, i)| *line = Line([i; 16]));
            });
            let pass = move || {
                for _ in 0..passes {
                    black_box(read(isa, black_box(&buffer)));
                }
            };
            let work = (passes * lines * size_of::<Line>()) as f64;
            (Box::new(pass), work)
        },
        time,
    )
}

/// Operations a second (a multiplication and an addition are two) of all threads of `team` together; [`None`] where `isa` has no
/// instruction for it, or is the reference.
///
/// # Panics
/// If the machine lacks `isa`.
pub fn peak(isa: Isa, arithmetic: Arithmetic, time: Duration, team: &Team) -> Option<f64> {
    const TURNS: usize = 4096;
    let (chain, products): (fn(usize), usize) = chains(isa.checked(), arithmetic)?;
    let work = (2 * products * CHAINS * TURNS) as f64;
    Some(sum_of_threads(
        team,
        &|| (Box::new(move || chain(TURNS)), work),
        time,
    ))
}

/// What products of many rows are fastest in: bf16 where the processor has it, unless it multiplies f32 much faster. Sapphire Rapids without
/// its matrix units has twice as many f32 products a second (88 and 173 GFLOP/s a core were measured). Measured once, for some milliseconds;
/// the threshold lies far from what processors have, so that the answer is always the same.
///
/// # Panics
/// If the machine lacks `isa`.
pub fn fastest_element(isa: Isa) -> Element {
    const TIME: Duration = Duration::from_millis(3);
    static AVX512: OnceLock<Element> = OnceLock::new();
    match isa.checked() {
        Isa::Reference | Isa::Avx2 => Element::F32,
        Isa::Amx => Element::Bf16,
        Isa::Avx512 => *AVX512.get_or_init(|| {
            let team = Team::new(1);
            let rate = |it| peak(isa, it, TIME, &team).unwrap_or(0.0);
            // In turns, and the best of each: a machine that is busy elsewhere may be at half its speed for a moment.
            let (mut f32, mut bf16) = (0f64, 0f64);
            for _ in 0..5 {
                f32 = f32.max(rate(Arithmetic::F32));
                bf16 = bf16.max(rate(Arithmetic::Bf16));
            }
            match f32 > 1.5 * bf16 {
                true => Element::F32,
                false => Element::Bf16,
            }
        }),
    }
}

/// What a thread does, and how much that is.
type Pass = (Box<dyn FnMut()>, f64);

/// As many threads as the team has, of their own so that a caller inside a region cannot wait for itself, repeat their passes until
/// `time` is over; the sum over threads of their best tenths.
fn sum_of_threads(team: &Team, make: &(dyn Fn() -> Pass + Sync), time: Duration) -> f64 {
    let total = Mutex::new(0.0);
    let barrier = Barrier::new(team.threads());
    let thread = || {
        let (mut pass, work) = make();
        pass();
        barrier.wait();
        let mut best = 0f64;
        let start = Instant::now();
        while start.elapsed() < time {
            let (slice, mut passes) = (Instant::now(), 0);
            while slice.elapsed() < time / 10 {
                pass();
                passes += 1;
            }
            best = best.max(f64::from(passes) * work / slice.elapsed().as_secs_f64());
        }
        // The others still read: nobody leaves the machine to them early.
        barrier.wait();
        if let Ok(mut total) = total.lock() {
            *total += best;
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..team.threads() {
            scope.spawn(thread);
        }
        thread();
    });
    total.into_inner().unwrap_or(0.0)
}

/// The function that turns the chains, and products in one instruction of it.
fn chains(isa: Isa, arithmetic: Arithmetic) -> Option<(fn(usize), usize)> {
    match (isa, arithmetic) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Arithmetic::F32) => Some((
            |turns| {
                // SAFETY: the caller has checked that the machine has `isa`.
                unsafe { f32_avx2(turns) }
            },
            8,
        )),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Arithmetic::Int8) => Some((
            |turns| {
                // SAFETY: the caller has checked that the machine has `isa`.
                unsafe { int8_avx2(turns) }
            },
            32,
        )),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Arithmetic::F32) => Some((
            |turns| {
                // SAFETY: the caller has checked that the machine has `isa`.
                unsafe { f32_avx512(turns) }
            },
            16,
        )),
        // A tile product is 16 × 16 × 32 products.
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx, Arithmetic::Bf16) => Some((super::amx::chain, 16 * 16 * 32)),
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx, Arithmetic::Int8) if super::amx::has_bytes() => {
            Some((super::amx::chain_of_bytes, 16 * 16 * 64))
        }
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx, other) => chains(Isa::Avx512, other),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Arithmetic::Bf16) => Some((
            |turns| {
                // SAFETY: the caller has checked that the machine has `isa`.
                unsafe { bf16_avx512(turns) }
            },
            32,
        )),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Arithmetic::Int8) => Some((
            |turns| {
                // SAFETY: the caller has checked that the machine has `isa`.
                unsafe { int8_avx512(turns) }
            },
            64,
        )),
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn f32_avx2(turns: usize) {
    let (x, y) = black_box((_mm256_set1_ps(0.5), _mm256_set1_ps(0.25)));
    let mut sums = black_box([_mm256_set1_ps(1.0); CHAINS]);
    for _ in 0..turns {
        sums.iter_mut()
            .for_each(|sum| *sum = _mm256_fmadd_ps(*sum, x, y));
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn int8_avx2(turns: usize) {
    let x = black_box(_mm256_set1_epi8(3));
    let ones = black_box(_mm256_set1_epi16(1));
    let mut sums = black_box([_mm256_set1_epi32(1); CHAINS]);
    for _ in 0..turns {
        for sum in &mut sums {
            // The product of bytes takes the sum itself, lest it be the same each time and computed once.
            let pairs = _mm256_maddubs_epi16(x, *sum);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn f32_avx512(turns: usize) {
    let (x, y) = black_box((_mm512_set1_ps(0.5), _mm512_set1_ps(0.25)));
    let mut sums = black_box([_mm512_set1_ps(1.0); CHAINS]);
    for _ in 0..turns {
        sums.iter_mut()
            .for_each(|sum| *sum = _mm512_fmadd_ps(*sum, x, y));
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_avx512(turns: usize) {
    let x = black_box(_mm512_cvtne2ps_pbh(
        _mm512_set1_ps(0.5),
        _mm512_set1_ps(0.25),
    ));
    let mut sums = black_box([_mm512_set1_ps(1.0); CHAINS]);
    for _ in 0..turns {
        sums.iter_mut()
            .for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, x, x));
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn int8_avx512(turns: usize) {
    let x = black_box(_mm512_set1_epi8(3));
    let mut sums = black_box([_mm512_set1_epi32(1); CHAINS]);
    for _ in 0..turns {
        sums.iter_mut()
            .for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, x, x));
    }
    black_box(sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn limits_are_numbers_that_a_processor_can_have() {
        let team = Team::new(1);
        for isa in Isa::here() {
            for bytes in [1 << 10, 1 << 14, 1 << 20] {
                let read = read_bandwidth(isa, bytes, SHORT, &team);
                // Two lines of 64 bytes a clock at 8 GHz is 1 TB/s.
                assert!((1e7..2e12).contains(&read), "{isa} {bytes}: {read}");
            }
            for arithmetic in Arithmetic::ALL {
                if let Some(peak) = peak(isa, arithmetic, SHORT, &team) {
                    // A tile product (16,384 operations in 16 clocks) at 8 GHz is 8 TOP/s.
                    assert!((1e8..2e13).contains(&peak), "{isa} {arithmetic:?}: {peak}");
                }
            }
        }
        assert_eq!(peak(Isa::Reference, Arithmetic::F32, SHORT, &team), None);
    }

    /// A loop that the optimiser removed, or one that misses the registers, would be far off these ratios.
    #[test]
    fn wider_registers_do_not_lose_and_caches_beat_memory() {
        let team = Team::new(1);
        if Isa::best() == Isa::Reference {
            return;
        }
        // Other tests run beside this one: bounds are wide, and the best of three counts.
        let best = |measure: &dyn Fn() -> f64| (0..3).map(|_| measure()).fold(0.0, f64::max);
        let near = best(&|| read_bandwidth(Isa::best(), 16 << 10, SHORT, &team));
        let far = best(&|| read_bandwidth(Isa::best(), 256 << 20, SHORT, &team));
        assert!(near > far, "{near} in the first cache, {far} in memory");
        if Isa::Avx512.is_here() {
            let at = |arithmetic| best(&|| peak(Isa::Avx512, arithmetic, SHORT, &team).unwrap());
            let (f32, bf16, int8) = (
                at(Arithmetic::F32),
                at(Arithmetic::Bf16),
                at(Arithmetic::Int8),
            );
            // Sapphire Rapids without AMX multiplies bf16 at half of f32's rate (88 of 173 GFLOP/s a core were measured): no loop that is wrong.
            assert!(bf16 > 0.3 * f32 && int8 > 1.2 * f32, "{f32} {bf16} {int8}");
            // Between the two it may say either.
            let fastest = fastest_element(Isa::Avx512);
            assert!(bf16 < f32 || fastest == Element::Bf16, "{f32} {bf16}");
            assert!(f32 < 1.9 * bf16 || fastest == Element::F32, "{f32} {bf16}");
        }
    }
}
