//! Many sequences at a time.

use std::sync::Arc;

use super::super::hook::Hook;
use super::super::llama::{Llama, Piece};
use super::super::weights::Weights;
use super::super::{Config, WeightType};
use super::plain::tiny;
use crate::kernels::Team;
use crate::kvcache::store::Store;

/// One of many sequences gets a key that is no number: it is named, and afterwards all of them go on as if that had not been.
#[test]
fn a_sequence_that_fails_among_many_leaves_no_trace() {
    struct Spoil(&'static str);
    impl Hook for Spoil {
        fn visit(&mut self, name: &str, columns: usize, values: &mut [f32]) -> crate::Result<()> {
            if name == self.0 {
                values[5 * columns + 1] = f32::INFINITY;
            }
            Ok(())
        }
    }
    let (config, weights) = tiny(Config::example());
    for kind in [WeightType::F32, WeightType::Int8] {
        let weights = Weights::of_tensors("tiny", weights.clone());
        let mut network = Llama::new(&config, &weights, kind).unwrap();
        network.engine.team = Arc::new(Team::new(2));
        let step = |stores: &mut [Box<dyn Store>], step: u32, spoils: Option<&'static str>| {
            let tokens: Vec<u32> = (0..16).map(|i| (i * 7 + step) % 50).collect();
            let mut pieces: Vec<Piece<'_>> = (stores.iter_mut().zip(tokens.chunks(1)))
                .map(|(store, tokens)| Piece {
                    store: store.as_mut(),
                    tokens,
                })
                .collect();
            match spoils {
                Some(name) => network.hidden(&mut pieces, Some(&mut Spoil(name))),
                None => network.hidden(&mut pieces, None),
            }
        };
        let new = || -> Vec<_> { (0..16).map(|_| network.store()).collect() };
        let (mut plain, mut spoilt) = (new(), new());
        for i in 0..5 {
            for name in ["blk.1.attn_k.out", "blk.0.attn_v.out"] {
                let error = step(&mut spoilt, i, Some(name)).unwrap_err().to_string();
                assert!(error.contains(&format!("{name}, token 5")), "{error}");
            }
            let expected = step(&mut plain, i, None).unwrap();
            assert_eq!(step(&mut spoilt, i, None).unwrap(), expected, "{kind}");
        }
    }
}
