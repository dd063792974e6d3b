//! Inputs in tiles, gates of two panels, and jobs of one tile of rows.

use super::*;
use crate::kernels::aligned::Aligned;
use crate::kernels::tiled;

/// Rows of words as they lie in tiles; those that are not there must not matter.
fn in_tiles(x: &[u32], words: usize) -> Vec<u32> {
    let tokens = x.len() / words;
    let mut out = vec![0x7fc0_7fc0; tiled::words(tokens, 2 * words)];
    for (i, &x) in x.iter().enumerate() {
        let (row, word) = (i / words, i % words);
        let tile = row / SIDE * (words / SIDE) + word / SIDE;
        out[tile * SIDE * SIDE + row % SIDE * SIDE + word % SIDE] = x;
        assert!(tiled::word(&out, 2 * words, row, word) == x);
    }
    out
}

/// Words of values (T, K).
fn halves_of(x: &[f32], k: usize) -> Vec<u32> {
    let all = Panels::of_bf16(x, k);
    let words = all.words();
    let word = |i: usize| all.word(i / words, i % words);
    (0..x.len() / k * words).map(word).collect()
}

fn have_the_same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn tiles_change_nothing_but_where_an_input_lies() {
    if !has_avx512() {
        return;
    }
    for (tokens, k, outputs) in [
        (1, 32, 16),
        (16, 64, 32),
        (17, 96, 50),
        (45, 640, 33),
        (70, 1408, 40),
    ] {
        let (x, w) = (noise(tokens * k, 1), noise(outputs * k, 2));
        let (x, w) = (halves_of(&x, k), Panels::of_bf16(&w, k));
        let multiply = |x: &[u32], into, start| {
            let mut out = vec![start; tokens * outputs];
            let job = whole(x, &w, tokens, into, &mut out);
            // SAFETY: sizes as above.
            unsafe { drive::<_, true, PLAIN>(&mut Simulated::default(), &job) };
            out
        };
        for (into, start) in [(Into::Replace, 7.0), (Into::Add, 0.5)] {
            let expected = simulate(&x, &w, tokens, tokens, into, start);
            let tiles = in_tiles(&x, w.words());
            let got = multiply(&tiles, into, start);
            assert!(
                have_the_same_bits(&got, &expected),
                "{tokens} {k} {outputs}"
            );
            // Rows taken for tiles show, where there is more than one step.
            let mut rows = x.clone();
            rows.resize(tiles.len(), 0);
            let wrong = multiply(&rows, into, start);
            assert!(k == 32 || !have_the_same_bits(&wrong, &expected));
        }
    }
}

#[test]
fn results_that_go_past_the_caches_are_the_same() {
    if !has_avx512() {
        return;
    }
    for (tokens, k, outputs) in [(1, 32, 16), (33, 96, 48), (40, 640, 70)] {
        let (x, w) = (noise(tokens * k, 4), noise(outputs * k, 5));
        let (x, w) = (halves_of(&x, k), Panels::of_bf16(&w, k));
        for into in [Into::Replace, Into::Add] {
            let expected = simulate(&x, &w, tokens, tokens, into, 0.5);
            let stride = outputs.next_multiple_of(LANES);
            let mut memory = Aligned::new();
            let out = memory.floats_mut(tokens * stride);
            out.fill(0.5);
            let job = Job {
                out_stride: stride,
                streams: true,
                ..whole(&x, &w, tokens, into, out)
            };
            // SAFETY: sizes as above; rows begin on cache lines.
            unsafe { drive::<_, false, STREAMED>(&mut Simulated::default(), &job) };
            for (row, expected) in out.chunks(stride).zip(expected.chunks(outputs)) {
                assert!(have_the_same_bits(&row[..outputs], expected), "{outputs}");
                assert!(row[outputs..].iter().all(|&it| it == 0.5), "beyond its end");
            }
        }
    }
}

#[test]
fn a_gate_has_the_bits_of_its_two_products() {
    if !has_avx512() {
        return;
    }
    for (tokens, k, outputs) in [(1, 32, 32), (37, 96, 64), (64, 640, 96)] {
        let [x, gate, up] =
            [(tokens, 1), (outputs, 2), (outputs, 3)].map(|(rows, seed)| noise(rows * k, seed));
        let x = halves_of(&x, k);
        let [gate, up] = [gate, up].map(|it| Panels::of_bf16(&it, k));
        let words = gate.words();
        let tiles = in_tiles(&x, words);
        let product = |w: &Panels| simulate(&x, w, tokens, tokens, Into::Replace, 0.0);
        let mut expected = vec![0; tokens * outputs / 2];
        halves::round_gated(Isa::Avx512, &product(&gate), &product(&up), &mut expected);
        let gated = |gate: &Panels, up: &Panels| -> Vec<u32> {
            let mut out = vec![0; tiled::words(tokens, outputs)];
            for panel in 0..outputs / LANES {
                let of = |w: &Panels| w.lines()[panel * words..(panel + 1) * words].to_vec();
                let lines = [of(gate), of(up)].concat();
                let at = panel / 2 * SIDE * SIDE + panel % 2 * SIDE / 2;
                let job = Job {
                    x: tiles.as_ptr(),
                    x_stride: words,
                    rows: tokens,
                    lines: lines.as_ptr(),
                    line_stride: words,
                    words,
                    out: out[at..].as_mut_ptr().cast(),
                    out_stride: outputs / 2,
                    columns: 2 * LANES,
                    into: Into::Replace,
                    next: std::ptr::null(),
                    gap: 1,
                    streams: false,
                };
                // SAFETY: sizes as above.
                unsafe { drive::<_, true, GATED>(&mut Simulated::default(), &job) };
            }
            let at = |i| tiled::word(&out, outputs, i / (outputs / 2), i % (outputs / 2));
            (0..tokens * outputs / 2).map(at).collect()
        };
        assert!(gated(&gate, &up) == expected, "{tokens} {k} {outputs}");
        assert!(gated(&up, &gate) != expected, "{tokens} {k} {outputs}");
    }
}

/// Those of attention: one or two steps, two to eight panels.
#[test]
fn short_jobs_have_the_bits_of_long_ones_or_go_on_from_what_is_there() {
    if !has_avx512() {
        return;
    }
    for (rows, k, outputs) in [(1, 32, 32), (7, 64, 64), (16, 64, 96), (16, 32, 128)] {
        let (x, w) = (noise(rows * k, 1), noise(outputs * k, 2));
        let (x, w) = (halves_of(&x, k), Panels::of_bf16(&w, k));
        let run = |into, start: f32, bug| {
            let mut unit = Simulated {
                bug,
                ..Simulated::default()
            };
            let mut out = vec![start; rows * outputs];
            let job = whole(&x, &w, rows, into, &mut out);
            // SAFETY: sizes as above.
            unsafe {
                unit.configure([rows, rows], SIDE);
                short(&mut unit, &job);
            }
            out
        };
        let expected = simulate(&x, &w, rows, rows, Into::Replace, 0.0);
        assert!(have_the_same_bits(
            &run(Into::Replace, 7.0, None),
            &expected
        ));
        let added = run(Into::Add, 0.5, None);
        for (got, expected) in added.iter().zip(&expected) {
            // Sums of K terms below 1 that begin with a half.
            let bound = (k as f32 + 3.0) * (k as f32 + 1.0) * f32::EPSILON;
            assert!((got - (expected + 0.5)).abs() <= bound, "{got} {expected}");
        }
        for bug in [Bug::Swapped, Bug::HalfAPair, Bug::NotZeroed] {
            // With one panel after the other in the same tile nothing but the first would show.
            let wrong = run(Into::Replace, 7.0, Some(bug));
            let is_caught = !have_the_same_bits(&wrong, &expected);
            assert!(
                is_caught || bug == Bug::NotZeroed && outputs <= 64,
                "{rows} {k} {outputs}"
            );
        }
    }
}
