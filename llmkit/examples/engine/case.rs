//! What can be timed, and how it is run.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use llmkit::hardware::{Machine, Pass, roofline};
use llmkit::kernels::aligned::Aligned;
use llmkit::kernels::dense::{Element, Into, f32_words, multiply_at};
use llmkit::kernels::limits::Arithmetic;
use llmkit::kernels::{Panels, panel::bf16_pair};
use llmkit::model::{Engine, Model, Piece, WeightType};
use llmkit::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::attention;
use crate::gptq;

/// One thing to time.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Case {
    /// From nothing to the first token, the file being in the page cache.
    Load { model: String, weights: String },
    /// A prompt in one pass, logits of its last token.
    Prompt {
        model: String,
        weights: String,
        tokens: usize,
    },
    /// `tokens` steps of `batch` sequences that begin empty.
    Decode {
        model: String,
        weights: String,
        tokens: usize,
        batch: usize,
    },
    /// x (m, k) · Wᵀ, W (n, k) prepared beforehand; `reps` times.
    Gemm {
        element: String,
        m: usize,
        n: usize,
        k: usize,
        reps: usize,
    },
    /// Causal attention of `heads` × `dim`, keys and values stored first; `reps` times.
    Sdpa {
        element: String,
        tokens: usize,
        heads: usize,
        dim: usize,
        reps: usize,
    },
    /// GPTQ of the whole model in a folder, its calibration included.
    Gptq { folder: String },
}

impl Case {
    /// The name in tables.
    pub fn name(&self) -> String {
        match self {
            Case::Load { .. } => "load to first token".to_owned(),
            Case::Prompt { tokens, .. } => format!("prompt {tokens}"),
            Case::Decode { tokens, batch, .. } => format!("decode {tokens} × {batch}"),
            Case::Gemm { m, n, k, .. } => format!("gemm {m}×{n}×{k}"),
            Case::Sdpa { tokens, .. } => format!("attention {tokens}"),
            Case::Gptq { .. } => "gptq".to_owned(),
        }
    }

    /// Of [`value`](Self::value).
    pub fn unit(&self) -> &'static str {
        match self {
            Case::Load { .. } | Case::Gptq { .. } => "s",
            Case::Prompt { .. } | Case::Decode { .. } => "tokens/s",
            Case::Gemm { .. } => "GFLOP/s",
            Case::Sdpa { .. } => "ms",
        }
    }

    /// What a run of `seconds` is told as.
    pub fn value(&self, seconds: f64) -> f64 {
        match *self {
            Case::Load { .. } | Case::Gptq { .. } => seconds,
            Case::Prompt { tokens, .. } => tokens as f64 / seconds,
            Case::Decode { tokens, batch, .. } => (tokens * batch) as f64 / seconds,
            Case::Gemm { m, n, k, reps, .. } => 2e-9 * (m * n * k * reps) as f64 / seconds,
            Case::Sdpa { reps, .. } => 1e3 * seconds / reps as f64,
        }
    }
}

/// Inputs of products.
struct Product {
    x: Aligned,
    panels: Panels,
    out: Aligned,
}

/// Runs cases; models and matrices are kept from one run to the next.
pub struct Bench {
    engine: Engine,
    models: BTreeMap<(String, String), Model>,
    products: BTreeMap<String, Product>,
    jobs: BTreeMap<String, gptq::Job>,
    attentions: BTreeMap<String, attention::Job>,
    kv_bytes: usize,
    machine: Option<Machine>,
}

impl Bench {
    /// One that has nothing yet.
    pub fn new(engine: Engine) -> Bench {
        Bench {
            engine,
            models: BTreeMap::new(),
            products: BTreeMap::new(),
            jobs: BTreeMap::new(),
            attentions: BTreeMap::new(),
            kv_bytes: 0,
            machine: None,
        }
    }

    /// Loads what a case needs.
    pub fn prepare(&mut self, case: &Case) -> Result<()> {
        match case {
            Case::Prompt { model, weights, .. } | Case::Decode { model, weights, .. } => {
                let key = (model.clone(), weights.clone());
                if !self.models.contains_key(&key) {
                    let loaded = self.load(model, weights)?;
                    self.models.insert(key, loaded);
                }
            }
            Case::Gemm {
                element, m, n, k, ..
            } => {
                let (x, w) = (noise(m * k, 1), noise(n * k, 2));
                let (x, panels) = match parse(element)? {
                    Element::F32 => (Aligned::of_words(f32_words(&x)), Panels::of_f32(&w, *k)),
                    Element::Bf16 => (Aligned::of_words(&pairs(&x)), Panels::of_bf16(&w, *k)),
                };
                let product = Product {
                    x,
                    panels,
                    out: Aligned::new(),
                };
                self.products.insert(case.name() + element, product);
            }
            Case::Gptq { folder } => {
                let job = gptq::Job::read(folder, &self.engine)?;
                self.jobs.insert(folder.clone(), job);
            }
            Case::Sdpa {
                element,
                tokens,
                heads,
                dim,
                ..
            } => {
                let parts = [1, 2, 3].map(|seed| noise(tokens * heads * dim, seed));
                let job = attention::Job::new(parse(element)?, parts, *heads, *dim);
                self.attentions.insert(case.name() + element, job);
            }
            Case::Load { .. } => {}
        }
        Ok(())
    }

    /// Seconds of one run.
    pub fn run(&mut self, case: &Case) -> Result<f64> {
        let start = Instant::now();
        match case {
            Case::Gptq { folder } => {
                let job = self.jobs.get(folder);
                let job = job.ok_or_else(|| Error::argument("case", "a prepared one", folder))?;
                black_box(job.run()?);
            }
            Case::Load { model, weights } => {
                black_box(self.load(model, weights)?.next_tokens("Hello", 1)?);
            }
            Case::Prompt {
                model,
                weights,
                tokens,
            } => {
                let model = self.model(model, weights)?;
                let tokens: Vec<u32> = (0..*tokens).map(token).collect();
                let mut store = model.network().store();
                let hidden = model.hidden(&tokens, store.as_mut())?;
                let last = &hidden[hidden.len() - model.config.width..];
                black_box(model.network().logits(last));
                self.kv_bytes = store.bytes();
            }
            Case::Decode {
                model,
                weights,
                tokens,
                batch,
            } => {
                let model = self.model(model, weights)?;
                let mut stores: Vec<_> = (0..*batch).map(|_| model.network().store()).collect();
                let mut logits = Vec::new();
                for step in 0..*tokens {
                    let tokens: Vec<u32> = (0..*batch).map(|i| token(step + i)).collect();
                    let mut pieces: Vec<Piece<'_>> = (stores.iter_mut().zip(tokens.chunks(1)))
                        .map(|(store, tokens)| Piece {
                            store: store.as_mut(),
                            tokens,
                        })
                        .collect();
                    let hidden = model.network().hidden(&mut pieces, None)?;
                    model.network().logits_into(&hidden, &mut logits);
                    black_box(&mut logits);
                }
                self.kv_bytes = stores.iter().map(|it| it.bytes()).sum();
            }
            Case::Gemm {
                element,
                m,
                n,
                reps,
                ..
            } => {
                let kind = parse(element)?;
                let Engine { isa, team } = &self.engine;
                let product = self.products.get_mut(&(case.name() + element));
                let it =
                    product.ok_or_else(|| Error::argument("case", "a prepared one", element))?;
                for _ in 0..*reps {
                    multiply_at(
                        *isa,
                        kind,
                        &it.x.words()[..m * it.panels.words()],
                        &it.panels,
                        Into::Replace,
                        it.out.floats_mut(m * n),
                        team,
                    );
                    black_box(&mut it.out);
                }
            }
            Case::Sdpa { element, reps, .. } => {
                let job = self.attentions.get_mut(&(case.name() + element));
                let job = job.ok_or_else(|| Error::argument("case", "a prepared one", element))?;
                for _ in 0..*reps {
                    black_box(job.run(&self.engine));
                }
            }
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Bytes that a case holds: its weights as kept, keys and values of its last run, and the file they come from.
    pub fn held(&self, case: &Case) -> Result<Value> {
        let (Case::Prompt {
            model: name,
            weights,
            ..
        }
        | Case::Decode {
            model: name,
            weights,
            ..
        }) = case
        else {
            return Err(Error::argument("case", "one with a model", case.name()));
        };
        let model = self.model(name, weights)?;
        let file = std::fs::metadata(llmkit::hub::model(name)?.path()).map_or(0, |it| it.len());
        Ok(json!({"weights": model.network().bytes(), "kv": self.kv_bytes, "file": file}))
    }

    /// The least seconds that the machine's limits allow for a case.
    pub fn roofline(&mut self, case: &Case) -> Result<f64> {
        let machine = self.machine()?;
        match case {
            Case::Prompt {
                model,
                weights,
                tokens,
            } => {
                let config = &self.model(model, weights)?.config;
                let weights = weights.parse()?;
                let rate =
                    roofline::tokens_per_second(&machine, config, weights, Pass::prompt(*tokens))?;
                Ok(*tokens as f64 / rate)
            }
            Case::Decode {
                model,
                weights,
                tokens,
                batch,
            } => {
                let config = &self.model(model, weights)?.config;
                let weights = weights.parse()?;
                let rate =
                    roofline::decoded_per_second(&machine, config, weights, *batch, *tokens)?;
                Ok((tokens * batch) as f64 / rate)
            }
            Case::Gemm {
                element,
                m,
                n,
                k,
                reps,
            } => {
                let arithmetic = match parse(element)? {
                    Element::F32 => Arithmetic::F32,
                    Element::Bf16 => Arithmetic::Bf16,
                };
                Ok(2.0 * (m * n * k * reps) as f64 / machine.peak(arithmetic))
            }
            _ => Err(Error::argument(
                "case",
                "prompt, decode or gemm",
                case.name(),
            )),
        }
    }

    /// Limits of the machine.
    pub fn limits(&mut self) -> Result<Value> {
        let machine = self.machine()?;
        let peaks: BTreeMap<_, _> = machine
            .peaks
            .iter()
            .map(|(it, peak)| (it.name(), peak))
            .collect();
        Ok(json!({"text": machine.to_string(), "read": machine.bandwidth, "peaks": peaks}))
    }

    fn machine(&mut self) -> Result<Machine> {
        if self.machine.is_none() {
            let Engine { isa, team } = &self.engine;
            self.machine = Some(Machine::measure(*isa, team, 3.0)?);
        }
        self.machine
            .clone()
            .ok_or_else(|| Error::argument("machine", "measured limits", "none"))
    }

    fn load(&self, model: &str, weights: &str) -> Result<Model> {
        let weights: WeightType = weights.parse()?;
        Ok(Model::load_as(model, weights)?.with_engine(self.engine.clone()))
    }

    fn model(&self, model: &str, weights: &str) -> Result<&Model> {
        let found = self.models.get(&(model.to_owned(), weights.to_owned()));
        found.ok_or_else(|| Error::argument("case", "a prepared one", model))
    }
}

fn parse(element: &str) -> Result<Element> {
    match element {
        "f32" => Ok(Element::F32),
        "bf16" => Ok(Element::Bf16),
        other => Err(Error::argument("element", "f32 or bf16", other)),
    }
}

/// Tokens that no engine can know: the same for all of them.
fn token(i: usize) -> u32 {
    (i * 7919 % 40_000) as u32 + 1000
}

/// Numbers between −1 and 1.
fn noise(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7 + seed) as f32 * 0.618).sin())
        .collect()
}

fn pairs(values: &[f32]) -> Vec<u32> {
    let word = |pair: &[f32]| bf16_pair(pair[0], pair[1]);
    values.chunks_exact(2).map(word).collect()
}
