//! A model from its files.

use std::path::Path;
use std::sync::Arc;

use super::chat::{self, ChatTemplate};
use super::gguf::Gguf;
use super::settings::Settings;
use super::weights::Weights;
use super::{Config, Llama, Model, Tokenizer, WeightType};
use crate::hub::{Asset, folder};
use crate::{Error, Result};

/// Tokenizer and chat template.
type Text = Result<(Tokenizer, Option<ChatTemplate>)>;

impl Model {
    /// Loads the files of an asset: a GGUF file, or a Hugging Face checkpoint, of one file or sharded, with `config.json` and
    /// `tokenizer.json`. Weights stay mapped; what runs is a copy in the layout of the kernels.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_asset(asset: &Asset, kind: WeightType) -> Result<Model> {
        let path = asset.path();
        let is_checkpoint =
            path.extension().is_some_and(|it| it == "safetensors") || folder::is_index(path);
        let build = |config: Config, weights: Weights, text: &(dyn Fn() -> Text + Sync)| {
            // The tokenizer takes one thread for a while; the weights have the others.
            let (network, text) = rayon::join(|| Llama::new(&config, &weights, kind), text);
            let (tokenizer, chat_template) = text?;
            Ok(Model {
                network: network?,
                config,
                provenance: asset.provenance.clone(),
                tokenizer,
                chat_template: chat_template.or_else(|| built_in(asset)),
                weights,
            })
        };
        if is_checkpoint {
            let config = config(asset)?;
            let weights = Weights::of_checkpoint(path, &config)?;
            build(config, weights, &|| text_of_folder(asset))
        } else {
            let gguf = Arc::new(Gguf::open(path)?);
            let config = Config::from_gguf(&gguf)?;
            let weights = Weights::of_gguf(Arc::clone(&gguf));
            build(config, weights, &|| text_of_gguf(&gguf))
        }
    }
}

impl Model {
    /// A model of `weights` that somebody else has read, with tokenizer and chat template of the folder that `asset` is.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub(crate) fn from_folder(
        asset: &Asset,
        config: Config,
        weights: Weights,
        kind: WeightType,
    ) -> Result<Model> {
        let (tokenizer, chat_template) = text_of_folder(asset)?;
        Ok(Model {
            network: Llama::new(&config, &weights, kind)?,
            config,
            provenance: asset.provenance.clone(),
            tokenizer,
            chat_template,
            weights,
        })
    }
}

fn text_of_gguf(gguf: &Gguf) -> Text {
    let tokenizer = Tokenizer::from_gguf(gguf)?;
    let [bos, eos] = tokenizer.bos_and_eos.clone();
    let source = gguf.text("tokenizer.chat_template").ok();
    let template = source.map(|source| ChatTemplate::new(gguf.file(), source, bos, eos));
    Ok((tokenizer, template))
}

fn text_of_folder(asset: &Asset) -> Text {
    let settings = Settings::of(asset)?;
    let tokenizer = Tokenizer::with_settings(beside(asset, "tokenizer.json")?, &settings)?;
    let [bos, eos] = tokenizer.bos_and_eos.clone();
    let chat = settings.chat;
    let template = chat.map(|(file, source)| ChatTemplate::new(file, source, bos, eos));
    Ok((tokenizer, template))
}

fn config(asset: &Asset) -> Result<Config> {
    let path = beside(asset, "config.json")?;
    let json = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    Config::from_hugging_face(&path.display().to_string(), &json)
}

fn beside<'a>(asset: &'a Asset, name: &str) -> Result<&'a Path> {
    asset.file(name).ok_or_else(|| Error::Format {
        file: asset.path().display().to_string(),
        expected: format!("{name} beside it"),
        got: "none".to_owned(),
    })
}

/// The template of a model whose pinned files are without one.
fn built_in(asset: &Asset) -> Option<ChatTemplate> {
    let is_smollm2 = asset.provenance.name.starts_with("smollm2-");
    is_smollm2.then(|| ChatTemplate::new("built in", chat::SMOLLM2, "<|im_start|>", "<|im_end|>"))
}
