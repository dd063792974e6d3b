//! A model on this machine, timed: whole passes, and each operator inside them.
//!
//! Operators are told apart by the names of the activations between them ([`Hook`]): the clock is read where one operator's output
//! is the next one's input. What stands between two operators (norms, rotation, writing keys) is counted apart, as `between`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use super::roofline::Pass;
use crate::kvcache::store::Store;
use crate::model::{Hook, Model, Piece};
use crate::{Error, Result};

/// New tokens a second of a pass, one value a run; a first run is not counted. Decoding runs follow one another from the same
/// state.
///
/// # Errors
/// [`Error::Argument`] for a pass without tokens or sequences; as [`Llama::hidden`](crate::model::Llama::hidden).
pub fn tokens_per_second(model: &Model, pass: Pass, runs: usize) -> Result<Vec<f64>> {
    let mut stage = Stage::new(model, pass)?;
    stage.run(None)?;
    let count = (pass.sequences * pass.tokens) as f64;
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            stage.run(None)?;
            Ok(count / start.elapsed().as_secs_f64())
        })
        .collect()
}

/// Seconds that each operator of a pass takes, all layers together, by the names of
/// [`roofline::operators`](super::roofline::operators); the medians of `runs` passes. `between` is what is none of them.
///
/// # Errors
/// As [`tokens_per_second`].
pub fn operators(model: &Model, pass: Pass, runs: usize) -> Result<BTreeMap<&'static str, f64>> {
    let mut stage = Stage::new(model, pass)?;
    stage.run(None)?;
    let mut all: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for _ in 0..runs.max(1) {
        let mut watch = Stopwatch::new();
        stage.run(Some(&mut watch))?;
        watch.stop("output");
        for (name, seconds) in watch.seconds {
            all.entry(name).or_default().push(seconds);
        }
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(all
        .into_iter()
        .map(|(name, values)| (name, median(values)))
        .collect())
}

/// A pass ready to run, again and again from the same state.
struct Stage<'a> {
    model: &'a Model,
    pass: Pass,
    stores: Vec<Box<dyn Store>>,
    tokens: Vec<u32>,
    /// Used again, as generation does: asking for megabytes and having them cleared is no part of a pass.
    logits: Vec<f32>,
}

impl Stage<'_> {
    fn new(model: &Model, pass: Pass) -> Result<Stage<'_>> {
        if pass.sequences * pass.tokens == 0 {
            let what = format!("{} × {}", pass.sequences, pass.tokens);
            return Err(Error::argument("pass", "sequences and tokens", what));
        }
        let vocabulary = model.config.vocabulary;
        let tokens = (0..pass.kept.max(pass.tokens)).map(|i| (i * 7919 % vocabulary) as u32);
        let tokens: Vec<u32> = tokens.collect();
        let mut first = model.network().store();
        if pass.kept > 0 {
            model.hidden(&tokens[..pass.kept], first.as_mut())?;
        }
        let mut stores: Vec<_> = (1..pass.sequences).map(|_| first.fork()).collect();
        stores.push(first);
        Ok(Stage {
            model,
            pass,
            stores,
            tokens,
            logits: Vec::new(),
        })
    }

    fn run(&mut self, watch: Option<&mut Stopwatch>) -> Result<()> {
        let (network, width) = (self.model.network(), self.model.config.width);
        let tokens = &self.tokens[..self.pass.tokens];
        let mut pieces: Vec<Piece<'_>> = (self.stores.iter_mut())
            .map(|store| Piece {
                store: store.as_mut(),
                tokens,
            })
            .collect();
        let hidden = network.hidden(&mut pieces, watch.map(|it| it as &mut dyn Hook))?;
        // The last rows of each sequence are scored.
        let scored = self.pass.scored.min(self.pass.tokens) * width;
        let rows = hidden.chunks_exact(self.pass.tokens * width);
        let rows: Vec<f32> = rows
            .flat_map(|it| &it[it.len() - scored..])
            .copied()
            .collect();
        network.logits_into(&rows, &mut self.logits);
        black_box(&mut self.logits);
        self.stores
            .iter_mut()
            .for_each(|it| it.truncate(self.pass.kept));
        Ok(())
    }
}

/// Reads the clock at each activation.
struct Stopwatch {
    last: Instant,
    seconds: BTreeMap<&'static str, f64>,
}

impl Stopwatch {
    fn new() -> Stopwatch {
        Stopwatch {
            last: Instant::now(),
            seconds: BTreeMap::new(),
        }
    }

    /// What has run since the last stop was `name`.
    fn stop(&mut self, name: &'static str) {
        let now = Instant::now();
        *self.seconds.entry(name).or_default() += (now - self.last).as_secs_f64();
        self.last = now;
    }
}

impl Hook for Stopwatch {
    fn visit(&mut self, name: &str, _columns: usize, _values: &mut [f32]) -> Result<()> {
        let part = name.splitn(3, '.').last().unwrap_or(name);
        self.stop(match part {
            "attn_q.out" | "attn_k.out" | "attn_v.out" => "attn_qkv",
            "attn_output.in" => "attention",
            "mid" => "attn_output",
            "ffn_down.in" => "ffn_gate_up",
            "out" => "ffn_down",
            _ => "between",
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_end_the_operators_before_them() {
        let mut watch = Stopwatch::new();
        for name in [
            "blk.3.attn_q.in",
            "blk.3.attn_q.out",
            "blk.3.attn_k.out",
            "blk.3.attn_v.out",
            "blk.3.attn_output.in",
            "blk.3.mid",
            "blk.3.ffn_gate.in",
            "blk.3.ffn_down.in",
            "blk.3.out",
            "output.in",
        ] {
            watch.visit(name, 1, &mut []).unwrap();
        }
        let names: Vec<&str> = watch.seconds.keys().copied().collect();
        let expected = [
            "attention",
            "attn_output",
            "attn_qkv",
            "between",
            "ffn_down",
            "ffn_gate_up",
        ];
        assert_eq!(names, expected);
    }
}
