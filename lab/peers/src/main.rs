//! candle as a peer of `cargo lab bench peers`: matrix products of candle-core, and the quantized Llama of candle-transformers.
//!
//! Serves the protocol of `llmkit/examples/engine`; threads are those of `RAYON_NUM_THREADS`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_transformers::models::quantized_llama::ModelWeights;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Case {
    Prompt {
        model: String,
        tokens: usize,
    },
    Decode {
        model: String,
        tokens: usize,
        batch: usize,
    },
    Gemm {
        element: String,
        m: usize,
        n: usize,
        k: usize,
        reps: usize,
    },
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Request {
    Prepare { slot: usize, case: Case },
    Run { slot: usize },
}

/// A prepared case.
enum Ready {
    Prompt(ModelWeights, usize),
    Decode(ModelWeights, usize),
    Gemm { x: Tensor, w: Tensor, reps: usize },
}

fn main() {
    let mut slots: BTreeMap<usize, Ready> = BTreeMap::new();
    say(&json!({"name": "candle", "version": "candle-core 0.11"}));
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        say(&answer(&mut slots, &line).unwrap_or_else(|why| json!({"error": why.to_string()})));
    }
}

fn say(line: &Value) {
    println!("{line}");
    // A reader that is gone is noticed when standard input ends.
    let _ = std::io::stdout().flush();
}

fn answer(slots: &mut BTreeMap<usize, Ready>, line: &str) -> Result<Value> {
    match serde_json::from_str(line).map_err(candle_core::Error::wrap)? {
        Request::Prepare { slot, case } => {
            slots.insert(slot, prepare(case)?);
            Ok(json!({}))
        }
        Request::Run { slot } => match slots.get_mut(&slot) {
            Some(ready) => Ok(json!({"seconds": run(ready)?})),
            None => bail!("nothing is prepared in slot {slot}"),
        },
    }
}

fn prepare(case: Case) -> Result<Ready> {
    match case {
        Case::Prompt { model, tokens } => Ok(Ready::Prompt(load(&model)?, tokens)),
        Case::Decode {
            model,
            tokens,
            batch: 1,
        } => Ok(Ready::Decode(load(&model)?, tokens)),
        Case::Decode { .. } => bail!("candle-transformers decodes one sequence only"),
        Case::Gemm {
            element,
            m,
            n,
            k,
            reps,
        } => {
            let element = match element.as_str() {
                "f32" => DType::F32,
                "bf16" => DType::BF16,
                other => bail!("no {other}"),
            };
            let noise = |rows, columns| {
                Tensor::rand(-1f32, 1.0, (rows, columns), &Device::Cpu)?.to_dtype(element)
            };
            let (x, w) = (noise(m, k)?, noise(n, k)?);
            x.matmul(&w.t()?)?;
            Ok(Ready::Gemm { x, w, reps })
        }
    }
}

fn load(path: &str) -> Result<ModelWeights> {
    let mut file = std::io::BufReader::new(std::fs::File::open(path)?);
    let content = gguf_file::Content::read(&mut file)?;
    ModelWeights::from_gguf(content, &mut file, &Device::Cpu)
}

/// Seconds of one run.
fn run(ready: &mut Ready) -> Result<f64> {
    let ids = |first: usize, count: usize| {
        let ids: Vec<u32> = (first..first + count)
            .map(|i| (i * 7919 % 40_000) as u32 + 1000)
            .collect();
        Tensor::new(ids.as_slice(), &Device::Cpu)?.unsqueeze(0)
    };
    let start = Instant::now();
    match ready {
        Ready::Prompt(model, tokens) => {
            model.clear_kv_cache();
            black_box(model.forward(&ids(0, *tokens)?, 0)?);
        }
        Ready::Decode(model, tokens) => {
            model.clear_kv_cache();
            for step in 0..*tokens {
                black_box(model.forward(&ids(step, 1)?, step)?);
            }
        }
        Ready::Gemm { x, w, reps } => {
            for _ in 0..*reps {
                black_box(x.matmul(&w.t()?)?);
            }
        }
    }
    Ok(start.elapsed().as_secs_f64())
}
