//! Several products in one region.

use half::f16;

use super::{Numbers, fast};
use crate::kernels::activation::to_bf16;
use crate::kernels::aligned::Aligned;
use crate::kernels::dense::{Element, Into, f32_words};
use crate::kernels::integer::{Bytes, IntPanels};
use crate::kernels::isa::Isa;
use crate::kernels::panel::Panels;
use crate::kernels::product::{Matrix, Product, multiply_all, multiply_columns};
use crate::kernels::team::Team;
use crate::kernels::windowed::Windowed;

type All<'a> = dyn Fn(&mut [Product<'_>]) + 'a;

/// Whether `kernel` gives each of some products of one input the bits it has alone: few rows and many, wide matrices beside narrow
/// ones, codes beside floats, one that replaces and one that adds.
fn all_are_right(isa: Isa, kernel: &All<'_>) -> Result<(), String> {
    let mut numbers = Numbers(13);
    let team = Team::new(1);
    for tokens in [0, 1, 3, 13, 40, 70, 300] {
        let columns = 96;
        let x = numbers.take(tokens * columns);
        let dense: Vec<Panels> = [200, 16, 1, 33]
            .iter()
            .map(|outputs| Panels::of_f32(&numbers.take(outputs * columns), columns))
            .collect();
        let code = |n: usize, k: usize| ((n * 7 + k * 3) % 16) as u8;
        let scale = |n: usize, g: usize| f16::from_f32(0.01 + (n + g) as f32 * 1e-3);
        let codes = IntPanels::pack((50, columns), 4, 32, code, &scale, Ok(8));
        let bytes = Bytes::round(isa, &x, columns, 32, &team);
        let words = f32_words(&x);
        let matrices: Vec<(Matrix<'_>, usize)> = (dense.iter())
            .map(|matrix| {
                let element = Element::F32;
                let x = words;
                (Matrix::Dense { element, x, matrix }, matrix.rows())
            })
            .chain((tokens > 0).then_some((
                Matrix::Integer {
                    x: &bytes,
                    matrix: &codes,
                },
                50,
            )))
            .collect();
        let run = |all: &dyn Fn(&mut [Product<'_>])| -> Vec<Vec<u32>> {
            let mut outs: Vec<Vec<f32>> = (matrices.iter())
                .map(|(_, outputs)| vec![0.5; tokens * outputs])
                .collect();
            let mut products: Vec<Product<'_>> = (matrices.iter().zip(&mut outs).enumerate())
                .map(|(i, ((matrix, _), out))| Product {
                    matrix: *matrix,
                    into: [Into::Replace, Into::Add][i % 2],
                    out,
                })
                .collect();
            all(&mut products);
            let bits = |out: &Vec<f32>| out.iter().map(|it| it.to_bits()).collect();
            outs.iter().map(bits).collect()
        };
        let alone = run(&|products| {
            for product in products {
                multiply_all(isa, std::slice::from_mut(product), &team);
            }
        });
        let together = run(kernel);
        if let Some(i) = (0..alone.len()).find(|&i| alone[i] != together[i]) {
            return Err(format!("product {i} of {tokens} rows"));
        }
    }
    Ok(())
}

/// Results larger than caches may go past them, from cache lines on or not.
#[test]
fn many_results_are_those_of_fewer_at_a_time() {
    let (tokens, columns, outputs) = (1100, 32, 2064);
    let mut numbers = Numbers(17);
    let x = to_bf16(
        Isa::Reference,
        &numbers.take(tokens * columns),
        columns,
        &Team::new(1),
    );
    let matrix = Panels::of_bf16(&numbers.take(outputs * columns), columns);
    let team = Team::new(2);
    for isa in fast() {
        let run = |x: &[u32], out: &mut [f32]| {
            let product = Product {
                matrix: Matrix::Dense {
                    element: Element::Bf16,
                    x,
                    matrix: &matrix,
                },
                into: Into::Replace,
                out,
            };
            multiply_all(isa, &mut [product], &team);
        };
        // Their sums do not depend on how many rows there are.
        let mut expected = vec![0.0; tokens * outputs];
        for (x, out) in x
            .chunks(100 * columns / 2)
            .zip(expected.chunks_mut(100 * outputs))
        {
            run(x, out);
        }
        let mut memory = Aligned::new();
        let all = memory.floats_mut(tokens * outputs + 1);
        for start in [0, 1] {
            let out = &mut all[start..start + tokens * outputs];
            out.fill(f32::NAN);
            run(&x, out);
            let same = out
                .iter()
                .zip(&expected)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{isa} from {start}");
        }
    }
}

#[test]
fn products_together_have_the_bits_they_have_alone() {
    for isa in fast() {
        for threads in [1, 2, 3, 5] {
            let team = Team::new(threads);
            all_are_right(isa, &|products| multiply_all(isa, products, &team))
                .unwrap_or_else(|wrong| panic!("{isa} {threads}: {wrong}"));
        }
    }
    multiply_all(Isa::best(), &mut [], &Team::new(2));
}

type Columns<'a> = dyn Fn(Matrix<'_>, std::ops::Range<usize>, &mut [f32]) + 'a;

/// Whether `kernel` gives the columns of a product, all of them a part at a time, for matrices of all kinds.
fn columns_are_right(isa: Isa, kernel: &Columns<'_>) -> Result<(), String> {
    let mut numbers = Numbers(17);
    let (outputs, columns, team) = (150, 96, Team::new(1));
    for tokens in [1, 3, 40, 300] {
        let x = numbers.take(tokens * columns);
        let w = numbers.take(outputs * columns);
        let halves = to_bf16(isa, &x, columns, &team);
        let bytes = Bytes::round(isa, &x, columns, 32, &team);
        let (f32, bf16) = (Panels::of_f32(&w, columns), Panels::of_bf16(&w, columns));
        let windowed = Windowed::of(&bf16);
        let code = |n: usize, k: usize| ((n * 7 + k * 3) % 16) as u8;
        let scale = |n: usize, g: usize| f16::from_f32(0.01 + (n + g) as f32 * 1e-3);
        let codes = IntPanels::pack((outputs, columns), 4, 32, code, &scale, Ok(8));
        let dense = |element, x, matrix| Matrix::Dense { element, x, matrix };
        let matrices = [
            dense(Element::F32, f32_words(&x), &f32),
            dense(Element::Bf16, &halves, &bf16),
            Matrix::Windowed {
                x: &halves,
                matrix: &windowed,
            },
            Matrix::Integer {
                x: &bytes,
                matrix: &codes,
            },
        ];
        for matrix in matrices {
            let mut all = vec![0.0; tokens * outputs];
            let product = Product {
                matrix,
                into: Into::Replace,
                out: &mut all,
            };
            multiply_all(isa, &mut [product], &team);
            for part in [0..outputs, 0..32, 16..17, 32..107, 144..150] {
                let mut got = vec![f32::NAN; tokens * part.len()];
                kernel(matrix, part.clone(), &mut got);
                for (got, all) in got.chunks_exact(part.len()).zip(all.chunks_exact(outputs)) {
                    let bits = |row: &[f32]| row.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
                    if bits(got) != bits(&all[part.clone()]) {
                        return Err(format!("{part:?} of {tokens} rows, {matrix:?}"));
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn columns_of_a_product_have_the_bits_they_have_in_the_whole() {
    for isa in Isa::here() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads);
            columns_are_right(isa, &|matrix, columns, out| {
                multiply_columns(isa, matrix, columns, out, &team);
            })
            .unwrap_or_else(|wrong| panic!("{isa} {threads}: {wrong}"));
        }
        // One panel too far to the left.
        let team = Team::new(2);
        let shifted: &Columns<'_> = &|matrix, columns, out| {
            let by = columns.start.min(16);
            multiply_columns(
                isa,
                matrix,
                columns.start - by..columns.end - by,
                out,
                &team,
            );
        };
        assert!(columns_are_right(isa, shifted).is_err(), "{isa}");
    }
}

#[test]
fn planted_bugs_in_products_together_are_caught() {
    let team = Team::new(2);
    for isa in fast() {
        // The last product is forgotten.
        let short: &All<'_> = &|products| {
            let most = products.len() - 1;
            multiply_all(isa, &mut products[..most], &team);
        };
        // All are added or replaced as the first is.
        let alike: &All<'_> = &|products| {
            products.iter_mut().for_each(|it| it.into = Into::Replace);
            multiply_all(isa, products, &team);
        };
        // A panel is handed out twice, which shows where it is added.
        let twice: &All<'_> = &|products| {
            multiply_all(isa, products, &team);
            multiply_all(isa, &mut products[1..2], &team);
        };
        for (name, bug) in [("short", short), ("alike", alike), ("twice", twice)] {
            assert!(all_are_right(isa, bug).is_err(), "{isa} {name}");
        }
    }
}
