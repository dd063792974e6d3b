//! Several products in one region.

use half::f16;

use super::{Numbers, fast};
use crate::kernels::dense::{Element, Into, f32_words};
use crate::kernels::integer::{Bytes, IntPanels};
use crate::kernels::isa::Isa;
use crate::kernels::panel::Panels;
use crate::kernels::product::{Matrix, Product, multiply_all};
use crate::kernels::team::Team;

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
