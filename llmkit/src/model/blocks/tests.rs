//! Every type against values made by others: the reference in Python on the same bytes, candle on files it wrote (`tests/files.rs`).

use sha2::{Digest, Sha256};

use super::*;
use crate::model::WeightType;
use crate::model::weights::Weights;

/// Where a block has an f16 (or the upper half of an f32): places of its upper bytes.
fn high_bytes(block: BlockType) -> &'static [usize] {
    match block {
        BlockType::F32 => &[3],
        BlockType::F16 | BlockType::BF16 => &[1],
        BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 | BlockType::IQ4_NL => &[1],
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4_K | BlockType::Q5_K => &[1, 3],
        BlockType::Q2_K => &[81, 83],
        BlockType::Q3_K => &[109],
        BlockType::Q6_K => &[209],
        BlockType::TQ1_0 => &[53],
        BlockType::TQ2_0 => &[65],
    }
}

/// The bytes of `lab/golden_blocks.py`: a linear congruential generator, scales kept below 2 so that all values are numbers.
fn bytes(block: BlockType, blocks: usize) -> Vec<u8> {
    let mut state = u64::from(block.number());
    let mut out: Vec<u8> = (0..blocks * block.bytes())
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    for one in out.chunks_exact_mut(block.bytes()) {
        high_bytes(block).iter().for_each(|&at| one[at] &= 0xbf);
    }
    out
}

/// Type, blocks, first and last value, sha256 of all values as little-endian f32: of the reference.
const GOLDEN: &str = include_str!("../../../../data/golden/blocks.csv");

#[test]
fn values_have_the_bits_of_the_reference() {
    let mut seen = 0;
    for line in GOLDEN.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let block = BlockType::ALL.into_iter().find(|it| it.name() == fields[0]);
        let block = block.unwrap_or_else(|| panic!("type {}", fields[0]));
        let values = block.dequantize(&bytes(block, fields[1].parse().unwrap()));
        let ends = [values[0], values[values.len() - 1]];
        assert_eq!(
            ends.map(f32::to_bits),
            [fields[2], fields[3]].map(|it| it.parse::<f32>().unwrap().to_bits()),
            "{block:?}"
        );
        let bytes: Vec<u8> = values.iter().flat_map(|it| it.to_le_bytes()).collect();
        let hash: String = (Sha256::digest(&bytes).iter())
            .map(|it| format!("{it:02x}"))
            .collect();
        assert_eq!(hash, fields[4], "{block:?}");
        seen += 1;
    }
    assert_eq!(seen, BlockType::ALL.len(), "every type has its line");
}

#[test]
fn a_planted_bug_in_any_byte_changes_a_value() {
    // Each byte of a block matters: a decoder that overlooks one would pass the above only by luck.
    for block in BlockType::ALL {
        let honest = bytes(block, 1);
        let values = block.dequantize(&honest);
        for at in 0..honest.len() {
            let changed = (0..8).any(|bit| {
                let mut other = honest.clone();
                other[at] ^= 1 << bit;
                block.dequantize(&other) != values
            });
            assert!(changed, "{block:?} byte {at}");
        }
    }
}

#[test]
fn sizes_and_numbers_are_those_of_ggml() {
    for (number, block, elements, bytes) in [
        (0, BlockType::F32, 1, 4),
        (1, BlockType::F16, 1, 2),
        (2, BlockType::Q4_0, 32, 18),
        (3, BlockType::Q4_1, 32, 20),
        (6, BlockType::Q5_0, 32, 22),
        (7, BlockType::Q5_1, 32, 24),
        (8, BlockType::Q8_0, 32, 34),
        (10, BlockType::Q2_K, 256, 84),
        (11, BlockType::Q3_K, 256, 110),
        (12, BlockType::Q4_K, 256, 144),
        (13, BlockType::Q5_K, 256, 176),
        (14, BlockType::Q6_K, 256, 210),
        (20, BlockType::IQ4_NL, 32, 18),
        (30, BlockType::BF16, 1, 2),
        (34, BlockType::TQ1_0, 256, 54),
        (35, BlockType::TQ2_0, 256, 66),
    ] {
        assert_eq!(BlockType::from_ggml(number), Some(block));
        assert_eq!((block.elements(), block.bytes()), (elements, bytes));
        assert_eq!(BlockType::ggml_name(number), block.name());
    }
    for unread in [4, 5, 9, 15, 16, 29, 31, 39, u32::MAX] {
        assert_eq!(BlockType::from_ggml(unread), None, "{unread}");
    }
}

#[test]
fn a_broken_last_block_is_left_out() {
    for block in BlockType::ALL {
        assert!(block.dequantize(&[]).is_empty());
        let data = bytes(block, 3);
        let whole = block.dequantize(&data);
        assert_eq!(whole.len(), 3 * block.elements());
        let cut = block.dequantize(&data[..data.len() - 1]);
        assert_eq!(cut, whole[..2 * block.elements()], "{block:?}");
    }
}

#[test]
fn scales_that_are_no_numbers_are_reported_with_their_tensor() {
    // A file of one matrix (2, 256): a NaN, then an infinity, in each place that holds an f16 (or f32).
    for block in BlockType::ALL {
        let honest = bytes(block, 512 / block.elements());
        for &at in high_bytes(block) {
            let is_f32 = matches!(block, BlockType::F32 | BlockType::BF16);
            for bad in if is_f32 {
                [0x7fc0u16, 0xff80]
            } else {
                [0x7e00, 0xfc00]
            } {
                let mut data = honest.clone();
                let second_row = 256 / block.elements() * block.bytes();
                data[second_row + at - 1..=second_row + at].copy_from_slice(&bad.to_le_bytes());
                let gguf = crate::model::tests::one_matrix("m.gguf", block, &data);
                let weights = Weights::of_gguf(std::sync::Arc::new(gguf));
                for kind in WeightType::ALL {
                    let error = weights.linear("blk.0.ffn_up.weight", 2, 256, kind);
                    let error = error.unwrap_err().to_string();
                    assert!(
                        error.contains("m.gguf: blk.0.ffn_up.weight") && error.contains("finite"),
                        "{block:?} {kind}: {error}"
                    );
                }
            }
        }
    }
}
