//! How queries find values among the keys seen so far: out = softmax(q·kᵀ/√D)·v, head by head.
//!
//! An experiment swaps it on a loaded model: [`Llama::with_attention`](crate::model::Llama::with_attention). Keys and values come
//! from each sequence's [`Store`] in blocks of 64, whatever the store really keeps.
//!
//! A new attention is one new file and two lines here: `pub mod x;` and a row in [`all`]; the contract tests loop over [`all`].
//!
//! | contract | meaning |
//! |---|---|
//! | the truth | one that [`is_exact`](Attention::is_exact) is near [`Naive`], within the error bound of sums in f32 |
//! | reproducible | a row has the same bits alone or in a batch, whole or in chunks, on any number of threads |
//! | causal | keys after a query's own position do not matter, whatever they hold |

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub use crate::kernels::attention::Mask;
use crate::kvcache::store::Store;
use crate::model::Engine;

pub mod flash;
pub mod naive;

pub use flash::Flash;
pub use naive::Naive;

/// A sequence whose newest tokens ask.
#[derive(Debug, Clone)]
pub struct Sequence<'a> {
    /// Keys and values, those of the askers' own positions included (written, not yet committed).
    pub store: &'a dyn Store,
    /// Positions of the askers.
    pub positions: Range<usize>,
}

/// One layer's attention for all sequences of a forward pass.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// Instructions and threads.
    pub engine: &'a Engine,
    /// Which layer.
    pub layer: usize,
    /// Query heads H; heads h·H/G … of them share the store's key/value head h.
    pub heads: usize,
    /// Which keys a query sees.
    pub mask: Mask,
    /// Sequences, of any lengths.
    pub sequences: &'a [Sequence<'a>],
    /// Queries (T, H·D) of all sequences one after the other, turned to their positions, not yet divided by √D.
    pub queries: &'a [f32],
}

/// A way to compute attention.
pub trait Attention: fmt::Debug + Send + Sync {
    /// Unique name with all parameters.
    fn name(&self) -> String;

    /// Whether it means to compute exactly what [`Naive`] does; otherwise it is an approximation with tests of its own.
    fn is_exact(&self) -> bool {
        true
    }

    /// Overwrites `out` (T, H·D) with the mixed values of each query.
    ///
    /// # Panics
    /// If sizes do not fit, or the machine lacks the engine's instructions.
    fn attend(&self, call: &Call<'_>, out: &mut [f32]);
}

/// A row of [`all`]: the file's name and the attentions in it that contracts and benches run over.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Name of the module.
    pub name: &'static str,
    /// Members of the family, one for each setting worth comparing.
    pub members: fn() -> Vec<Arc<dyn Attention>>,
}

/// Every kind of attention, one row a file.
pub fn all() -> Vec<Family> {
    vec![
        Family {
            name: "flash",
            members: || vec![Arc::new(Flash)],
        },
        Family {
            name: "naive",
            members: || vec![Arc::new(Naive)],
        },
    ]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernels::{Isa, Team};
    use crate::kvcache::store::{Contiguous, Decoded, Shape};

    const SHAPE: Shape = Shape {
        layers: 2,
        groups: 2,
        head_dim: 20,
    };
    const HEADS: usize = 6;
    const LAYER: usize = 1;

    /// Numbers in ±`scale`, some of them outliers of 8 times that.
    fn values(count: usize, scale: f32, seed: usize) -> Vec<f32> {
        let value = |i: usize| {
            let at = (i * 37 + seed * 101) as f32;
            scale * (at * 0.731).sin() * if i % 97 == 5 { 8.0 } else { 1.0 }
        };
        (0..count).map(value).collect()
    }

    /// A store with keys and values of `tokens` tokens written.
    fn filled(tokens: usize, seed: usize) -> Contiguous {
        let mut store = Contiguous::new(SHAPE);
        let count = tokens * SHAPE.groups * SHAPE.head_dim;
        store.write(
            LAYER,
            &values(count, 1.0, seed),
            &values(count, 2.0, seed + 7),
            Team::global(),
        );
        store
    }

    /// What `attention` makes of the last `asked` of `tokens` positions of each (tokens, asked), sequence by sequence.
    fn run(
        attention: &dyn Attention,
        engine: &Engine,
        mask: Mask,
        stores: &[&dyn Store],
        asked: &[Range<usize>],
    ) -> Vec<Vec<f32>> {
        let sequences: Vec<Sequence<'_>> = (stores.iter().zip(asked))
            .map(|(store, positions)| Sequence {
                store: *store,
                positions: positions.clone(),
            })
            .collect();
        let width = HEADS * SHAPE.head_dim;
        let queries: Vec<f32> = (asked.iter().cloned().flatten())
            .flat_map(|position| values(width, 1.5, position + 1000))
            .collect();
        let mut out = vec![f32::NAN; queries.len()];
        let call = Call {
            engine,
            layer: LAYER,
            heads: HEADS,
            mask,
            sequences: &sequences,
            queries: &queries,
        };
        attention.attend(&call, &mut out);
        let mut rest = out.as_slice();
        let split = |positions: &Range<usize>| {
            let (own, others) = rest.split_at(positions.len() * width);
            rest = others;
            own.to_vec()
        };
        asked.iter().map(split).collect()
    }

    fn one(positions: Range<usize>) -> [Range<usize>; 1] {
        [positions]
    }

    fn engine(isa: Isa, threads: usize) -> Engine {
        Engine {
            isa,
            team: Arc::new(Team::new(threads)),
        }
    }

    const WINDOWS: [Mask; 3] = [
        Mask { window: None },
        Mask { window: Some(1) },
        Mask { window: Some(70) },
    ];

    /// Largest error of softmax(q·k/√D)·v in f32, first order, u = 2⁻²⁴: scores are sums of D products (and a scaling and a
    /// difference), each weight carries twice that and the exponential's own 4 u, sums over n keys n·u; numerator and denominator.
    fn bound(tokens: usize) -> f32 {
        let unit = f32::EPSILON / 2.0;
        let d = SHAPE.head_dim as f32;
        let score = 8.0 * 12.0 * d.sqrt();
        2.0 * 16.0 * unit * (2.0 * (d + 4.0) * score + 8.0 + tokens as f32)
    }

    pub(crate) fn is_true(attention: &dyn Attention) -> Result<(), String> {
        let stores = [filled(150, 1), filled(1, 2), filled(65, 3)];
        let stores: Vec<&dyn Store> = stores.iter().map(|it| it as &dyn Store).collect();
        let asked = [80..150, 0..1, 64..65];
        for mask in WINDOWS {
            let truth = run(&Naive, &Engine::default(), mask, &stores, &asked);
            for isa in Isa::here() {
                let got = run(attention, &engine(isa, 2), mask, &stores, &asked);
                for (got, truth) in got.concat().iter().zip(truth.concat()) {
                    let is_near = (got - truth).abs() <= bound(150);
                    if !is_near {
                        return Err(format!("{isa} {mask:?}: {got} for {truth}"));
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn is_reproducible(attention: &dyn Attention) -> Result<(), String> {
        let (long, short, other) = (filled(150, 1), filled(9, 2), filled(70, 3));
        for (mask, isa) in WINDOWS
            .into_iter()
            .flat_map(|mask| Isa::here().into_iter().map(move |isa| (mask, isa)))
        {
            let whole = run(attention, &engine(isa, 1), mask, &[&long], &one(0..150)).concat();
            for (threads, chunk) in [(1, 1), (2, 16), (3, 64), (2, 150)] {
                let engine = engine(isa, threads);
                let mut got = Vec::new();
                for start in (0..150usize).step_by(chunk) {
                    let own = start..150.min(start + chunk);
                    let all = run(
                        attention,
                        &engine,
                        mask,
                        &[&short, &long, &other],
                        &[3..9, own, 69..70],
                    );
                    got.extend(all.into_iter().nth(1).unwrap());
                }
                let bits = |it: &[f32]| it.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
                if bits(&got) != bits(&whole) {
                    return Err(format!(
                        "{isa} {mask:?}: chunks of {chunk}, {threads} threads"
                    ));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn is_causal(attention: &dyn Attention) -> Result<(), String> {
        let width = SHAPE.groups * SHAPE.head_dim;
        for future in [1e3f32, -1e30] {
            let mut store = filled(70, 1);
            let engine = Engine::default();
            let before = run(attention, &engine, Mask::default(), &[&store], &one(40..70));
            store.commit(70);
            let rows = vec![future; 30 * width];
            store.write(LAYER, &rows, &rows, &engine.team);
            if run(attention, &engine, Mask::default(), &[&store], &one(40..70)) != before {
                return Err(format!("a future of {future} is felt"));
            }
        }
        Ok(())
    }

    fn members() -> impl Iterator<Item = Arc<dyn Attention>> {
        all().into_iter().flat_map(|family| (family.members)())
    }

    #[test]
    fn exact_ones_agree_with_the_truth() {
        for attention in members().filter(|it| it.is_exact()) {
            is_true(attention.as_ref()).unwrap_or_else(|it| panic!("{}: {it}", attention.name()));
        }
    }

    #[test]
    fn rows_are_the_same_bits_in_any_company_and_the_future_is_not_seen() {
        for attention in members() {
            let checks = [
                is_reproducible(attention.as_ref()),
                is_causal(attention.as_ref()),
            ];
            for check in checks {
                check.unwrap_or_else(|it| panic!("{}: {it}", attention.name()));
            }
        }
    }

    /// Attention in plain f32 with a mistake.
    #[derive(Debug, Clone, Copy, PartialEq)]
    pub(crate) enum Planted {
        None,
        /// Sums are cut where the chunk of queries says.
        SplitByChunk,
        /// A query sees the next key too.
        Future,
        /// Neighbouring heads take turns instead of sharing.
        Groups,
        /// Divides by D.
        Scale,
        /// The window is one key too long.
        Window,
    }

    impl Attention for Planted {
        fn name(&self) -> String {
            format!("planted-{self:?}")
        }

        fn attend(&self, call: &Call<'_>, out: &mut [f32]) {
            let shape = call.sequences[0].store.shape();
            let d = shape.head_dim;
            let rows = call.queries.chunks_exact(d).zip(out.chunks_exact_mut(d));
            let askers =
                (call.sequences.iter()).flat_map(|it| it.positions.clone().map(move |p| (it, p)));
            let askers = askers.flat_map(|(it, p)| (0..call.heads).map(move |head| (it, p, head)));
            for ((query, out), (sequence, position, head)) in rows.zip(askers) {
                let group = match self {
                    Planted::Groups => head % shape.groups,
                    _ => head * shape.groups / call.heads,
                };
                let window = call
                    .mask
                    .window
                    .map(|it| it + usize::from(*self == Planted::Window));
                let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
                let last = position + usize::from(*self == Planted::Future && position % 64 != 63);
                let scale = match self {
                    Planted::Scale => 1.0 / d as f32,
                    _ => 1.0 / (d as f32).sqrt(),
                };
                let split = match self {
                    Planted::SplitByChunk => sequence.positions.len(),
                    _ => usize::MAX,
                };
                let mut decoded = Decoded::default();
                let mut read = |key: usize, i: usize| {
                    let block = sequence
                        .store
                        .block(call.layer, group, key / 64, &mut decoded);
                    (
                        block.key(shape.padded_dim(), key % 64, i),
                        block.value(key % 64, i),
                    )
                };
                let scores: Vec<f32> = (first..=last)
                    .map(|key| (0..d).map(|i| query[i] * scale * read(key, i).0).sum())
                    .collect();
                let top = scores.iter().copied().fold(f32::MIN, f32::max);
                let weights: Vec<f32> = scores.iter().map(|it| (it - top).exp()).collect();
                let sum = |term: &mut dyn FnMut(usize) -> f32| -> f32 {
                    let part = |keys: Vec<usize>, term: &mut dyn FnMut(usize) -> f32| {
                        keys.into_iter().map(term).sum::<f32>()
                    };
                    let keys: Vec<usize> = (0..weights.len()).collect();
                    let parts: Vec<f32> = keys
                        .chunks(split.min(weights.len()))
                        .map(|it| part(it.to_vec(), term))
                        .collect();
                    parts.iter().sum()
                };
                let total = sum(&mut |key| weights[key]);
                for (i, out) in out.iter_mut().enumerate() {
                    *out = sum(&mut |key| weights[key] * read(first + key, i).1) / total;
                }
            }
        }
    }

    #[test]
    fn the_contracts_catch_planted_bugs() {
        let verdicts = |it: Planted| {
            (
                is_true(&it).is_ok(),
                is_reproducible(&it).is_ok(),
                is_causal(&it).is_ok(),
            )
        };
        assert_eq!(verdicts(Planted::None), (true, true, true));
        assert_eq!(verdicts(Planted::SplitByChunk), (true, false, true));
        assert_eq!(verdicts(Planted::Future), (false, true, false));
        assert_eq!(verdicts(Planted::Groups), (false, true, true));
        assert_eq!(verdicts(Planted::Scale), (false, true, true));
        assert_eq!(verdicts(Planted::Window), (false, true, true));
    }
}
