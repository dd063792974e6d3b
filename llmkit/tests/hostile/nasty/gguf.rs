//! GGUF files whose structure is broken.

use super::refused;
use crate::entry;
use crate::seeds::gguf::{File, array, llama, text};

fn check(what: &str, words: &[&str], change: impl FnOnce(&mut File)) {
    let mut file = llama();
    change(&mut file);
    refused(what, entry::gguf, &file.bytes(), words);
}

#[test]
fn heads_that_are_none() {
    for bytes in [&b""[..], b"GGU", b"GGUF", b"gguf\x03\0\0\0", b"PK\x03\x04"] {
        refused("a head", entry::gguf, bytes, &["input.gguf: byte"]);
    }
    for version in [0, 1, 4, 3 << 24, u32::MAX] {
        check("version", &["version 2 or 3"], |it| it.version = version);
    }
}

#[test]
fn counts_that_the_file_cannot_hold() {
    let huge = u64::MAX / 2;
    check("tensors", &["tensors in what is left"], |it| {
        it.too_many.0 = huge;
    });
    check("pairs", &["metadata pairs in what is left"], |it| {
        it.too_many.1 = huge;
    });
    check("a tensor more", &["input.gguf"], |it| it.too_many.0 = 1);
    check("a pair more", &["input.gguf"], |it| it.too_many.1 = 1);
    check("a pair fewer", &["input.gguf"], |it| {
        it.too_many.1 = u64::MAX;
    });
    for count in [1u64 << 20, 1 << 40, 1 << 61, u64::MAX] {
        check("a long text", &["bytes of text"], |it| {
            it.set("k", 8, count.to_le_bytes());
        });
        for kind in [0u32, 3, 4, 7, 8, 12] {
            let head = [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
            check("a long array", &["array elements"], |it| {
                it.set("k", 9, head)
            });
        }
    }
}

#[test]
fn metadata_of_wrong_types() {
    check(
        "an unknown type",
        &["known value type under k", "99"],
        |it| {
            it.set("k", 99, [0; 8]);
        },
    );
    check("arrays of arrays", &["under k", "type 9"], |it| {
        it.set("k", 9, array(9, &[array(0, &[])]));
    });
    check("an unknown element", &["under k", "type 13"], |it| {
        it.set("k", 9, array(13, &[]));
    });
    check("an integer beyond i64", &["below 2^63"], |it| {
        it.set("k", 10, u64::MAX.to_le_bytes());
    });
    check("a text that is none", &["UTF-8"], |it| {
        it.set("k", 8, text([0xff, 0xfe]));
    });
    check("a key that is none", &["UTF-8"], |it| {
        it.pairs.push((vec![0xc0, 0x80], 0, vec![1]));
    });
    check("a key twice", &["general.architecture twice"], |it| {
        it.pairs.push(it.pairs[0].clone());
    });
    for (kind, value) in [
        (4u32, 0u32.to_le_bytes()),
        (4, 3u32.to_le_bytes()),
        (4, 48u32.to_le_bytes()),
        (4, (1u32 << 31).to_le_bytes()),
        (5, (-32i32).to_le_bytes()),
        (6, 32f32.to_le_bytes()),
    ] {
        check(
            "an alignment",
            &["general.alignment", "power of two"],
            |it| {
                it.set("general.alignment", kind, value);
            },
        );
    }
}

#[test]
fn tensors_of_impossible_shape_or_place() {
    let name = "blk.0.ffn_up.weight";
    let tensor = |what: &str, words: &[&str], change: fn(&mut crate::seeds::gguf::Tensor)| {
        let words: Vec<&str> = [&["input.gguf", name][..], words].concat();
        check(what, &words, |it| change(it.tensor(name)));
    };
    tensor("no dimensions", &["1 to 4 dimensions"], |it| {
        it.dims.clear()
    });
    tensor("five dimensions", &["1 to 4 dimensions"], |it| {
        it.dims = vec![2; 5];
    });
    tensor("no elements", &["fits the file"], |it| it.dims[1] = 0);
    tensor("a product that overflows", &["fits the file"], |it| {
        it.dims = vec![1 << 62, 4];
    });
    tensor("bytes that overflow", &["fits the file"], |it| {
        it.dims = vec![1 << 63];
    });
    tensor("dimensions that overflow", &["fits the file"], |it| {
        it.dims = vec![u64::MAX; 4];
    });
    tensor("more than the file", &["fits the file"], |it| {
        it.dims = vec![1 << 20, 16];
    });
    tensor("an offset beyond", &["inside the file"], |it| {
        it.offset = Some(1 << 20);
    });
    tensor("an offset that overflows", &["inside the file"], |it| {
        it.offset = Some(u64::MAX - 31);
    });
    tensor("an offset between", &["aligned"], |it| it.offset = Some(33));
    tensor("on top of another", &["side by side", "overlaps"], |it| {
        it.offset = Some(0);
    });
    tensor("a broken row", &["blocks of 32"], |it| {
        (it.kind, it.dims) = (2, vec![33, 32]);
    });
    tensor("an unknown type", &["type 4000000000"], |it| {
        it.kind = 4_000_000_000;
    });
    tensor("a type without blocks", &["IQ1_M"], |it| it.kind = 29);
    check("a tensor twice", &[name, "twice"], |it| {
        let again = it.tensor(name).clone();
        it.tensors.push(again);
    });
    check("a name that is none", &["UTF-8"], |it| {
        it.tensor(name).name = vec![b'b', 0xff];
    });
    check("a name that is long", &["a tensor blk.0.ffn_up"], |it| {
        it.tensor(name).name = vec![b'x'; 30_000];
    });
}

#[test]
fn every_truncation() {
    let bytes = llama().bytes();
    for keep in (0..bytes.len()).step_by(7) {
        refused("a part", entry::gguf, &bytes[..keep], &["input.gguf"]);
    }
    // What follows the last tensor is nobody's.
    let more = [&bytes[..], &[0xaa; 100]].concat();
    entry::gguf(&more).unwrap();
}
