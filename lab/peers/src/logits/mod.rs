//! Our logits against those of candle-transformers' `quantized_llama`, on the same GGUF file, and where differences come from.
//!
//! Ours: weights decoded to f32, activations in f32. candle's, in two ways:
//!
//! * **f32**: from the same file with all weights decoded to f32, so that candle's products are of f32 too;
//! * **8 bits**: from the file as it is. Weights stay quantized, and candle rounds each input of a product to 8 bits in blocks of 32,
//!   as llama.cpp does, because its products are of whole numbers.
//!
//! Each is compared with the same network in f64 (`plain.rs`), which can be made to do one thing in another precision and nothing else:
//! the sums of products in f32, in one order or another; the angles of the rotary embedding in f32, as candle has them; inputs in 8
//! bits; the scaled sums of those blocks in f16, which Q4_1 multiplies its minima by. How far such a network is from the exact one is
//! what that thing is worth.
//!
//! All differences are relative: the largest |a − b| over the vocabulary, over the largest |logit| in f64 at that position.

mod candle;
mod plain;

use std::fmt;
use std::path::Path;

use llmkit::model::Model;

pub use plain::{Network, Variant};

/// Differences at one position.
#[derive(Debug, Clone, Copy)]
pub struct Differences {
    /// Ours from f64.
    pub ours: f64,
    /// candle's in f32 from f64.
    pub candle_f32: f64,
    /// Ours from candle's in f32.
    pub between: f64,
    /// f64 with sums one after the other in f32 from f64.
    pub sums: f64,
    /// f64 with 16 partial sums in f32 from f64.
    pub partial_sums: f64,
    /// f64 with candle's angles from f64.
    pub angles: f64,
    /// candle's as it is (8 bits) from ours.
    pub candle_8_bits: f64,
    /// f64 with inputs in 8 bits from f64.
    pub bytes: f64,
    /// f64 with inputs in 8 bits and their sums in f16 from f64.
    pub bytes_and_sums: f64,
    /// The last, with angles in f32 as well, from the last: what becomes of a difference of 10⁻⁷ where codes may flip.
    pub flips: f64,
    /// candle's as it is from f64 with both.
    pub from_both: f64,
    /// KL divergence of candle's law of the next token as it is from ours, in nats.
    pub divergence: f64,
    /// Whether ours and candle's as it is have the same likeliest token.
    pub same_top: bool,
}

/// What [`compare`] found, position by position.
#[derive(Debug, Clone)]
pub struct Comparison(pub Vec<Differences>);

impl Comparison {
    /// The largest of a difference over positions.
    pub fn largest(&self, of: fn(&Differences) -> f64) -> f64 {
        greatest(self.0.iter().map(of))
    }
}

/// Names of the columns, and what is in them.
type Column = (&'static str, fn(&Differences) -> f64);
const COLUMNS: [Column; 12] = [
    ("ours", |it| it.ours),
    ("candle", |it| it.candle_f32),
    ("between", |it| it.between),
    ("sums", |it| it.sums),
    ("16 sums", |it| it.partial_sums),
    ("angles", |it| it.angles),
    ("8 bits", |it| it.candle_8_bits),
    ("bytes", |it| it.bytes),
    ("bytes+f16", |it| it.bytes_and_sums),
    ("flips", |it| it.flips),
    ("from both", |it| it.from_both),
    ("KL (nats)", |it| it.divergence),
];

/// What the columns are.
const LEGEND: &str = "\
f32: ours, candle's with decoded weights, both from f64; between them; f64 with products in f32 summed in order, in 16 partial sums,
     with angles in f32
8 bits: candle as it is from ours; f64 with inputs in 8 bits, and with their sums in f16; that with angles in f32 from that without;
     candle as it is from that; its law of the next token from ours";

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{LEGEND}")?;
        write!(f, "position")?;
        for (name, _) in COLUMNS {
            write!(f, "  {name:>9}")?;
        }
        writeln!(f, "  same top")?;
        for (position, it) in self.0.iter().enumerate() {
            write!(f, "{position:8}")?;
            for (_, of) in COLUMNS {
                write!(f, "  {:9.1e}", of(it))?;
            }
            writeln!(f, "  {}", if it.same_top { "yes" } else { "no" })?;
        }
        write!(f, " largest")?;
        for (_, of) in COLUMNS {
            write!(f, "  {:9.1e}", self.largest(of))?;
        }
        let same = self.0.iter().filter(|it| it.same_top).count();
        write!(f, "  {same} of {}", self.0.len())
    }
}

/// Logits of `tokens` at every position, ours and candle's, and the same in f64.
///
/// # Errors
/// What any of them says of the file or of the tokens.
pub fn compare(path: &Path, tokens: &[u32]) -> anyhow::Result<Comparison> {
    let model = Model::load(&path.display().to_string())?;
    let network = Network::new(&model, candle::minima(path)?)?;
    let logits: Vec<Vec<f32>> = model.logits(tokens)?.to_vec2()?;
    let ours: Vec<Vec<f64>> = logits.iter().map(|row| plain::wide(row)).collect();
    let in_f32 = candle::logits(&mut candle::decoded(path)?, tokens)?;
    let in_8_bits = candle::logits(&mut std::fs::File::open(path)?, tokens)?;
    let of = |variant| network.logits(tokens, variant);
    let (truth, angles) = (of(Variant::Exact)?, of(Variant::Angles)?);
    let (sums, partial_sums) = (of(Variant::Sums)?, of(Variant::PartialSums)?);
    let (bytes, both) = (of(Variant::Bytes)?, of(Variant::BytesAndSums)?);
    let all = of(Variant::BytesAndAngles)?;
    let at = |i: usize| {
        let scale = truth[i].iter().fold(0.0, |top: f64, it| top.max(it.abs()));
        let from = |a: &[Vec<f64>], b: &[Vec<f64>]| largest_gap(&a[i], &b[i]) / scale;
        let (p, q) = (log_softmax(&ours[i]), log_softmax(&in_8_bits[i]));
        Differences {
            ours: from(&ours, &truth),
            candle_f32: from(&in_f32, &truth),
            between: from(&ours, &in_f32),
            sums: from(&sums, &truth),
            partial_sums: from(&partial_sums, &truth),
            angles: from(&angles, &truth),
            candle_8_bits: from(&in_8_bits, &ours),
            bytes: from(&bytes, &truth),
            bytes_and_sums: from(&both, &truth),
            flips: from(&all, &both),
            from_both: from(&in_8_bits, &both),
            divergence: p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum(),
            same_top: top(&p) == top(&q),
        }
    };
    Ok(Comparison((0..tokens.len()).map(at).collect()))
}

fn largest_gap(a: &[f64], b: &[f64]) -> f64 {
    greatest(a.iter().zip(b).map(|(a, b)| (a - b).abs()))
}

/// The greatest of numbers that are not negative; a NaN is greater than any.
fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    let of_two = |top: f64, it: f64| match it <= top || top.is_nan() {
        true => top,
        false => it,
    };
    values.fold(0.0, of_two)
}

fn top(values: &[f64]) -> Option<usize> {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]))
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = logits.iter().map(|it| (it - top).exp()).sum();
    logits.iter().map(|it| it - top - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_laws_are_what_they_say() {
        assert_eq!(largest_gap(&[1.0, -4.0], &[1.5, -2.0]), 2.0);
        assert!(largest_gap(&[f64::NAN, 9.0], &[0.0, 0.0]).is_nan());
        let law = log_softmax(&[1.0, 2.0, -4.0]);
        assert!((law.iter().map(|it| it.exp()).sum::<f64>() - 1.0).abs() < 1e-15);
        assert!((law[1] - law[0] - 1.0).abs() < 1e-15);
        assert_eq!(top(&law), Some(1));
    }

    #[test]
    fn the_real_models_logits_are_candles_up_to_rounding() {
        // Where the model is in reach.
        let Ok(asset) = llmkit::hub::model("smollm2-135m-instruct-q4_1") else {
            println!("skipped: the model is out of reach");
            return;
        };
        let tokens = [504, 3575, 282, 4649, 314];
        let found = compare(asset.path(), &tokens).unwrap();
        println!("{found}");
        // The rule for kernels, for the network: at most twice the error of the plain computation in the same precision.
        let plain = found.largest(|it| it.sums);
        for of in [|it: &Differences| it.ours, |it: &Differences| it.candle_f32] {
            assert!(found.largest(of) <= 2.0 * plain, "{found}");
        }
        // In 8 bits the same: what rounding of inputs does by itself. (Not added to it: codes flip, so that two networks that round
        // differ by as much as each does from one that does not.)
        let rounding = found.largest(|it| it.bytes_and_sums);
        let eight_bits = found.largest(|it| it.candle_8_bits);
        assert!(eight_bits <= 2.0 * rounding, "{found}");
        // The first bound would see a mistake a thousandth as large as a rounding to 8 bits.
        assert!(1000.0 * plain < rounding, "{found}");
        assert!(found.0.iter().all(|it| it.same_top), "{found}");
    }
}
