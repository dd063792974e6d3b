//! Error feedback against three other algorithms that give the same: the paper's, with an explicit inverse; optimal brain quantization in
//! a given order; and Babai's nearest plane. And bugs that these comparisons catch.

use super::*;
use crate::numeric::ggml::GgmlType;
use crate::quant::format::{
    AnyFormat, Ggml, IntAffine, IntSymmetric, KMeans, Minifloat, Mx, Nf4, Nvfp4, Ternary,
};
use crate::quant::{Inputs, samples};

const DAMPING: f64 = 0.01;

fn layer(rows: usize, columns: usize) -> (Matrix, Inputs) {
    let x = samples::correlated(3 * columns, columns, 20);
    let inputs = Inputs::of_samples("x", &x, columns).unwrap();
    let mut w = samples::correlated(rows, columns, 21);
    // An outlier that clips what comes after it, and a row of zeros.
    w[columns + 3] = 30.0;
    w[2 * columns..3 * columns].fill(0.0);
    (Matrix::new(rows, columns, w).unwrap(), inputs)
}

/// Those that round weights one by one, with groups that divide nothing among them.
fn formats() -> Vec<AnyFormat> {
    let group = Granularity::Group;
    [
        IntSymmetric::new(4, group(32)).unwrap().shared(),
        IntSymmetric::new(3, Granularity::Channel).unwrap().shared(),
        IntSymmetric::new(2, Granularity::Tensor).unwrap().shared(),
        IntAffine::new(4, group(20)).unwrap().shared(),
        IntAffine::new(8, group(1)).unwrap().shared(),
        Nf4::new(group(24)).unwrap().shared(),
        Nf4::double(group(32)).unwrap().shared(),
        Minifloat::fp4(group(32)).unwrap().shared(),
        Mx::FP4.shared(),
        Nvfp4::FOUR_OVER_SIX.shared(),
        KMeans::new(3, group(48)).unwrap().shared(),
        Ternary::new(Granularity::Channel).unwrap().shared(),
        Ggml(GgmlType::Q4_1).shared(),
    ]
    .to_vec()
}

/// H + λ·I with rows and columns in `order`.
fn damped(inputs: &Inputs, order: &[usize]) -> Vec<f64> {
    let k = order.len();
    let mean = (0..k).map(|i| inputs.hessian(i, i)).sum::<f64>() / k as f64;
    let mut h = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..k {
            h[i * k + j] = inputs.hessian(order[i], order[j]);
        }
        h[i * k + i] += DAMPING * mean;
    }
    h
}

/// By Gauss and Jordan, without pivoting: the matrix is positive definite.
fn inverse(mut a: Vec<f64>, k: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; k * k];
    (0..k).for_each(|i| inverse[i * k + i] = 1.0);
    for p in 0..k {
        let pivot = a[p * k + p];
        for j in 0..k {
            a[p * k + j] /= pivot;
            inverse[p * k + j] /= pivot;
        }
        for i in (0..k).filter(|&i| i != p) {
            let factor = a[i * k + p];
            for j in 0..k {
                a[i * k + j] -= factor * a[p * k + j];
                inverse[i * k + j] -= factor * inverse[p * k + j];
            }
        }
    }
    inverse
}

/// R upper triangular with A = Rᵀ·R.
fn upper(a: &[f64], k: usize) -> Vec<f64> {
    let mut r = vec![0.0; k * k];
    for i in 0..k {
        for j in i..k {
            let sum: f64 = (0..i).map(|p| r[p * k + i] * r[p * k + j]).sum();
            let rest = a[i * k + j] - sum;
            r[i * k + j] = if i == j {
                rest.sqrt()
            } else {
                rest / r[i * k + i]
            };
        }
    }
    r
}

/// What an oracle does to the weights after column i of the order was rounded with error `lost` in a row.
type Update<'a> = dyn FnMut(usize, f64, &mut [f64]) + 'a;

/// Columns one after the other, row by row; `updates(row)` gives the row's rule.
fn one_by_one<'a>(
    weights: &Matrix,
    format: &dyn Format,
    order: &[usize],
    grids: Grids,
    updates: &mut dyn FnMut() -> Box<Update<'a>>,
) -> Vec<u8> {
    let (rows, cols) = (weights.rows(), weights.cols());
    let whole = format.fit_whole(weights).unwrap();
    let (group, is_tensor) = match format.granularity() {
        Granularity::Group(group) => (group.min(cols), false),
        Granularity::Channel => (cols, false),
        Granularity::Tensor => (cols, true),
    };
    let groups = cols.div_ceil(group);
    let mut codes = vec![0; rows * cols];
    for row in 0..rows {
        let mut update = updates();
        let original = weights.row(row).unwrap();
        let mut now: Vec<f64> = order.iter().map(|&i| f64::from(original[i])).collect();
        let fit = |g: usize, block: &[f32]| {
            let index = if is_tensor { 0 } else { row * groups + g };
            let block = if is_tensor { weights.data() } else { block };
            format.fit(&whole, index, block).unwrap()
        };
        let mut fitted: Vec<Grid> = (original.chunks(group).enumerate())
            .map(|(g, block)| fit(g, block))
            .collect();
        for (i, &column) in order.iter().enumerate() {
            if grids == Grids::Reached && column % group == 0 {
                let end = cols.min(column + group);
                let block: Vec<f32> = now[column..end].iter().map(|&w| w as f32).collect();
                fitted[column / group] = fit(column / group, &block);
            }
            let (grid, at) = (&fitted[column / group], column % group);
            let code = format.code(grid, at, now[i] as f32);
            codes[row * cols + column] = code;
            let lost = now[i] - f64::from(format.value(grid, at, code));
            update(i, lost, &mut now);
        }
    }
    codes
}

/// Algorithm 1 of the paper without its blocks: the upper Cholesky factor of H⁻¹.
fn paper(
    weights: &Matrix,
    format: &dyn Format,
    inputs: &Inputs,
    order: &[usize],
    grids: Grids,
) -> Vec<u8> {
    let k = order.len();
    let r = upper(&inverse(damped(inputs, order), k), k);
    one_by_one(weights, format, order, grids, &mut || {
        let r = r.clone();
        Box::new(move |i, lost, now| {
            let error = lost / r[i * k + i];
            (i + 1..k).for_each(|j| now[j] -= error * r[i * k + j]);
        })
    })
}

/// Optimal brain quantization in a given order: H⁻¹ of the columns that are left, by elimination.
fn brain(
    weights: &Matrix,
    format: &dyn Format,
    inputs: &Inputs,
    order: &[usize],
    grids: Grids,
) -> Vec<u8> {
    let k = order.len();
    let start = inverse(damped(inputs, order), k);
    one_by_one(weights, format, order, grids, &mut || {
        let mut left = start.clone();
        Box::new(move |i, lost, now| {
            let pivot = left[i * k + i];
            let row = left[i * k..(i + 1) * k].to_vec();
            (i + 1..k).for_each(|j| now[j] -= lost / pivot * row[j]);
            for a in i..k {
                for b in i..k {
                    left[a * k + b] -= row[a] * row[b] / pivot;
                }
            }
        })
    })
}

fn ours(
    weights: &Matrix,
    format: &dyn Format,
    inputs: &Inputs,
    order: &[usize],
    grids: Grids,
) -> Vec<u8> {
    let factor = Factor::new(inputs, order.to_vec(), DAMPING).unwrap();
    let sweep = Sweep::new(weights, format, &factor, grids);
    sweep.run(Applied::default()).unwrap().codes()
}

/// Natural, reversed, and by a stride.
fn orders(k: usize) -> [(Vec<usize>, Grids); 4] {
    let stride = (0..k).map(|i| i * 37 % k).collect();
    [
        ((0..k).collect(), Grids::Reached),
        ((0..k).collect(), Grids::Before),
        ((0..k).rev().collect(), Grids::Before),
        (stride, Grids::Before),
    ]
}

type Algorithm<'a> = dyn Fn(&Matrix, &dyn Format, &Inputs, &[usize], Grids) -> Vec<u8> + 'a;

/// Whether an algorithm gives the codes of the paper's, on a layer of 64 × 96, in every format and order.
fn gives_the_codes_of_the_paper(algorithm: &Algorithm<'_>) -> Result<(), String> {
    let (weights, inputs) = layer(64, 96);
    for format in formats() {
        for (order, grids) in orders(96) {
            let expected = paper(&weights, format.as_ref(), &inputs, &order, grids);
            let got = algorithm(&weights, format.as_ref(), &inputs, &order, grids);
            let differ = got.iter().zip(&expected).filter(|(a, b)| a != b).count();
            if differ > 0 {
                return Err(format!(
                    "{} {grids:?} {:?}…: {differ} codes",
                    format.name(),
                    &order[..3]
                ));
            }
        }
    }
    Ok(())
}

#[test]
fn the_fast_path_gives_the_codes_of_the_paper() {
    gives_the_codes_of_the_paper(&ours).unwrap();
}

#[test]
fn optimal_brain_quantization_in_the_same_order_gives_the_same_codes() {
    gives_the_codes_of_the_paper(&brain).unwrap();
}

#[test]
fn the_result_does_not_depend_on_blocks() {
    let (weights, inputs) = layer(20, 96);
    for format in formats() {
        for (order, grids) in orders(96) {
            let factor = Factor::new(&inputs, order, DAMPING).unwrap();
            let mut sweep = Sweep::new(&weights, format.as_ref(), &factor, grids);
            let expected = sweep.run(Applied::default()).unwrap();
            for block in [1, 5, 32, 1000] {
                sweep.block = block;
                let got = sweep.run(Applied::default()).unwrap();
                assert_eq!(got.codes(), expected.codes(), "{} {block}", format.name());
                assert_eq!(got.grids(), expected.grids(), "{} {block}", format.name());
            }
        }
    }
}

#[test]
fn planted_bugs_are_caught() {
    let with = |change: &dyn Fn(&mut Factor, &Inputs)| {
        gives_the_codes_of_the_paper(&|weights, format, inputs, order, grids| {
            let mut factor = Factor::new(inputs, order.to_vec(), DAMPING).unwrap();
            change(&mut factor, inputs);
            let sweep = Sweep::new(weights, format, &factor, grids);
            sweep.run(Applied::default()).unwrap().codes()
        })
    };
    assert!(with(&|_, _| ()).is_ok());
    // Errors are subtracted instead of made up for.
    assert!(with(&|it, _| it.feedback.iter_mut().for_each(|u| *u = -*u)).is_err());
    // No feedback at all: round to nearest under another name.
    assert!(with(&|it, _| it.feedback.fill(0.0)).is_err());
    // Feedback is not divided by the pivot.
    assert!(
        with(&|it, inputs| {
            let k = it.order.len();
            for i in 0..k {
                for j in i + 1..k {
                    it.feedback[i * k + j] *= inputs.hessian(it.order[j], it.order[j]).sqrt();
                }
            }
        })
        .is_err()
    );
    // The Hessian was permuted, the weights are not; in the natural order it does not show.
    assert!(with(&|it, _| it.order.sort_unstable()).is_err());
    // Damping is forgotten, or comes twice.
    for damping in [1e-9, 0.02] {
        let other = gives_the_codes_of_the_paper(&|weights, format, inputs, order, grids| {
            let factor = Factor::new(inputs, order.to_vec(), damping).unwrap();
            let sweep = Sweep::new(weights, format, &factor, grids);
            sweep.run(Applied::default()).unwrap().codes()
        });
        assert!(other.is_err(), "{damping}");
    }
}

/// Back to front, GPTQ is Babai's nearest plane algorithm on the lattice s·R·ℤᵏ, H = Rᵀ·R (J. Chen et al., arXiv 2507.18553), and its
/// error keeps Babai's bound, ¼·Σ (s·Rᵢᵢ)², where nothing is clipped.
#[test]
fn back_to_front_it_is_babais_nearest_plane() -> Result<()> {
    let (rows, k) = (64, 96);
    let (mut weights, inputs) = layer(rows, k);
    let order: Vec<usize> = (0..k).rev().collect();
    let h = damped(&inputs, &(0..k).collect::<Vec<_>>());
    let r = upper(&h, k);
    // A grid so wide that nothing is clipped: each row's first weight sets its scale.
    let mut wide = weights.data().to_vec();
    wide.chunks_mut(k).for_each(|row| row[k - 1] = 60.0);
    weights = Matrix::new(rows, k, wide)?;
    let format = IntSymmetric::new(8, Granularity::Channel)?;
    let factor = Factor::new(&inputs, order, DAMPING)?;
    let sweep = Sweep::new(&weights, &format, &factor, Grids::Before);
    let quantized = sweep.run(Applied::default())?;
    assert_eq!(quantized.applied().clipped, Some(0));
    let (codes, grids, decoded) = (quantized.codes(), quantized.grids(), quantized.decode()?);
    for (n, grid) in grids.iter().enumerate() {
        let scale = f64::from(grid.0[0]);
        let w: Vec<f64> = weights.row(n)?.iter().map(|&w| f64::from(w)).collect();
        // Target R·w; planes from the last to the first.
        let target: Vec<f64> = (0..k)
            .map(|i| (i..k).map(|j| r[i * k + j] * w[j]).sum())
            .collect();
        let mut z = vec![0.0; k];
        for i in (0..k).rev() {
            let after: f64 = (i + 1..k).map(|j| r[i * k + j] * scale * z[j]).sum();
            z[i] = ((target[i] - after) / (scale * r[i * k + i])).round();
            assert_eq!(z[i] + 127.0, f64::from(codes[n * k + i]), "[{n}, {i}]");
        }
        let error: Vec<f64> = w
            .iter()
            .zip(decoded.row(n)?)
            .map(|(w, v)| w - f64::from(*v))
            .collect();
        let length: f64 = (0..k)
            .map(|i| (i..k).map(|j| r[i * k + j] * error[j]).sum::<f64>().powi(2))
            .sum();
        let bound: f64 = (0..k).map(|i| (scale * r[i * k + i]).powi(2) / 4.0).sum();
        assert!(
            length <= bound * (1.0 + 1e-9),
            "row {n}: {length} > {bound}"
        );
    }
    Ok(())
}

#[test]
fn damping_grows_until_it_factors_and_says_so() -> Result<()> {
    // Four inputs of twelve channels: rank four.
    let x = samples::correlated(4, 12, 5);
    let inputs = Inputs::of_samples("x", &x, 12)?;
    let order: Vec<usize> = (0..12).collect();
    let enough = Factor::new(&inputs, order.clone(), 0.01)?;
    assert_eq!((enough.damping.used, enough.damping.tries), (0.01, 1));
    // The one that is always zero.
    assert_eq!(enough.dead, 1);
    let none = Factor::new(&inputs, order.clone(), 0.0)?;
    assert!(
        none.damping.used > 0.0 && none.damping.tries > 1,
        "{}",
        none.damping
    );
    assert!(
        none.damping.to_string().contains("asked 0"),
        "{}",
        none.damping
    );
    for bad in [-0.1, f64::NAN, f64::INFINITY] {
        let error = Factor::new(&inputs, order.clone(), bad)
            .unwrap_err()
            .to_string();
        assert!(error.contains("damping"), "{error}");
    }
    Ok(())
}

#[test]
fn inputs_that_were_never_active_leave_rounding_to_nearest() -> Result<()> {
    use crate::quant::{Method, method::Rtn};
    let (weights, _) = layer(5, 24);
    let inputs = Inputs::of_samples("x", &[0.0; 48], 24)?;
    let format = IntSymmetric::new(4, Granularity::Group(8))?;
    let factor = Factor::new(&inputs, (0..24).collect(), 0.01)?;
    let found = Sweep::new(&weights, &format, &factor, Grids::Reached).run(Applied::by("x"))?;
    assert_eq!(found.codes(), Rtn.quantize(&weights, &format)?.codes());
    assert_eq!(found.applied().dead_inputs, 24);
    Ok(())
}

#[test]
fn grids_fitted_when_reached_need_the_natural_order() {
    let (weights, inputs) = layer(4, 24);
    let format = IntSymmetric::new(4, Granularity::Group(8)).unwrap();
    let factor = Factor::new(&inputs, (0..24).rev().collect(), DAMPING).unwrap();
    let run = Sweep::new(&weights, &format, &factor, Grids::Reached).run(Applied::default());
    assert!(run.unwrap_err().to_string().contains("reordered"));
}
