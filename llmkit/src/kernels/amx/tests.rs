//! The driver on a simulated unit, and on the real one where there is one.

mod layouts;

use super::probe::{knows_its_bytes, knows_its_sums};
use super::*;
use crate::kernels::dense::{Element, multiply_at};
use crate::kernels::panel::{Panels, bf16_value};
use crate::kernels::windowed::{Windowed, one_row_as_unit};
use crate::kernels::{Isa, Team};

/// A unit made of memory, after the manual's pseudo-code. `bug` plants one of the mistakes one can make.
#[derive(Default)]
pub(in crate::kernels) struct Simulated {
    rows: [usize; 8],
    /// Of a row of A.
    words: usize,
    tiles: [[[u32; SIDE]; SIDE]; 8],
    bug: Option<Bug>,
}

#[derive(Clone, Copy, PartialEq)]
enum Bug {
    /// A and B taken for each other.
    Swapped,
    /// Only the even products.
    HalfAPair,
    /// C begins with what was there.
    NotZeroed,
    /// Bytes of A without a sign.
    Unsigned,
    /// Bytes of B with a sign.
    Signed,
}

impl Unit for Simulated {
    unsafe fn configure(&mut self, [first, second]: [usize; 2], words: usize) {
        self.rows = [first, first, second, second, first, second, words, words];
        self.words = words;
        self.tiles = Default::default();
    }
    unsafe fn zero<const C: u8>(&mut self) {
        if self.bug != Some(Bug::NotZeroed) {
            self.tiles[C as usize] = Default::default();
        }
    }
    unsafe fn load<const T: u8>(&mut self, from: *const u32, stride: usize) {
        let t = T as usize;
        assert!(self.rows[t] > 0, "tile {t} has no rows");
        let words = if matches!(T, 4 | 5) { self.words } else { SIDE };
        self.tiles[t] = Default::default();
        for row in 0..self.rows[t] {
            for i in 0..words {
                let from = from.wrapping_add(row * stride + i);
                // SAFETY: the caller's.
                self.tiles[t][row][i] = unsafe { from.read_unaligned() };
            }
        }
    }
    unsafe fn dot<const C: u8, const A: u8, const B: u8>(&mut self) {
        let (mut a, mut b) = (self.tiles[A as usize], self.tiles[B as usize]);
        if self.bug == Some(Bug::Swapped) {
            std::mem::swap(&mut a, &mut b);
        }
        assert_eq!(
            self.rows[C as usize], self.rows[A as usize],
            "rows of C and A"
        );
        let half = |word: u32, i: u32| bf16_value((word >> (16 * i)) as u16);
        let rows = self.rows[C as usize];
        let outputs = self.tiles[C as usize].iter_mut().zip(&a).take(rows);
        for (n, (c, a)) in
            outputs.flat_map(|(c, a)| c.iter_mut().enumerate().map(move |(n, c)| (n, (c, a))))
        {
            let mut sums = [0f32; 2];
            for (&a, b) in a.iter().zip(&b).take(self.rows[B as usize]) {
                for (i, sum) in (0u32..).zip(&mut sums) {
                    *sum = half(a, i).mul_add(half(b[n], i), *sum);
                }
            }
            if self.bug == Some(Bug::HalfAPair) {
                sums[1] = 0.0;
            }
            *c = (f32::from_bits(*c) + (sums[0] + sums[1])).to_bits();
        }
    }
    unsafe fn dot_bytes<const C: u8, const A: u8, const B: u8>(&mut self) {
        let (mut a, mut b) = (self.tiles[A as usize], self.tiles[B as usize]);
        if self.bug == Some(Bug::Swapped) {
            std::mem::swap(&mut a, &mut b);
        }
        let product = |(a, b): (u8, u8)| match self.bug {
            Some(Bug::Unsigned) => i32::from(a) * i32::from(b),
            Some(Bug::Signed) => i32::from(a as i8) * i32::from(b as i8),
            _ => i32::from(a as i8) * i32::from(b),
        };
        for m in 0..self.rows[C as usize] {
            for n in 0..SIDE {
                let words = a[m].iter().zip(&b).take(self.words);
                let bytes =
                    words.flat_map(|(a, b)| a.to_le_bytes().into_iter().zip(b[n].to_le_bytes()));
                let bytes = bytes.take(match self.bug {
                    Some(Bug::HalfAPair) => 2 * self.words,
                    _ => 4 * self.words,
                });
                let sum = bytes.map(product).fold(0, i32::wrapping_add);
                let c = &mut self.tiles[C as usize][m][n];
                *c = (*c as i32).wrapping_add(sum) as u32;
            }
        }
    }
    unsafe fn store<const C: u8>(&mut self, to: *mut u32, stride: usize) {
        for row in 0..self.rows[C as usize] {
            for (i, &word) in self.tiles[C as usize][row].iter().enumerate() {
                // SAFETY: the caller's.
                unsafe { to.add(row * stride + i).write_unaligned(word) };
            }
        }
    }
    unsafe fn release(&mut self) {}
}

fn noise(count: usize, seed: usize) -> Vec<f32> {
    let at = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.0 - 1.0;
    (0..count).map(at).collect()
}

/// All columns of some rows of x · Wᵀ.
fn whole(x: &[u32], w: &Panels, rows: usize, into: Into, out: &mut [f32]) -> Job {
    Job {
        x: x.as_ptr(),
        x_stride: w.words(),
        rows,
        lines: w.lines().as_ptr(),
        line_stride: w.words(),
        words: w.words(),
        out: out.as_mut_ptr(),
        out_stride: w.rows(),
        columns: w.rows(),
        into,
        next: std::ptr::null(),
        gap: 1,
        streams: false,
    }
}

/// out = x · Wᵀ on the simulation, `rows` input rows at a time.
fn simulate(x: &[u32], w: &Panels, tokens: usize, rows: usize, into: Into, start: f32) -> Vec<f32> {
    let mut out = vec![start; tokens * w.rows()];
    for from in (0..tokens).step_by(rows) {
        let (x, out) = (&x[from * w.words()..], &mut out[from * w.rows()..]);
        let job = whole(x, w, rows.min(tokens - from), into, out);
        // SAFETY: sizes as above.
        unsafe { drive::<_, false, PLAIN>(&mut Simulated::default(), &job) };
    }
    out
}

/// Whether the driver can run here, be it on the simulation: it has AVX-512 beside the unit.
fn has_avx512() -> bool {
    let is_here = Isa::Avx512.is_here();
    if !is_here {
        eprintln!("skipped: this machine has no AVX-512");
    }
    is_here
}

/// One decoded token does not go through the unit, but has its bits: with windows, patches, ends inside words, steps and panels.
#[test]
fn one_row_of_windows_has_the_bits_of_the_unit() {
    if !has_avx512() {
        return;
    }
    for (k, outputs) in [(2, 1), (31, 17), (32, 16), (96, 40), (130, 33), (576, 100)] {
        let x = noise(k, 5);
        let mut w = noise(outputs * k, 6);
        // Some outside of their rows' windows.
        w.iter_mut().step_by(37).for_each(|it| *it *= 1e-7);
        let (x, w) = (Panels::of_bf16(&x, k), Panels::of_bf16(&w, k));
        let x: Vec<u32> = (0..x.words()).map(|at| x.word(0, at)).collect();
        let windowed = Windowed::of(&w);
        for (into, start) in [(Into::Replace, 7.0), (Into::Add, 0.5)] {
            let expected = simulate(&x, &w, 1, 1, into, start);
            let mut got = vec![start; outputs];
            one_row_as_unit(&x, &windowed, into, &mut got);
            let differ =
                |a: &[f32], b: &[f32]| (a.iter().zip(b)).any(|(a, b)| a.to_bits() != b.to_bits());
            assert!(!differ(&got, &expected), "{k} {outputs} {into:?}");
            // The order of AVX-512's own sums is another, which shows where there are many.
            let mut other = vec![start; outputs];
            let (element, team) = (Element::Bf16, Team::new(1));
            multiply_at(Isa::Avx512, element, &x, &w, into, &mut other, &team);
            assert!(
                k < 96 || differ(&other, &expected),
                "{k} {outputs} {into:?}"
            );
        }
    }
}

#[test]
fn the_driver_multiplies_matrices_of_any_size() {
    if !has_avx512() {
        return;
    }
    for (tokens, k, outputs) in [
        (1, 32, 16),
        (1, 2, 1),
        (16, 64, 32),
        (17, 33, 17),
        (33, 70, 50),
        (40, 576, 33),
        (150, 600, 40),
        (70, 1400, 50),
        (64, 31, 64),
    ] {
        let (x, w) = (noise(tokens * k, 1), noise(outputs * k, 2));
        let words = Panels::of_bf16(&x, k);
        let x: Vec<u32> = (0..tokens)
            .flat_map(|t| (0..words.words()).map(move |at| (t, at)))
            .map(|(t, at)| words.word(t, at))
            .collect();
        let w = Panels::of_bf16(&w, k);
        for (into, start) in [(Into::Replace, 7.0), (Into::Add, 0.5)] {
            let got = simulate(&x, &w, tokens, tokens, into, start);
            let mut exact = vec![start; got.len()];
            multiply_at(
                Isa::Reference,
                Element::Bf16,
                &x,
                &w,
                into,
                &mut exact,
                &Team::new(1),
            );
            for (got, exact) in got.iter().zip(&exact) {
                // K/2 + 1 additions in each of two sums of terms below 1, and the last two additions.
                let bound = (k as f32 + 3.0) * k as f32 * f32::EPSILON;
                assert!(
                    (got - exact).abs() <= bound,
                    "{tokens} {k} {outputs}: {got} {exact}"
                );
            }
            for rows in [1, 5, 16, 32] {
                let pieces = simulate(&x, &w, tokens, rows, into, start);
                assert!(
                    pieces
                        .iter()
                        .zip(&got)
                        .all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{rows} rows at a time"
                );
            }
        }
    }
}

/// As attention's are: queries of some rows, weights of fewer keys than a block has, outputs among others.
#[test]
fn a_job_may_be_a_part_of_larger_matrices() {
    if !has_avx512() {
        return;
    }
    let (tokens, words, outputs) = (37, 32, 64);
    let (x, w) = (noise(tokens * 2 * words, 3), noise(outputs * 2 * words, 4));
    let all = Panels::of_bf16(&x, 2 * words);
    let x: Vec<u32> = (0..tokens * words)
        .map(|i| all.word(i / words, i % words))
        .collect();
    let w = Panels::of_bf16(&w, 2 * words);
    for (first, rows, fewer, columns) in [
        (0, 37, 32, 64),
        (5, 20, 17, 64),
        (3, 33, 5, 50),
        (36, 1, 32, 16),
    ] {
        let (stride, aside) = (outputs + 9, 4);
        let mut out = vec![0.25; tokens * stride];
        let job = Job {
            x: x[first * words..].as_ptr(),
            x_stride: words,
            rows,
            lines: w.lines().as_ptr(),
            line_stride: words,
            words: fewer,
            out: out[first * stride + aside..].as_mut_ptr(),
            out_stride: stride,
            columns,
            into: Into::Add,
            next: std::ptr::null(),
            gap: 1,
            streams: false,
        };
        // SAFETY: the job lies inside x, w and out.
        unsafe { drive::<_, false, PLAIN>(&mut Simulated::default(), &job) };
        // The part, by itself.
        let own: Vec<u32> = (first..first + rows)
            .flat_map(|t| &x[t * words..t * words + fewer])
            .copied()
            .collect();
        let part = Panels::pack(columns, fewer, |row, at| w.word(row, at));
        let expected = simulate(&own, &part, rows, rows, Into::Add, 0.25);
        for (i, got) in out.iter().enumerate() {
            let (row, column) = (
                (i / stride).wrapping_sub(first),
                (i % stride).wrapping_sub(aside),
            );
            let expected = match row < rows && column < columns {
                true => expected[row * columns + column],
                false => 0.25,
            };
            assert_eq!(
                got.to_bits(),
                expected.to_bits(),
                "{first} {rows} {fewer} {columns}: {row} {column}"
            );
        }
    }
}

#[test]
fn the_check_before_use_catches_units_that_do_something_else() {
    if !has_avx512() {
        return;
    }
    let check = |bug| {
        let mut unit = Simulated {
            bug,
            ..Simulated::default()
        };
        // SAFETY: it is made of memory.
        unsafe { knows_its_sums(&mut unit) }
    };
    assert!(check(None));
    for bug in [Bug::Swapped, Bug::HalfAPair, Bug::NotZeroed] {
        assert!(!check(Some(bug)));
    }
    let check = |bug| {
        let mut unit = Simulated {
            bug,
            ..Simulated::default()
        };
        // SAFETY: it is made of memory.
        unsafe { knows_its_bytes(&mut unit) }
    };
    assert!(check(None));
    for bug in [Bug::Swapped, Bug::HalfAPair, Bug::Unsigned, Bug::Signed] {
        assert!(!check(Some(bug)));
    }
}

#[test]
fn the_unit_itself_agrees_with_its_simulation() {
    if !is_here() {
        eprintln!("skipped: this machine has no AMX");
        return;
    }
    let (tokens, k, outputs) = (45, 130, 77);
    let (x, w) = (
        noise(tokens * k, 3),
        Panels::of_bf16(&noise(outputs * k, 4), k),
    );
    let words = Panels::of_bf16(&x, k);
    let x: Vec<u32> = (0..tokens * words.words())
        .map(|i| words.word(i / words.words(), i % words.words()))
        .collect();
    let simulated = simulate(&x, &w, tokens, tokens, Into::Replace, 0.0);
    let mut out = vec![0.0; simulated.len()];
    multiply_at(
        Isa::Amx,
        Element::Bf16,
        &x,
        &w,
        Into::Replace,
        &mut out,
        &Team::new(2),
    );
    assert_eq!(out, simulated);
}
