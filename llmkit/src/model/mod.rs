//! The transformer that runs a model: config, weights, tokenizer, sampling.
//!
//! ```no_run
//! use llmkit::model::{GenerateOptions, Model};
//! let model = Model::load("smollm2-135m-instruct")?;
//! println!("{}", model.provenance);
//! let answer = model.generate(&model.chat("What is a tensor?")?, &GenerateOptions::default())?;
//! println!("{answer}");
//! # Ok::<(), llmkit::Error>(())
//! ```
//!
//! Weights are kept as the [`WeightType`] asks; the default is f32, exactly what the file says.
//!
//! | read | from |
//! |---|---|
//! | weights | GGUF ([`blocks`]: F32, F16, BF16, Q4_0 … Q8_0, Q2_K … Q6_K, IQ4_NL, TQ1_0, TQ2_0), safetensors of one file or several (F32, F16, BF16) |
//! | tokenizer | `tokenizer.json`, or rebuilt from the GGUF file ([`tokenizer`]) |
//! | chat template | GGUF metadata, `chat_template.jinja`, `tokenizer_config.json` ([`mod@chat`]) |

pub mod blocks;
pub mod chat;
pub(crate) mod checkpoint;
mod checks;
pub mod config;
mod edit;
pub mod engine;
mod exchange;
pub mod generate;
pub mod gguf;
pub(crate) mod head;
pub mod hook;
mod law;
mod layer;
pub mod linear;
pub mod llama;
mod load;
mod mix;
mod printer;
pub mod rope;
pub mod sample;
mod settings;
pub mod steps;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
pub mod tokenizer;
pub mod weight_type;
pub mod weights;
mod written;

use std::fmt;

use candle_core::{Device, Tensor};

pub use chat::{ChatTemplate, Message};
pub use config::Config;
pub use engine::Engine;
pub use generate::{Finish, GenerateOptions, Generation, Stream};
pub use hook::{Hook, Record};
pub use linear::Linear;
pub use llama::{Llama, Piece};
pub use rope::RopeScaling;
pub use sample::Sampling;
pub use tokenizer::Tokenizer;
pub use weight_type::WeightType;

use sample::Past;

use crate::hub::{self, Provenance};
use crate::kvcache::store::Store;
use crate::{Error, Result};

/// A model with its tokenizer, ready to run. Cloning is cheap: weights are shared.
#[derive(Clone)]
pub struct Model {
    /// Sizes.
    pub config: Config,
    /// Where its bytes come from; one line when displayed.
    pub provenance: Provenance,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// How a conversation is written for it, if its files say so.
    pub chat_template: Option<ChatTemplate>,
    weights: weights::Weights,
    network: Llama,
}

/// A token that may come next.
#[derive(Debug, Clone, PartialEq)]
pub struct NextToken {
    /// Token id.
    pub token: u32,
    /// Its text.
    pub text: String,
    /// Its probability at temperature 1.
    pub probability: f64,
}

impl Model {
    /// Loads a model by name or path (see [`hub::model`]), with f32 weights.
    ///
    /// # Errors
    /// Those of [`hub::model`]; [`Error::Format`] or [`Error::Shape`] if the files are not a model we understand.
    pub fn load(name: &str) -> Result<Model> {
        Model::load_as(name, WeightType::F32)
    }

    /// Loads a model by name or path, its weights kept as `kind`.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_as(name: &str, kind: WeightType) -> Result<Model> {
        Model::from_asset(&hub::model(name)?, kind)
    }

    /// Token ids of `text`; markup such as `<|im_start|>` becomes its special token. No token is put in front.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text)
    }

    /// Text of token ids.
    ///
    /// # Errors
    /// [`Error::Argument`] if an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids)
    }

    /// Ids of a prompt, with the token in front that the model wants (SmolLM2 wants none) unless the prompt has it.
    fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(prompt)?;
        if let Some(bos) = self.tokenizer.bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        if ids.is_empty() {
            return Err(Error::argument(
                "prompt",
                "at least one token",
                "an empty text",
            ));
        }
        Ok(ids)
    }

    /// A user's message as the model was trained to read it, ready to be answered (see [`mod@chat`]).
    ///
    /// # Errors
    /// As [`Model::conversation`].
    pub fn chat(&self, message: &str) -> Result<String> {
        self.conversation(&[Message::user(message)])
    }

    /// A conversation as the model was trained to read it, ready for its next answer.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the model's files have no chat template; [`Error::Format`] if the template refuses the conversation.
    pub fn conversation(&self, messages: &[Message]) -> Result<String> {
        let template = self.chat_template.as_ref().ok_or_else(|| Error::NotFound {
            what: format!("a chat template of {}", self.provenance.name),
            tried: vec![
                "tokenizer.chat_template in the GGUF file".to_owned(),
                "chat_template.jinja or tokenizer_config.json in the folder".to_owned(),
            ],
        })?;
        template.render(messages, true)
    }

    /// Logits (T, V) of a sequence from its beginning.
    ///
    /// # Errors
    /// [`Error::Argument`] for no tokens, unknown tokens or too many; [`Error::Interrupted`].
    pub fn logits(&self, tokens: &[u32]) -> Result<Tensor> {
        let hidden = self.hidden(tokens, self.network.store().as_mut())?;
        let shape = (tokens.len(), self.config.vocabulary);
        Ok(Tensor::from_vec(
            self.network.logits(&hidden),
            shape,
            &Device::Cpu,
        )?)
    }

    /// The network, for step-by-step use.
    pub fn network(&self) -> &Llama {
        &self.network
    }

    /// The same model on other threads or instructions.
    pub fn with_engine(&self, engine: Engine) -> Model {
        let mut model = self.clone();
        model.network.engine = engine;
        model
    }

    /// Hidden states (T, K) of `tokens` that follow those in `store`.
    ///
    /// # Errors
    /// As [`Llama::hidden`].
    pub fn hidden(&self, tokens: &[u32], store: &mut dyn Store) -> Result<Vec<f32>> {
        self.network.hidden(&mut [Piece { store, tokens }], None)
    }

    /// The `count` likeliest next tokens after `prompt`, likeliest first, with their probabilities among all tokens.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub fn next_tokens(&self, prompt: &str, count: usize) -> Result<Vec<NextToken>> {
        let logits =
            self.last_logits(&self.encode_prompt(prompt)?, self.network.store().as_mut())?;
        let law = Sampling::plain().law(&logits, Past::default())?;
        law.iter()
            .take(count)
            .map(|chance| {
                Ok(NextToken {
                    token: chance.token,
                    text: self.decode(&[chance.token])?,
                    probability: chance.probability,
                })
            })
            .collect()
    }

    /// [`next_tokens`](Self::next_tokens) as a table: token, text, probability.
    ///
    /// # Errors
    /// As [`Model::logits`].
    #[cfg(feature = "notebook")]
    pub fn next_token_distribution(
        &self,
        prompt: &str,
        count: usize,
    ) -> Result<polars::prelude::DataFrame> {
        use polars::prelude::*;
        let next = self.next_tokens(prompt, count)?;
        Ok(df!(
            "token" => next.iter().map(|it| it.token).collect::<Vec<u32>>(),
            "text" => next.iter().map(|it| it.text.clone()).collect::<Vec<String>>(),
            "probability" => next.iter().map(|it| it.probability).collect::<Vec<f64>>(),
        )?)
    }

    /// Names of all weights, as GGUF has them: `blk.3.ffn_up.weight`.
    pub fn tensor_names(&self) -> Vec<String> {
        self.weights.names()
    }

    /// A weight as f32, as the file (or [`with_weight`](Self::with_weight)) has it; a matrix is (N outputs, K inputs).
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of that name.
    pub fn weight(&self, name: &str) -> Result<Tensor> {
        match self.weights.shape(name) {
            Some(_) => self.weights.tensor(name),
            None => Err(Error::NotFound {
                what: format!("weight {name:?}"),
                tried: vec![format!(
                    "{} weights, such as blk.0.attn_q.weight … blk.{}.ffn_down.weight, token_embd.weight",
                    self.weights.names().len(),
                    self.config.layers - 1
                )],
            }),
        }
    }

    /// The same model with one weight matrix replaced (by a quantized one, say), kept in f32; this one stays as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no weight matrix of that name, [`Error::Shape`] if the new one has another shape.
    pub fn with_weight(&self, name: &str, tensor: &Tensor) -> Result<Model> {
        let old = self.weight(name)?;
        if old.dims() != tensor.dims() || old.rank() != 2 {
            return Err(Error::Shape {
                operation: format!("replace {name}"),
                expected: format!("{:?}", old.dims()),
                got: format!("{:?}", tensor.dims()),
            });
        }
        let mut model = self.clone();
        let tensor = tensor.to_dtype(candle_core::DType::F32)?.contiguous()?;
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        let layer = WeightType::F32.layer(name, &values, tensor.dims()[1])?;
        model.network = self.network.with_linear(name, layer)?;
        model.weights.replace(name, tensor);
        Ok(model)
    }

    /// Parameters in all.
    pub fn parameters(&self) -> usize {
        let shapes = self
            .weights
            .names()
            .into_iter()
            .filter_map(|name| self.weights.shape(&name));
        shapes.map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Shows provenance and sizes in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.config;
        writeln!(f, "{}", self.provenance)?;
        write!(
            f,
            "{} layers · width {} · {} heads in {} groups of dimension {} · feed-forward {} · vocabulary {} · {:.1} M parameters, computed in f32",
            c.layers,
            c.width,
            c.heads,
            c.kv_heads,
            c.head_dim,
            c.ffn_width,
            c.vocabulary,
            self.parameters() as f64 / 1e6
        )
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
