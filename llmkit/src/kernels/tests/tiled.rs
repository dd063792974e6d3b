//! Products of inputs in tiles, on the unit itself, and what puts them there.

use super::Numbers;
use crate::kernels::dense::Into;
use crate::kernels::halves;
use crate::kernels::isa::Isa;
use crate::kernels::panel::Panels;
use crate::kernels::product::{Matrix, Product, multiply_all};
use crate::kernels::rows::Rows;
use crate::kernels::team::Team;
use crate::kernels::tiled::{self, Weights};
use crate::kernels::windowed::Windowed;

fn has_unit() -> bool {
    let is_here = Isa::Amx.is_here();
    if !is_here {
        eprintln!("skipped: this machine has no AMX");
    }
    is_here
}

/// Row-major words of an input in tiles.
fn in_rows(tiles: &[u32], tokens: usize, columns: usize) -> Vec<u32> {
    let row = |row| (0..columns / 2).map(move |at| tiled::word(tiles, columns, row, at));
    (0..tokens).flat_map(row).collect()
}

#[test]
fn rounding_into_tiles_gives_the_words_of_rounding_rows() {
    if !has_unit() {
        return;
    }
    let mut numbers = Numbers(31);
    for (tokens, columns) in [(1, 32), (33, 96), (50, 576)] {
        let [mut x, up] = [(); 2].map(|()| numbers.take(tokens * columns));
        // What the processor's conversion takes as zero, and what it must not touch.
        (x[1], x[2], x[3]) = (1e-40, f32::INFINITY, -0.0);
        let weight = numbers.take(columns);
        let gated = [true, false].map(|roughly| Rows::Gated {
            gate: &x,
            up: &up,
            roughly,
        });
        let plain = [Rows::Values(&x), Rows::normed(&up, &weight, 1e-5)];
        for rows in plain.into_iter().chain(gated) {
            for threads in [1, 2] {
                let mut tiles = vec![0; tiled::words(tokens, columns)];
                tiled::round(rows, columns, &mut tiles, &Team::new(threads));
                let got = in_rows(&tiles, tokens, columns);
                for (index, got) in got.chunks(columns / 2).enumerate() {
                    let mut expected = vec![0; columns / 2];
                    rows.round(Isa::Amx, columns, index, &mut expected);
                    assert_eq!(got, expected, "{tokens} {columns} {index}");
                }
            }
        }
    }
}

#[test]
fn products_of_tiles_have_the_bits_of_products_of_rows() {
    if !has_unit() {
        return;
    }
    let mut numbers = Numbers(32);
    for (tokens, k, outputs) in [(32, 32, 16), (300, 96, 50), (513, 640, 70), (64, 1536, 96)] {
        let x = numbers.take(tokens * k);
        let panels = Panels::of_bf16(&numbers.take(outputs * k), k);
        let windowed = Windowed::of(&panels);
        for threads in [1, 2] {
            let team = Team::new(threads);
            let mut tiles = vec![0; tiled::words(tokens, k)];
            tiled::round(Rows::Values(&x), k, &mut tiles, &team);
            let rows = in_rows(&tiles, tokens, k);
            let multiply = |matrix, into| {
                let mut out = vec![0.25; tokens * outputs];
                let out_here = &mut out;
                let product = Product {
                    matrix,
                    into,
                    out: out_here,
                };
                multiply_all(Isa::Amx, &mut [product], &team);
                out.iter().map(|it| it.to_bits()).collect::<Vec<_>>()
            };
            for into in [Into::Replace, Into::Add] {
                let expected = multiply(
                    Matrix::Windowed {
                        x: &rows,
                        matrix: &windowed,
                    },
                    into,
                );
                for matrix in [Weights::Panels(&panels), Weights::Windowed(&windowed)] {
                    let got = multiply(Matrix::Tiled { x: &tiles, matrix }, into);
                    assert!(got == expected, "{tokens} {k} {outputs} {matrix:?}");
                }
            }
        }
    }
}

#[test]
fn gates_have_the_bits_of_two_products() {
    if !has_unit() {
        return;
    }
    let mut numbers = Numbers(33);
    for (tokens, k, outputs) in [(32, 32, 32), (300, 96, 160), (520, 576, 320)] {
        let x = numbers.take(tokens * k);
        let [gate, up] = [(); 2].map(|()| Panels::of_bf16(&numbers.take(outputs * k), k));
        let windows = [&gate, &up].map(Windowed::of);
        for threads in [1, 2] {
            let team = Team::new(threads);
            let mut tiles = vec![0; tiled::words(tokens, k)];
            tiled::round(Rows::Values(&x), k, &mut tiles, &team);
            let [of_gate, of_up] = [&gate, &up].map(|it| {
                let mut out = vec![0.0; tokens * outputs];
                let matrix = Matrix::Tiled {
                    x: &tiles,
                    matrix: Weights::Panels(it),
                };
                let product = Product {
                    matrix,
                    into: Into::Replace,
                    out: &mut out,
                };
                multiply_all(Isa::Amx, &mut [product], &team);
                out
            });
            let mut expected = vec![0; tokens * outputs / 2];
            halves::round_gated(Isa::Amx, &of_gate, &of_up, &mut expected);
            let panels = [&gate, &up].map(Weights::Panels);
            let mixed = [Weights::Windowed(&windows[0]), Weights::Panels(&up)];
            for both in [panels, windows.each_ref().map(Weights::Windowed), mixed] {
                let mut out = vec![0; tiled::words(tokens, outputs)];
                tiled::gated(&tiles, both, tokens, &mut out, &team);
                let got = in_rows(&out, tokens, outputs);
                assert!(got == expected, "{tokens} {k} {outputs} {threads}");
            }
        }
    }
}
