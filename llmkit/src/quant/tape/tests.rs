use candle_core::Var;

use super::*;
use crate::model::Llama;
use crate::quant::equivalence::{Exact, networks};
use crate::quant::transform::Rotate;
use crate::quant::{Statistics, Transform};

fn square(n: usize, values: Vec<f64>) -> Tensor {
    Tensor::from_vec(values, (n, n), &Device::Cpu).unwrap()
}

/// Rotations, each with a little noise: not orthogonal, so that the loss depends on them.
fn rotations(config: &Config, noise: f64) -> Rotations {
    let one = |n: usize, seed: u64| {
        let mut values = Hadamard::random(n, seed).unwrap().dense();
        for (i, value) in values.iter_mut().enumerate() {
            *value += noise * (i as f64 * 1.7 + seed as f64).sin();
        }
        square(n, values)
    };
    Rotations {
        stream: one(config.width, 5),
        values: (0..config.layers)
            .map(|n| one(config.head_dim, 9 + n as u64))
            .collect(),
    }
}

fn windows() -> Vec<Vec<u32>> {
    let window = |seed: u32| (0..14).map(|i| (i * 7 + seed * 11) % 50).collect();
    vec![window(1), window(2)]
}

/// Networks as they are and, the first, with the inputs of `ffn_down` rotated on their way.
fn cases() -> Vec<(Llama, Option<Arc<Hadamard>>)> {
    let (rotated, _) = (Rotate::new(0).run(&networks()[0], &Statistics::default())).unwrap();
    let rotation = Arc::new(rotated.ffn_rotation(0).unwrap().clone());
    let plain = networks().into_iter().map(|it| (it, None));
    plain.chain([(rotated, Some(rotation))]).collect()
}

/// With rotations that are orthogonal and nothing rounded it is the network, in f64, on every architecture.
#[test]
fn without_rounding_it_is_the_network() -> Result<()> {
    for (network, ffn) in cases() {
        let exact = Exact::of(&network);
        let tape = Tape::of(&network, ffn, DType::F64)?;
        let rotations = rotations(network.config(), 0.0);
        let found = tape.logits(&windows(), &rotations, None)?;
        let found: Vec<f64> = found.flatten_all()?.to_vec1()?;
        let expected: Vec<f64> = windows().iter().flat_map(|it| exact.logits(it)).collect();
        let top = expected.iter().fold(0f64, |top, it| top.max(it.abs()));
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-9 * top, "{a} {b}");
        }
        let vocabulary = network.config().vocabulary;
        let nll = |logits: &[f64], next: u32| {
            let total: f64 = logits.iter().map(|it| it.exp()).sum();
            total.ln() - logits[next as usize]
        };
        let mut sum = 0.0;
        for (window, logits) in windows().iter().zip(expected.chunks(14 * vocabulary)) {
            let rows = logits.chunks(vocabulary).zip(&window[1..]);
            sum += rows.map(|(logits, &next)| nll(logits, next)).sum::<f64>();
        }
        let loss = tape
            .loss(&windows(), &rotations, None)?
            .to_scalar::<f64>()?;
        assert!((loss - sum / 26.0).abs() < 1e-9, "{loss} {}", sum / 26.0);
    }
    Ok(())
}

/// Central differences with steps h and h/2: they agree with the gradient to what their own difference says of them.
#[test]
fn gradients_are_those_of_differences() -> Result<()> {
    for (network, ffn) in cases() {
        let tape = Tape::of(&network, ffn, DType::F64)?;
        let start = rotations(network.config(), 0.05);
        let stream = Var::from_tensor(&start.stream)?;
        let values = Var::from_tensor(&start.values[1])?;
        let with = |stream: &Tensor, values: &Tensor| {
            let mut at = start.clone();
            (at.stream, at.values[1]) = (stream.clone(), values.clone());
            at
        };
        let loss = tape.loss(&windows(), &with(&stream, &values), None)?;
        let gradients = loss.backward()?;
        let value = |stream: &Tensor, values: &Tensor| -> Result<f64> {
            Ok((tape.loss(&windows(), &with(stream, values), None)?).to_scalar()?)
        };
        for (is_stream, var) in [(true, &stream), (false, &values)] {
            let n = var.dim(0)?;
            let way: Vec<f64> = (0..n * n).map(|i| (i as f64 * 2.3).sin()).collect();
            let way = square(n, way);
            let gradient = gradients.get(var).expect("it is in the loss");
            let slope = (gradient * &way)?.sum_all()?.to_scalar::<f64>()?;
            let difference = |h: f64| -> Result<f64> {
                let at = |h: f64| -> Result<f64> {
                    let moved = (var.as_tensor() + (&way * h)?)?;
                    match is_stream {
                        true => value(&moved, &values),
                        false => value(&stream, &moved),
                    }
                };
                Ok((at(h)? - at(-h)?) / (2.0 * h))
            };
            let (coarse, fine) = (difference(2e-6)?, difference(1e-6)?);
            let own = (coarse - fine).abs();
            let off = (slope - fine).abs();
            assert!(
                off <= 4.0 * own + 1e-6 * slope.abs(),
                "{slope} {fine} {coarse}"
            );
            assert!(slope.abs() > 1e-3, "nothing to see: {slope}");
        }
    }
    Ok(())
}

/// In f32, by our kernels forward and back, loss and gradient are those of f64.
#[test]
fn single_precision_has_the_gradients_of_double() -> Result<()> {
    for (network, ffn) in cases() {
        let at = rotations(network.config(), 0.05);
        let gradient = |dtype: DType| -> Result<(f64, Vec<f64>)> {
            let tape = Tape::of(&network, ffn.clone(), dtype)?;
            let cast = |it: &Tensor| it.to_dtype(dtype);
            let stream = Var::from_tensor(&cast(&at.stream)?)?;
            let rotations = Rotations {
                stream: stream.as_tensor().clone(),
                values: at.values.iter().map(cast).collect::<Result<_, _>>()?,
            };
            let loss = tape.loss(&windows(), &rotations, None)?;
            let gradient = loss.backward()?.remove(&stream).expect("it is in the loss");
            let wide = gradient.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
            Ok((loss.to_dtype(DType::F64)?.to_scalar()?, wide))
        };
        let (exact, single) = (gradient(DType::F64)?, gradient(DType::F32)?);
        assert!((exact.0 - single.0).abs() < 1e-3 * exact.0.abs());
        let norm = |of: &[f64]| of.iter().map(|it| it * it).sum::<f64>().sqrt();
        let pairs = exact.1.iter().zip(&single.1);
        let off = norm(&pairs.map(|(a, b)| a - b).collect::<Vec<_>>());
        println!("{:.1e} of the gradient", off / norm(&exact.1));
        assert!(off < 1e-2 * norm(&exact.1), "{off} {}", norm(&exact.1));
    }
    Ok(())
}

#[test]
fn rounding_is_that_of_activations_and_has_the_gradient_of_nothing() -> Result<()> {
    let x = Var::from_vec(
        vec![0.31f64, -1.4, 0.69, 0.0, 0.0, 0.0],
        (2, 3),
        &Device::Cpu,
    )?;
    let y = rounded(&x, Some(4))?;
    // s = 1.4/7 = 0.2.
    let found: Vec<f64> = y.flatten_all()?.to_vec1()?;
    for (a, b) in found.iter().zip([0.4, -1.4, 0.6, 0.0, 0.0, 0.0]) {
        assert!((a - b).abs() < 1e-12, "{found:?}");
    }
    let way = Tensor::from_vec(vec![1f64, 2.0, 3.0, 4.0, 5.0, 6.0], (2, 3), &Device::Cpu)?;
    let gradients = (y * &way)?.sum_all()?.backward()?;
    let gradient = gradients.get(&x).expect("it is in the sum");
    assert_eq!(gradient.to_vec2::<f64>()?, way.to_vec2::<f64>()?);
    Ok(())
}
