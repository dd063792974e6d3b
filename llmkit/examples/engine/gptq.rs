//! GPTQ of a whole model: the folder that ours and the others' read, and ours.

use std::path::Path;

use llmkit::hub;
use llmkit::model::{Engine, Model, blocks::BlockType};
use llmkit::quant::export::{Layout, Matrices, export};
use llmkit::quant::{Calibration, Report, Samples, quantize};
use llmkit::{Error, Result};

/// The text that is calibrated on.
const CORPUS: &str = "lee";
/// Windows, and tokens in each.
const WINDOWS: (usize, usize) = (64, 512);
/// Ours.
const RECIPE: &str = "gptq:int4-g64";
/// Tokens that are calibrated on, in the folder of the model.
const TOKENS: &str = "windows.json";

/// Writes `model` as F32 and the tokens to calibrate on, unless they are there.
pub fn write(model: &str, folder: &Path) -> Result<()> {
    let tokens = folder.join(TOKENS);
    if tokens.is_file() {
        return Ok(());
    }
    let model = Model::load(model)?;
    if !folder.is_dir() {
        export(
            &model,
            &Matrices::new(),
            folder,
            Layout::Plain(BlockType::F32),
        )?;
    }
    let text = hub::corpus(CORPUS)?.text()?;
    let samples = Samples::of_text(&model, CORPUS, &text, WINDOWS.0, WINDOWS.1)?;
    // The last that is written: where it is, the folder is whole.
    let text = serde_json::to_string(samples.windows()).unwrap_or_default();
    let part = folder.join("windows.part");
    let wrote = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &tokens));
    wrote.map_err(Error::io("write", tokens))
}

/// A model and what it is calibrated on.
pub struct Job {
    model: Model,
    samples: Samples,
}

impl Job {
    /// Of a folder that [`write`] made.
    pub fn read(folder: &str, engine: &Engine) -> Result<Job> {
        let path = Path::new(folder).join(TOKENS);
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", path))?;
        let windows: Vec<Vec<u32>> = serde_json::from_str(&text)
            .map_err(|error| Error::argument(TOKENS, "windows of tokens", error))?;
        let length = windows.first().map_or(0, Vec::len);
        Ok(Job {
            model: Model::load(folder)?.with_engine(engine.clone()),
            // As many windows as fit: those that were written.
            samples: Samples::of_tokens(CORPUS, &windows.concat(), windows.len(), length)?,
        })
    }

    /// Statistics of all layers, then all layers.
    pub fn run(&self) -> Result<Report> {
        let calibration = Calibration::run(&self.model, &self.samples)?;
        Ok(quantize(&self.model, &RECIPE.parse()?, Some(&calibration))?.1)
    }
}
