//! Many recipes judged alike: divergence from the original, perplexity and true bytes, one row each.
//!
//! The original goes through the text once ([`Baseline`]); candidates are quantized some at a time and go through it side by side. Each row is
//! kept on disk when it is there, under a key of everything it depends on — the original's weights, the recipe, the calibration's samples,
//! the text and protocol, the library's own sources — so a run that was stopped or killed goes on where it was.
//!
//! **Precision.** Where the machine multiplies bf16, the original and all candidates run in bf16 (weights that were decoded, a
//! correction added to them, embedding and head alike), sums in f32: twice as fast, and what differs between them is the rounding alone.
//! [`Cell::runs_as`] says so. Layers on codes, and layers whose inputs are rounded, run as their recipe says.
//!
//! Cost: a candidate of SmolLM2 takes one forward pass over the text, a fifth of one for the original's head, and 2 exponentials for
//! each token of the vocabulary.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Job, Recipe};
use crate::eval::{Baseline, Divergence, Protocol, origin};
use crate::hub::hex;
use crate::kernels::dense::Element;
use crate::model::Model;
use crate::progress::Progress;
use crate::quant::Calibration;
use crate::quant::calibration::{fast_element, in_element};
use crate::quant::fingerprint::fingerprint;
use crate::{Error, Result, atomic};

/// Candidates that go through the text side by side: the original's head is run once for all of them.
const TOGETHER: usize = 4;

/// What was found of one recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// In full.
    pub recipe: String,
    /// Mean KL divergence from the original, in nats a token.
    pub kl: f64,
    /// Its 95 % interval over windows, if there are several.
    pub kl_interval: Option<[f64; 2]>,
    /// The KL divergence that 99 % of tokens do not exceed.
    pub kl_p99: f64,
    /// Share of tokens where both models' likeliest next token is the same.
    pub top1: f64,
    /// Perplexity a unit of the protocol.
    pub perplexity: f64,
    /// The original's.
    pub original_perplexity: f64,
    /// Bytes of the quantized matrices, everything counted.
    pub bytes: usize,
    /// Bytes of the whole model, all else in 16 bits.
    pub model_bytes: usize,
    /// Stored bits over weights, of the quantized matrices.
    pub bits_per_weight: f64,
    /// Mean share of a layer's output that is lost, on the calibration's text.
    pub output_error: Option<f64>,
    /// How the first matrix ran.
    pub runs_as: String,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Seconds that quantizing took.
    pub quantize_s: f64,
    /// Seconds that judging took, its share of those that went together.
    pub judge_s: f64,
}

/// A grid of recipes on one model and one text.
pub struct Grid {
    model: Model,
    calibration: Option<Calibration>,
    text: String,
    protocol: Protocol,
    windows: usize,
    directory: PathBuf,
    is_fresh: bool,
    /// Of all but the recipe.
    key: Sha256,
    baseline: Option<Baseline>,
    cells: Vec<Cell>,
    /// Rows that were computed, not read.
    computed: usize,
}

impl Grid {
    /// Of `model`, judged on the first `windows` windows (0 = all) of `text`; rows are kept in the cache directory.
    ///
    /// # Errors
    /// [`Error::Argument`] if the text is too short for the protocol; [`Error::Io`] if there is no cache directory.
    pub fn new(
        model: &Model,
        calibration: Option<&Calibration>,
        text: &str,
        protocol: Protocol,
        windows: usize,
    ) -> Result<Grid> {
        let tokens = model.encode(text)?.len();
        protocol.windows(tokens)?;
        let element = fast_element(model);
        let mut key = Sha256::new();
        key.update(fingerprint(model.network())?);
        key.update(calibration.map_or(String::new(), |it| it.samples().sha256()));
        key.update(Sha256::digest(text));
        key.update(format!(
            "{protocol} {windows} {element:?} {} 1",
            origin::sources()
        ));
        Ok(Grid {
            model: model.clone(),
            calibration: calibration.cloned(),
            text: text.to_owned(),
            protocol,
            windows,
            directory: crate::hub::cache_directory()?.join("grid"),
            is_fresh: false,
            key,
            baseline: None,
            cells: Vec::new(),
            computed: 0,
        })
    }

    /// The same with rows kept in another directory.
    pub fn kept_in(mut self, directory: &Path) -> Grid {
        self.directory = directory.to_owned();
        self
    }

    /// The same without regard to rows that are there.
    pub fn fresh(mut self) -> Grid {
        self.is_fresh = true;
        self
    }

    /// Fills in a row for each recipe, in their order; those that are there already are not computed again.
    ///
    /// # Errors
    /// Those of [`quantize`](super::quantize) with the recipe, and of the forward pass; [`Error::Interrupted`]. Rows that are done stay done.
    pub fn run(&mut self, recipes: &[Recipe]) -> Result<()> {
        let mut progress = Progress::new("grid", recipes.len() as u64, "recipes");
        let mut rows: Vec<Option<Cell>> = Vec::new();
        for recipe in recipes {
            rows.push(self.known(recipe));
        }
        let missing: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].is_none()).collect();
        progress.set((rows.len() - missing.len()) as u64)?;
        for together in missing.chunks(TOGETHER) {
            let recipes: Vec<&Recipe> = together.iter().map(|&at| &recipes[at]).collect();
            for (&at, cell) in together.iter().zip(self.judge(&recipes)?) {
                let cell = self.keep(&recipes_key(&self.key, &cell.recipe), &cell)?;
                self.cells.push(cell.clone());
                rows[at] = Some(cell);
                self.computed += 1;
            }
            progress.advance(together.len() as u64)?;
        }
        // In the order that was asked for; those of earlier calls stay in front.
        for cell in rows.into_iter().flatten() {
            self.cells.retain(|it| it.recipe != cell.recipe);
            self.cells.push(cell);
        }
        Ok(())
    }

    /// A row that was computed before.
    fn known(&self, recipe: &Recipe) -> Option<Cell> {
        let name = recipe.to_string();
        let own = self.cells.iter().find(|it| it.recipe == name);
        own.cloned().or_else(|| {
            let path = self
                .directory
                .join(format!("{}.json", recipes_key(&self.key, &name)));
            let text = (!self.is_fresh).then(|| std::fs::read_to_string(path).ok())??;
            let cell: Cell = serde_json::from_str(&text).ok()?;
            (cell.recipe == name).then_some(cell)
        })
    }

    /// Writes a row; returns it as it will be read, so that a row is the same whenever it is asked for.
    fn keep(&self, key: &str, cell: &Cell) -> Result<Cell> {
        use std::io::Write;
        std::fs::create_dir_all(&self.directory)
            .map_err(Error::io("create directory", &self.directory))?;
        let path = self.directory.join(format!("{key}.json"));
        let wrong = |source| Error::Json {
            context: path.display().to_string(),
            source,
        };
        let text = serde_json::to_string_pretty(cell).map_err(wrong)?;
        atomic::file(&path, |file| {
            file.write_all(text.as_bytes())
                .map_err(Error::io("write", &path))
        })?;
        serde_json::from_str(&text).map_err(wrong)
    }

    /// Quantizes and judges some recipes.
    fn judge(&mut self, recipes: &[&Recipe]) -> Result<Vec<Cell>> {
        let element = fast_element(&self.model);
        let mut candidates = Vec::new();
        for recipe in recipes {
            let calibration = self.calibration.as_ref();
            let mut job = Job::new(&self.model, recipe, calibration)?;
            job.run()?;
            let finished = job.finish()?;
            candidates.push((fast(&finished.model, element)?, finished.report));
        }
        let baseline = match &mut self.baseline {
            Some(baseline) => baseline,
            none => {
                let original = fast(&self.model, element)?;
                none.insert(Baseline::new(
                    self.protocol,
                    &original,
                    &self.text,
                    self.windows,
                )?)
            }
        };
        let start = std::time::Instant::now();
        let models: Vec<&Model> = candidates.iter().map(|(model, _)| model).collect();
        let found = baseline.compare(&models)?;
        let judge_s = start.elapsed().as_secs_f64() / recipes.len() as f64;
        let cell = |((model, report), found): (&(Model, super::Report), &Divergence)| {
            let interval = match found.model.windows.len() {
                0 | 1 => None,
                _ => {
                    let interval = found.kl_estimate(0)?.interval;
                    Some([interval.low, interval.high])
                }
            };
            let errors = report.output_errors();
            let mean = errors.iter().sum::<f64>() / errors.len() as f64;
            Ok(Cell {
                recipe: report.recipe.clone(),
                kl: found.mean(),
                kl_interval: interval,
                kl_p99: found.quantile(0.99),
                top1: found.top1_agreement(),
                perplexity: found.model.value,
                original_perplexity: found.baseline.value,
                bytes: report.bytes(),
                model_bytes: report.model_bytes(),
                bits_per_weight: report.bits_per_weight(),
                output_error: (!errors.is_empty()).then_some(mean),
                runs_as: model.network().kind(),
                tokens: found.kl.len(),
                quantize_s: report.seconds,
                judge_s,
            })
        };
        candidates.iter().zip(&found).map(cell).collect()
    }

    /// The rows, in the order in which recipes were first asked for.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Rows that were computed, not read.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// One row a recipe: recipe, KL (nats) with its interval, its 99 % quantile, top-1 agreement, perplexity, bits a weight, megabytes of the
    /// matrices and of the whole model, mean output error, seconds to quantize and to judge, how it ran.
    ///
    /// # Errors
    /// [`Error::Table`] if the table library refuses.
    #[cfg(feature = "notebook")]
    pub fn table(&self) -> Result<polars::prelude::DataFrame> {
        fn column<T>(of: &Grid, value: impl Fn(&Cell) -> T) -> Vec<T> {
            of.cells.iter().map(value).collect()
        }
        Ok(polars::df!(
            "recipe" => column(self, |it| it.recipe.clone()),
            "KL (nats)" => column(self, |it| it.kl),
            "KL low" => column(self, |it| it.kl_interval.map(|it| it[0])),
            "KL high" => column(self, |it| it.kl_interval.map(|it| it[1])),
            "KL 99 %" => column(self, |it| it.kl_p99),
            "same top token" => column(self, |it| it.top1),
            "perplexity" => column(self, |it| it.perplexity),
            "bits/weight" => column(self, |it| it.bits_per_weight),
            "matrices (MB)" => column(self, |it| it.bytes as f64 / 1e6),
            "model (MB)" => column(self, |it| it.model_bytes as f64 / 1e6),
            "output error" => column(self, |it| it.output_error),
            "quantize (s)" => column(self, |it| it.quantize_s),
            "judge (s)" => column(self, |it| it.judge_s),
            "runs as" => column(self, |it| it.runs_as.clone()),
        )?)
    }
}

fn recipes_key(of_the_rest: &Sha256, recipe: &str) -> String {
    let mut hash = of_the_rest.clone();
    hash.update(recipe);
    hex(&hash.finalize())
}

/// As it is judged: see the head of this file.
fn fast(model: &Model, element: Element) -> Result<Model> {
    match element {
        Element::F32 => Ok(model.clone()),
        Element::Bf16 => model.with_network(in_element(model.network(), element, |_| true)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WeightType;
    use crate::model::tests::tiny;
    use crate::quant::Samples;

    #[test]
    fn rows_are_those_of_single_runs_and_are_kept() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny::model(WeightType::F32);
        let text = "the quick brown fox jumps over the lazy dog. ".repeat(30);
        let samples = Samples::of_text(&model, "t", &text, 6, 40)?;
        let calibration = Calibration::run(&model, &samples)?;
        let recipes: Vec<Recipe> = [
            "rtn:int2-g16",
            "rtn:int4-g16",
            "gptq:int4-g16",
            "packed,rtn:int8-g32",
            "rtn:int8-g16",
            "rtn:int4-g16,lorc-r2",
        ]
        .iter()
        .map(|it| it.parse())
        .collect::<Result<_>>()?;
        let protocol = Protocol::Gptq { ctx: 60 };
        let grid = || -> Result<Grid> {
            Ok(Grid::new(&model, Some(&calibration), &text, protocol, 5)?.kept_in(folder.path()))
        };
        let mut first = grid()?;
        first.run(&recipes[..2])?;
        assert_eq!((first.computed(), first.cells().len()), (2, 2));
        // As if killed here; another process goes on.
        let mut second = grid()?;
        second.run(&recipes)?;
        assert_eq!((second.computed(), second.cells().len()), (4, 6));
        let names: Vec<&str> = second.cells().iter().map(|it| it.recipe.as_str()).collect();
        assert_eq!(
            names,
            recipes.iter().map(|it| it.to_string()).collect::<Vec<_>>()
        );
        assert_eq!(second.cells()[..2], first.cells()[..2]);
        second.run(&recipes)?;
        assert_eq!((second.computed(), second.cells().len()), (4, 6));
        for (cell, recipe) in second.cells().iter().zip(&recipes) {
            let (quantized, report) = crate::quant::quantize(&model, recipe, Some(&calibration))?;
            let element = fast_element(&model);
            let (p, q) = (fast(&model, element)?, fast(&quantized, element)?);
            let alone = Divergence::run(protocol, &p, &q, &text, 5)?;
            // Read from text: right to the last digit but one.
            let same = |a: f64, b: f64| (a - b).abs() <= 1e-14 * b.abs();
            assert!(same(cell.kl, alone.mean()), "{recipe}");
            assert!(same(cell.perplexity, alone.model.value), "{recipe}");
            assert_eq!(
                (cell.bytes, cell.model_bytes),
                (report.bytes(), report.model_bytes())
            );
            let [low, high] = cell.kl_interval.unwrap();
            assert!(low <= cell.kl && cell.kl <= high);
        }
        let kl = |at: usize| second.cells()[at].kl;
        assert!(kl(0) > kl(1) && kl(1) > kl(4) && kl(4) > 0.0);
        #[cfg(feature = "notebook")]
        assert_eq!(second.table()?.shape(), (6, 14));
        Ok(())
    }

    #[test]
    fn what_another_text_model_or_damaged_file_says_is_not_taken() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny::model(WeightType::F32);
        let text = "the quick brown fox jumps over the lazy dog. ".repeat(10);
        let recipes = ["rtn:int4-g16".parse()?];
        let run = |model: &Model, text: &str, windows: usize| -> Result<usize> {
            let protocol = Protocol::Gptq { ctx: 60 };
            let mut grid = Grid::new(model, None, text, protocol, windows)?.kept_in(folder.path());
            grid.run(&recipes)?;
            Ok(grid.computed())
        };
        assert_eq!((run(&model, &text, 2)?, run(&model, &text, 2)?), (1, 0));
        assert_eq!(run(&model, &text, 3)?, 1);
        assert_eq!(run(&model, &text.replace("quick", "slow "), 2)?, 1);
        let name = "blk.1.ffn_down.weight";
        let other = model.with_weight(name, &(model.weight(name)? * 0.5)?)?;
        assert_eq!((run(&other, &text, 2)?, run(&other, &text, 2)?), (1, 0));
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            std::fs::write(entry.unwrap().path(), "{\"recipe\": 3").unwrap();
        }
        assert_eq!(run(&model, &text, 2)?, 1);
        let short = Grid::new(&model, None, "too short", Protocol::Gptq { ctx: 60 }, 1);
        assert!(short.is_err());
        Ok(())
    }
}
