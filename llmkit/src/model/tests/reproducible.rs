//! One hash of a text's logits over batch {1, 2, 8} × chunk {16, 64, 512} × threads {1, 2} × lossless stores, and one for each other
//! store, for each way to keep weights and each instruction set: on a small random model always, on SmolLM2 where it is in reach.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::super::{Engine, Llama, Model, Piece, WeightType};
use super::{real, tiny};
use crate::attention::tests::Planted;
use crate::kernels::{Isa, Team};
use crate::kvcache::store::{self, Store};

/// How a text goes through the network.
#[derive(Debug, Clone, Copy)]
struct Way {
    batch: usize,
    chunk: usize,
    threads: usize,
}

/// Every way.
fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for batch in [1, 2, 8] {
        for chunk in [16, 64, 512] {
            ways.extend([1, 2].map(|threads| Way {
                batch,
                chunk,
                threads,
            }));
        }
    }
    ways
}

/// Three of them, which have each batch, chunk and number of threads once.
fn each_once() -> Vec<Way> {
    [4, 7, 15].map(|way| ways()[way]).to_vec()
}

/// SHA-256 over the bits of all logits of `tokens`, which are one of `batch` sequences: the others are of other lengths.
fn hash(network: &Llama, empty: &dyn Store, tokens: &[u32], way: Way) -> String {
    let mut network = network.clone();
    network.engine.team = Arc::new(Team::new(way.threads));
    let own = way.batch / 2;
    let mut stores: Vec<_> = (0..way.batch).map(|_| empty.empty()).collect();
    let mut sha = Sha256::new();
    for (step, chunk) in tokens.chunks(way.chunk).enumerate() {
        let other = |i: usize| &tokens[i..i + 1 + (step + i) % 3];
        let mut pieces: Vec<Piece<'_>> = (stores.iter_mut().enumerate())
            .map(|(i, store)| Piece {
                store: store.as_mut(),
                tokens: if i == own { chunk } else { other(i) },
            })
            .collect();
        let before: usize = pieces[..own].iter().map(|it| it.tokens.len()).sum();
        let hidden = network.hidden(&mut pieces, None).unwrap();
        let width = hidden.len() / pieces.iter().map(|it| it.tokens.len()).sum::<usize>();
        let rows = &hidden[before * width..(before + chunk.len()) * width];
        for logit in network.logits(rows) {
            sha.update(logit.to_bits().to_le_bytes());
        }
    }
    sha.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Every store, or those that are lossless and the network's own.
fn stores(network: &Llama, is_thorough: bool) -> Vec<Box<dyn Store>> {
    let shape = network.store_shape();
    let own = network.store().name();
    let all = store::all();
    let all = all.iter().flat_map(|it| (it.members)(shape));
    all.filter(|it| is_thorough || it.error() == 0.0 || it.name() == own)
        .collect()
}

/// The hashes of the lossless stores, which are one, and of each other store, or the first way that has another.
fn hashes(
    network: &Llama,
    stores: &[Box<dyn Store>],
    tokens: &[u32],
    ways: &[Way],
) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut lossless = None;
    for empty in stores {
        let mut own = None;
        let first = match empty.error() > 0.0 {
            true => &mut own,
            false => &mut lossless,
        };
        for way in ways {
            let hash = hash(network, empty.as_ref(), tokens, *way);
            if first.is_none() {
                found.push(hash.clone());
            }
            let expected = first.get_or_insert_with(|| hash.clone());
            if hash != *expected {
                return Err(format!(
                    "{hash} for {expected}: {way:?} in {}",
                    empty.name()
                ));
            }
        }
    }
    Ok(found)
}

fn on(model: &Model, isa: Isa) -> Llama {
    let engine = Engine {
        isa,
        ..Engine::default()
    };
    model.with_engine(engine).network().clone()
}

#[test]
fn a_small_model_has_one_hash_whatever_the_way() {
    let tokens: Vec<u32> = (0..560).map(|i| i * i * 7 % 31).collect();
    let mut seen = Vec::new();
    for kind in WeightType::ALL {
        let model = tiny::model(kind);
        for isa in Isa::here() {
            // The reference is slow, and there is nothing to it that depends on the way.
            let ways = match isa {
                Isa::Reference => each_once(),
                _ => ways(),
            };
            let network = on(&model, isa);
            let hashes = hashes(&network, &stores(&network, true), &tokens, &ways).unwrap();
            println!("small model, {kind}, {isa}: {hashes:?}");
            seen.extend(hashes);
        }
    }
    // A hash that is the same for everything would not see anything.
    seen.sort();
    seen.dedup();
    assert!(seen.len() > 2 * WeightType::ALL.len(), "{seen:?}");
}

/// Of many short pieces a thread does all of attention for one of them, and then for the next.
#[test]
fn many_sequences_have_the_hash_that_one_has() {
    let tokens: Vec<u32> = (0..70).map(|i| i * i * 7 % 31).collect();
    let alone = Way {
        batch: 1,
        chunk: 16,
        threads: 1,
    };
    let many = [1, 2].map(|threads| Way {
        batch: 32,
        chunk: 1,
        threads,
    });
    for kind in WeightType::ALL {
        let model = tiny::model(kind);
        for isa in Isa::here() {
            let network = on(&model, isa);
            let ways = [alone, many[0], many[1]];
            hashes(&network, &stores(&network, true), &tokens, &ways).unwrap();
        }
    }
    let network = on(&tiny::model(WeightType::F32), Isa::best());
    let network = network.with_attention(Arc::new(Planted::SplitByChunk));
    let found = hashes(
        &network,
        &stores(&network, true),
        &tokens,
        &[alone, many[1]],
    );
    assert!(found.is_err());
}

#[test]
fn sums_that_are_cut_where_chunks_are_have_other_hashes() {
    let tokens: Vec<u32> = (0..200).map(|i| i * i * 7 % 31).collect();
    let network = on(&tiny::model(WeightType::F32), Isa::best());
    let with = |attention| network.with_attention(Arc::new(attention));
    let ways = [16, 64].map(|chunk| Way {
        batch: 2,
        chunk,
        threads: 2,
    });
    let stores = stores(&network, true);
    hashes(&with(Planted::None), &stores, &tokens, &ways).unwrap();
    let found = hashes(&with(Planted::SplitByChunk), &stores, &tokens, &ways).unwrap_err();
    assert!(found.contains("chunk: 64"), "{found}");
}

#[test]
fn the_real_model_has_one_hash_whatever_the_way() {
    if real::real().is_none() {
        return;
    }
    // 520 tokens: more than the longest chunk, in a block that is not full.
    let text: Vec<u32> = (0..520)
        .map(|i| (i * 7919 % 40_000) as u32 + 1000)
        .collect();
    // All 18 take minutes: LLMKIT_ALL_WAYS=1. Otherwise three.
    let is_thorough = std::env::var_os("LLMKIT_ALL_WAYS").is_some();
    for kind in WeightType::ALL {
        let model = Model::load_as(real::NAME, kind).unwrap();
        for isa in Isa::here().into_iter().filter(|it| *it != Isa::Reference) {
            let ways = match is_thorough {
                true => ways(),
                false => each_once(),
            };
            let network = on(&model, isa);
            let hashes = hashes(&network, &stores(&network, is_thorough), &text, &ways)
                .unwrap_or_else(|it| panic!("{kind} {isa}: {it}"));
            println!("SmolLM2, {kind}, {isa}, {} ways: {hashes:?}", ways.len());
        }
    }
}
