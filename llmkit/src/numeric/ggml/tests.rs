//! Layouts, codes and golden bytes of every type.

use sha2::{Digest, Sha256};

use super::*;

/// Weights by formula, so that every language makes the same: 32-bit integers from a multiplicative sequence, four of
/// them summed to a bell, shaped by the number of their super-block of 256. All steps are exact in f32.
fn weights(blocks: usize) -> Vec<f32> {
    let draw = |i: usize| {
        let mixed = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(12_345);
        let mixed = (mixed ^ mixed >> 15).wrapping_mul(2_246_822_519);
        (mixed ^ mixed >> 13) >> 16
    };
    let weight = |i: usize| {
        let bell: u32 = (0..4).map(|k| draw(4 * i + k)).sum();
        // −1 … 1 in steps of 2⁻¹⁷, standard deviation about 0.29.
        let x = (bell as f32 - 131_072.0) / 131_072.0;
        match i / 256 % 8 {
            0 => x * 0.125,
            1 if i.is_multiple_of(97) => x * 64.0,
            1 => x * 0.0625,
            2 if (i / 32).is_multiple_of(2) => 0.0,
            2 => x,
            3 => 0.75,
            4 => x.abs() + 0.25,
            5 => -x.abs() * 0.001_953_125,
            6 => x * x * x,
            _ if i.is_multiple_of(5) => x * 1000.0,
            _ => x * 7.450_581e-9,
        }
    };
    (0..256 * blocks).map(weight).collect()
}

#[test]
fn bytes_are_those_of_llama_cpp() {
    let golden = include_str!("../../../../data/golden/ggml-quantize.csv");
    let weights = weights(64);
    let mut seen = 0;
    for line in golden.lines().skip(1) {
        let (name, sha) = line.split_once(',').expect("type,sha256");
        let digest = |bytes: &[u8]| -> String {
            Sha256::digest(bytes)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        };
        if name == "F32" {
            let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
            assert_eq!(digest(&bytes), sha, "the weights themselves");
            continue;
        }
        let of = GgmlType::ALL.into_iter().find(|of| of.name() == name);
        let of = of.unwrap_or_else(|| panic!("{name} is no type here"));
        assert_eq!(digest(&of.encode(&weights)), sha, "{name}");
        seen += 1;
    }
    assert_eq!(seen, GgmlType::ALL.len());
}

/// With an importance of each column, in rows of 1,024.
#[test]
fn bytes_with_an_importance_matrix_are_those_of_llama_cpp() {
    let golden = include_str!("../../../../data/golden/ggml-importance.csv");
    let weights = weights(64);
    let importance: Vec<f32> = (0..1024)
        .map(|j| (j * 37 % 101 + 1) as f32 * 0.0625 * if j % 64 == 5 { 64.0 } else { 1.0 })
        .collect();
    let mut seen = 0;
    for line in golden.lines().skip(2) {
        let (name, sha) = line.split_once(',').expect("type,sha256");
        let of = GgmlType::ALL.into_iter().find(|of| of.name() == name);
        let of = of.unwrap_or_else(|| panic!("{name} is no type here"));
        let mut bytes = Vec::new();
        for row in weights.chunks(1024) {
            let power = GgmlType::power(row);
            let blocks = row
                .chunks(of.elements())
                .zip(importance.chunks(of.elements()));
            for (block, importance) in blocks {
                of.pack(&of.quantize_weighted(block, importance, power), &mut bytes);
            }
        }
        let digest: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(digest, sha, "{name}");
        seen += 1;
    }
    assert_eq!(seen, GgmlType::ALL.len() - 2);
}

#[test]
fn any_bytes_come_back_from_parts() {
    for of in GgmlType::ALL {
        for seed in 0..50u32 {
            let byte =
                |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 977) >> 13) as u8;
            let mut bytes: Vec<u8> = (0..of.bytes() as u32).map(byte).collect();
            if of == GgmlType::TQ1_0 {
                // Not every byte is five ternary digits: take codes instead.
                let codes = (0..256).map(|i| byte(i) % 3).collect();
                let params = vec![0.5];
                bytes.clear();
                of.pack(&Parts { params, codes }, &mut bytes);
            }
            let parts = of.unpack(&bytes);
            assert_eq!(parts.codes.len(), of.elements());
            assert!(
                parts
                    .codes
                    .iter()
                    .all(|&code| u32::from(code) < of.levels().next_power_of_two())
            );
            if parts.params.iter().any(|param| param.is_nan()) {
                continue;
            }
            let mut back = Vec::new();
            of.pack(&parts, &mut back);
            assert_eq!(back, bytes, "{of:?}");
        }
    }
}

/// Whole tensors are decoded by loops of their own: against the value of each code by itself, on weights and on any bytes.
#[test]
fn decoding_gives_the_value_of_each_code() {
    let weights = weights(8);
    for of in GgmlType::ALL {
        let any = (0..20 * of.bytes() as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 19) as u8);
        for bytes in [of.encode(&weights), any.collect()] {
            let decoded = of.decode(&bytes);
            let blocks = bytes.chunks_exact(of.bytes());
            assert_eq!(decoded.len(), blocks.len() * of.elements());
            for (block, decoded) in blocks.zip(decoded.chunks_exact(of.elements())) {
                let Parts { params, codes } = of.unpack(block);
                for (at, (&code, decoded)) in codes.iter().zip(decoded).enumerate() {
                    let value = of.value(&params, at, code);
                    let is_same = value.to_bits() == decoded.to_bits();
                    assert!(is_same || value.is_nan() && decoded.is_nan(), "{of:?} {at}");
                }
            }
        }
    }
}

#[test]
fn a_hand_computed_block_of_q4_0() {
    let mut block = vec![0.0; 32];
    (block[0], block[1], block[16]) = (-8.0, 3.4, 7.0);
    let parts = GgmlType::Q4_0.quantize(&block);
    assert_eq!(parts.params, [1.0]);
    assert_eq!(
        (parts.codes[0], parts.codes[1], parts.codes[16]),
        (0, 11, 15)
    );
    let mut bytes = Vec::new();
    GgmlType::Q4_0.pack(&parts, &mut bytes);
    // 1.0 in f16, then weight 0 low and weight 16 high.
    assert_eq!(bytes[..4], [0x00, 0x3c, 0xf0, 0x8b]);
}

/// Bugs in rounding that would pass every test of accuracy; the bytes give each away.
#[test]
fn planted_bugs_change_the_bytes() {
    let weights = weights(16);
    let right = GgmlType::Q4_0.encode(&weights);
    let encode = |code: fn(f32, f32) -> u8| -> Vec<u8> {
        let mut bytes = Vec::new();
        for block in weights.chunks_exact(32) {
            let Parts { params, .. } = GgmlType::Q4_0.quantize(block);
            let codes = block.iter().map(|&x| code(params[0], x)).collect();
            GgmlType::Q4_0.pack(&Parts { params, codes }, &mut bytes);
        }
        bytes
    };
    // Codes rounded with the stored scale instead of the searched one.
    assert_ne!(right, encode(|d, x| GgmlType::Q4_0.nearest(&[d], 0, x)));
    // The weight of greatest magnitude taken without its sign.
    let unsigned = |block: &[f32]| block.iter().fold(0f32, |max, x| max.max(x.abs())) / -8.0;
    assert!(
        weights
            .chunks_exact(32)
            .any(|block| { rounded(unsigned(block)) != GgmlType::Q4_0.quantize(block).params[0] })
    );
}
