//! Linear layers against plain loops.

use super::*;
use crate::model::WeightType;

/// An input that was made for one instruction set is good for the others.
#[test]
fn an_input_and_a_layer_may_have_engines_of_their_own() {
    let (n, k, t) = (37, 96, 40);
    let (w, x) = (noise(n * k), noise(t * k));
    let engines = Isa::here().into_iter().map(|isa| Engine {
        isa,
        ..Engine::default()
    });
    let engines: Vec<Engine> = engines.collect();
    for kind in WeightType::ALL {
        let layer = kind.layer("w", &w, k).unwrap();
        for engine in &engines {
            let multiply = |of_input| {
                let (input, mut out) = (Input::new(&x, k, of_input), vec![0.0; t * n]);
                // Other forms of it have been asked for before.
                input.bf16();
                layer.forward(&input, Into::Replace, &mut out, engine);
                out
            };
            let own = multiply(engine);
            for other in &engines {
                assert_eq!(
                    multiply(other),
                    own,
                    "{kind}: {} on {}",
                    other.isa,
                    engine.isa
                );
            }
        }
    }
}

fn noise(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (i as f32 * 0.7).sin() * (1.0 + (i % 7) as f32))
        .collect()
}

#[test]
fn forward_multiplies_with_the_rows_it_shows() {
    let (n, k, t) = (37, 96, 5);
    let (w, x) = (noise(n * k), noise(t * k));
    let engine = Engine::default();
    for kind in WeightType::ALL {
        let layer = kind.layer("w", &w, k).unwrap();
        assert_eq!(layer.shape(), (n, k));
        let input = Input::new(&x, k, &engine);
        let mut out = vec![0.0; t * n];
        layer.forward(&input, Into::Replace, &mut out, &engine);
        let mut row = vec![0.0; k];
        for i in 0..n {
            layer.row(i, &mut row);
            for j in 0..t {
                let x = &x[j * k..(j + 1) * k];
                let exact: f32 = row.iter().zip(x).map(|(a, b)| a * b).sum();
                let size: f32 = row.iter().zip(x).map(|(a, b)| (a * b).abs()).sum();
                // Rounding the input: 2⁻⁸ relative for bf16, half of 1/127 of a group's largest for bytes.
                let bound = match kind {
                    WeightType::F32 | WeightType::Native => 1e-5 * size,
                    WeightType::Bf16 => size / 256.0,
                    _ => row.iter().map(|it| it.abs()).sum::<f32>() * 7.0 / 254.0,
                };
                assert!((out[j * n + i] - exact).abs() <= bound, "{kind} {i} {j}");
            }
        }
    }
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let mut w = noise(64);
    w[33] = f32::NAN;
    let error = WeightType::Bf16
        .layer("blk.0.ffn_up.weight", &w, 32)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("blk.0.ffn_up.weight") && error.contains("[1, 1]"),
        "{error}"
    );
}

#[test]
fn blocks_of_a_file_keep_their_values() {
    for block in [
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
    ] {
        let mut data: Vec<u8> = (0..6 * block.bytes())
            .map(|i| (i * 73 + i / 7) as u8)
            .collect();
        for at in (0..data.len()).step_by(block.bytes()) {
            // Scales (and mins) that are ordinary numbers.
            data[at + 1] = 0x2c;
            data[at + 3] = if matches!(block, BlockType::Q4_1 | BlockType::Q5_1) {
                0xb0
            } else {
                data[at + 3]
            };
        }
        let layer = Integer::of_blocks(block, &data, 64).unwrap();
        assert_eq!(layer.shape(), (3, 64));
        let expected = block.dequantize(&data);
        let mut row = vec![0.0; 64];
        for n in 0..3 {
            layer.row(n, &mut row);
            for (got, expected) in row.iter().zip(&expected[n * 64..]) {
                assert!((got - expected).abs() <= expected.abs() * 1e-6, "{block:?}");
            }
        }
    }
    assert!(Integer::of_blocks(BlockType::F16, &[0; 64], 32).is_none());
}
