//! GGUF files by hand and by candle.

use std::io::Cursor;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};

use super::super::blocks::BlockType;
use super::super::gguf::{Gguf, Value};
use super::{CPU, noise};
use crate::Error;

/// A file by hand: pairs and tensors as raw bytes.
#[derive(Clone)]
struct File {
    version: u32,
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

impl File {
    fn honest() -> File {
        let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        File {
            version: 3,
            pairs: vec![
                pair("u8", 0, &[200]),
                pair("i8", 1, &[0xff]),
                pair("u16", 2, &[1, 2]),
                pair("i16", 3, &[0xfe, 0xff]),
                pair("u32", 4, &7u32.to_le_bytes()),
                pair("i32", 5, &(-7i32).to_le_bytes()),
                pair("f32", 6, &1.5f32.to_le_bytes()),
                pair("yes", 7, &[1]),
                pair("text", 8, &text("né")),
                pair("u64", 10, &(1u64 << 40).to_le_bytes()),
                pair("f64", 12, &(-0.25f64).to_le_bytes()),
                pair(
                    "texts",
                    9,
                    &[
                        &8u32.to_le_bytes()[..],
                        &2u64.to_le_bytes(),
                        &text("a"),
                        &text(""),
                    ]
                    .concat(),
                ),
                pair(
                    "ints",
                    9,
                    &[
                        &5u32.to_le_bytes()[..],
                        &2u64.to_le_bytes(),
                        &1i32.to_le_bytes(),
                        &(-1i32).to_le_bytes(),
                    ]
                    .concat(),
                ),
                pair(
                    "none",
                    9,
                    &[&6u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat(),
                ),
            ],
            tensors: vec![tensor("m", &[3, 2], 0, 0)],
            data: floats,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        self.pairs
            .iter()
            .chain(&self.tensors)
            .for_each(|part| out.extend(part));
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }

    fn parse(&self) -> crate::Result<Gguf> {
        Gguf::parse("test.gguf", self.bytes())
    }

    fn refusal(&self) -> String {
        match self.parse() {
            Err(error @ Error::Format { .. }) => error.to_string(),
            other => panic!("expected a refusal, got {:?}", other.map(|it| it.metadata)),
        }
    }
}

/// A file of one matrix `blk.0.ffn_up.weight` (2, 256) of these blocks.
pub(in crate::model) fn one_matrix(name: &str, block: BlockType, data: &[u8]) -> Gguf {
    let number = (0..64).find(|&it| BlockType::from_ggml(it) == Some(block));
    let file = File {
        version: 3,
        pairs: vec![],
        tensors: vec![tensor("blk.0.ffn_up.weight", &[256, 2], number.unwrap(), 0)],
        data: data.to_vec(),
    };
    Gguf::parse(name, file.bytes()).unwrap()
}

#[test]
fn a_hand_made_file_is_understood() {
    for version in [2, 3] {
        let gguf = File {
            version,
            ..File::honest()
        }
        .parse()
        .unwrap();
        assert_eq!(gguf.metadata["u8"], Value::Integer(200));
        assert_eq!(gguf.metadata["i8"], Value::Integer(-1));
        assert_eq!(gguf.metadata["u16"], Value::Integer(513));
        assert_eq!(gguf.metadata["i16"], Value::Integer(-2));
        assert_eq!(gguf.metadata["i32"], Value::Integer(-7));
        assert_eq!(gguf.metadata["yes"], Value::Bool(true));
        assert_eq!(gguf.metadata["none"], Value::Floats(vec![]));
        assert_eq!(gguf.metadata["ints"], Value::Integers(vec![1, -1]));
        assert_eq!(gguf.integer("u64").unwrap(), 1 << 40);
        assert_eq!(gguf.float("f32").unwrap(), 1.5);
        assert_eq!(gguf.float("f64").unwrap(), -0.25);
        assert_eq!(gguf.text("text").unwrap(), "né");
        assert_eq!(gguf.texts("texts").unwrap(), ["a", ""]);
        assert_eq!(gguf.tensors[0].shape, [2, 3], "outermost first");
        assert_eq!(
            gguf.dequantize(&gguf.tensors[0]),
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        );
        for wrong in [
            gguf.integer("i8"),
            gguf.integer("text"),
            gguf.integer("absent"),
            gguf.integer("f32"),
        ] {
            assert!(matches!(wrong, Err(Error::Format { .. })));
        }
    }
}

#[test]
fn a_file_on_disk_is_mapped_and_a_clone_shares_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, File::honest().bytes()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let copy = gguf.clone();
    let info = gguf.tensor("m").unwrap();
    assert_eq!(copy.data(info).as_ptr(), gguf.data(info).as_ptr());
    assert_eq!(gguf.dequantize(info), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert!(gguf.tensor("n").is_none());
    std::fs::write(folder.path().join("empty.gguf"), b"").unwrap();
    let error = Gguf::open(&folder.path().join("empty.gguf")).unwrap_err();
    assert!(error.to_string().contains("empty.gguf: byte 0"), "{error}");
}

#[test]
fn an_empty_file_of_no_tensors_is_fine() {
    let gguf = File {
        pairs: vec![],
        tensors: vec![],
        data: vec![],
        ..File::honest()
    }
    .parse()
    .unwrap();
    assert!(gguf.tensors.is_empty() && gguf.metadata.is_empty());
}

#[test]
fn hostile_files_are_refused_without_harm() {
    let with_pair = |pair: Vec<u8>| {
        File {
            pairs: vec![pair],
            ..File::honest()
        }
        .refusal()
    };
    let with_tensor = |tensor: Vec<u8>| {
        File {
            tensors: vec![tensor],
            ..File::honest()
        }
        .refusal()
    };
    let huge = u64::MAX.to_le_bytes();
    // Counts that promise more than the file holds.
    assert!(with_pair([&huge[..], b"x"].concat()).contains("bytes of text"));
    assert!(with_pair(pair("k", 8, &(1u64 << 40).to_le_bytes())).contains("bytes of text"));
    assert!(
        with_pair(pair("k", 9, &[&4u32.to_le_bytes()[..], &huge].concat()))
            .contains("array elements")
    );
    assert!(
        with_pair(pair(
            "k",
            9,
            &[&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()
        ))
        .contains("numbers or texts")
    );
    assert!(with_pair(pair("k", 99, &[])).contains("known value type"));
    assert!(with_pair(pair("k", 10, &huge)).contains("below 2^63"));
    assert!(
        with_pair(pair(
            "k",
            8,
            &[&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat()
        ))
        .contains("UTF-8")
    );
    assert!(with_pair(pair("general.alignment", 4, &0u32.to_le_bytes())).contains("power of two"));
    assert!(with_pair(pair("general.alignment", 4, &48u32.to_le_bytes())).contains("power of two"));
    assert!(
        with_pair(pair("general.alignment", 5, &i32::MIN.to_le_bytes())).contains("power of two")
    );
    // Tensors of impossible size or place.
    assert!(with_tensor(tensor("t", &[], 0, 0)).contains("1 to 4 dimensions"));
    assert!(with_tensor(tensor("t", &[1; 5], 0, 0)).contains("1 to 4 dimensions"));
    assert!(with_tensor(tensor("t", &[u64::MAX, u64::MAX], 0, 0)).contains("fits the file"));
    assert!(with_tensor(tensor("t", &[1 << 62, 4], 0, 0)).contains("fits the file"));
    assert!(with_tensor(tensor("t", &[0, 4], 0, 0)).contains("fits the file"));
    assert!(with_tensor(tensor("t", &[7], 0, 0)).contains("inside the file"));
    assert!(with_tensor(tensor("t", &[1], 0, 32)).contains("inside the file"));
    assert!(with_tensor(tensor("t", &[1], 0, 3)).contains("aligned"));
    assert!(with_tensor(tensor("t", &[1], 0, u64::MAX - 31)).contains("inside the file"));
    assert!(with_tensor(tensor("t", &[33], 2, 0)).contains("whole blocks of 32"));
    assert!(with_tensor(tensor("t", &[255], 12, 0)).contains("whole blocks of 256"));
    assert!(with_tensor(tensor("t", &[256], 23, 0)).contains("IQ4_XS"));
    assert!(with_tensor(tensor("t", &[32], 4_000_000_000, 0)).contains("type 4000000000"));
    // Twice the same, and one on top of another.
    let file = File::honest();
    let twice = File {
        pairs: vec![file.pairs[0].clone(); 2],
        ..file.clone()
    };
    assert!(twice.refusal().contains("u8 twice"));
    let twice = File {
        tensors: vec![file.tensors[0].clone(); 2],
        ..file.clone()
    };
    assert!(twice.refusal().contains("twice"));
    let overlap = File {
        tensors: vec![tensor("a", &[6], 0, 0), tensor("b", &[3], 0, 0)],
        ..file.clone()
    };
    assert!(overlap.refusal().contains("overlaps"));
    for version in [0, 1, 4, 3 << 24] {
        assert!(
            File {
                version,
                ..file.clone()
            }
            .refusal()
            .contains("version")
        );
    }
    // Every truncation, and no file at all.
    let bytes = file.bytes();
    for keep in 0..bytes.len() {
        assert!(Gguf::parse("t", bytes[..keep].to_vec()).is_err(), "{keep}");
    }
    // Any flipped byte gives a file or an error, never a panic.
    for at in 0..bytes.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= mask;
            let _ = Gguf::parse("t", damaged).map(|it| {
                it.tensors
                    .iter()
                    .map(|t| it.dequantize(t).len())
                    .sum::<usize>()
            });
        }
    }
}

#[test]
fn blocks_by_hand() {
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
    // Byte i: low half i, high half 15 − i.
    let nibbles: Vec<u8> = (0..16u8).map(|i| i | (15 - i) << 4).collect();
    let q4_0 = BlockType::Q4_0.dequantize(&[&half(0.5)[..], &nibbles].concat());
    assert_eq!(
        (q4_0[0], q4_0[15], q4_0[16], q4_0[31]),
        (-4.0, 3.5, 3.5, -4.0)
    );
    let q4_1 = BlockType::Q4_1.dequantize(&[&half(0.5)[..], &half(-1.0), &nibbles].concat());
    assert_eq!(
        (q4_1[0], q4_1[15], q4_1[16], q4_1[31]),
        (-1.0, 6.5, 6.5, -1.0)
    );
    // Fifth bits: elements 0 and 31.
    let fifth = 0x8000_0001u32.to_le_bytes();
    let q5_0 = BlockType::Q5_0.dequantize(&[&half(2.0)[..], &fifth, &nibbles].concat());
    assert_eq!(
        (q5_0[0], q5_0[1], q5_0[30], q5_0[31]),
        (0.0, -30.0, -30.0, 0.0)
    );
    let q5_1 = BlockType::Q5_1.dequantize(&[&half(2.0)[..], &half(1.0), &fifth, &nibbles].concat());
    assert_eq!(
        (q5_1[0], q5_1[1], q5_1[30], q5_1[31]),
        (33.0, 3.0, 3.0, 33.0)
    );
    let q8_0 = BlockType::Q8_0.dequantize(&[&half(0.25)[..], &[0x80; 32]].concat());
    assert_eq!(q8_0, [-32.0; 32]);
    assert_eq!(
        BlockType::BF16.dequantize(&half::bf16::from_f32(-3.0).to_le_bytes()),
        [-3.0]
    );
    assert_eq!(BlockType::F16.dequantize(&half(-3.0)), [-3.0]);
    assert!(BlockType::F32.dequantize(&f32::NAN.to_le_bytes())[0].is_nan());
    assert!(BlockType::Q8_0.dequantize(&[]).is_empty());
    assert!(
        BlockType::Q8_0.dequantize(&[1; 33]).is_empty(),
        "a broken block is left out"
    );
}

#[test]
fn files_written_by_candle_decode_to_the_same_bits() {
    for (dtype, expected) in [
        (GgmlDType::F32, BlockType::F32),
        (GgmlDType::F16, BlockType::F16),
        (GgmlDType::BF16, BlockType::BF16),
        (GgmlDType::Q4_0, BlockType::Q4_0),
        (GgmlDType::Q4_1, BlockType::Q4_1),
        (GgmlDType::Q5_0, BlockType::Q5_0),
        (GgmlDType::Q5_1, BlockType::Q5_1),
        (GgmlDType::Q8_0, BlockType::Q8_0),
        (GgmlDType::Q2K, BlockType::Q2_K),
        (GgmlDType::Q3K, BlockType::Q3_K),
        (GgmlDType::Q4K, BlockType::Q4_K),
        (GgmlDType::Q5K, BlockType::Q5_K),
        (GgmlDType::Q6K, BlockType::Q6_K),
    ] {
        let (wide, narrow) = (3 * expected.elements().max(32), expected.elements().max(32));
        let source = noise(&[5, wide], 3.0, 11);
        let quantized = QTensor::quantize(&source, dtype).unwrap();
        let other = QTensor::quantize(&noise(&[3, narrow], 1e-4, 12), dtype).unwrap();
        let mut out = Cursor::new(Vec::new());
        let pairs = [("answer", &gguf_file::Value::U32(42))];
        gguf_file::write(&mut out, &pairs, &[("a", &quantized), ("b.weight", &other)]).unwrap();
        let gguf = Gguf::parse("candle.gguf", out.into_inner()).unwrap();
        assert_eq!(gguf.integer("answer").unwrap(), 42);
        for (info, truth) in gguf.tensors.iter().zip([quantized, other]) {
            assert_eq!(info.block, expected);
            assert_eq!(info.shape, truth.shape().dims());
            let truth: Vec<f32> = truth
                .dequantize(&CPU)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            assert_eq!(gguf.dequantize(info), truth, "{dtype:?}");
        }
    }
}
