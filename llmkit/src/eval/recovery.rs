//! How much of what one method loses another keeps.

use super::{Estimate, Perplexity, stats};
use crate::{Error, Result};

/// (ln P_plain − ln P_better) / (ln P_plain − ln P_original), from the likelihoods of the same tokens: 1 if `better` is as good as the
/// original, 0 if it is no better than `plain`; with its 95 % interval over windows.
///
/// # Errors
/// [`Error::Argument`] if the three are not of the same tokens; those of [`stats::share`].
pub fn recovery(
    original: &Perplexity,
    plain: &Perplexity,
    better: &Perplexity,
    seed: u64,
) -> Result<Estimate> {
    for other in [plain, better] {
        if !other.is_of_the_tokens_of(original) {
            let got = format!("{original} and {other}");
            return Err(Error::argument(
                "perplexities",
                "three of the same tokens",
                got,
            ));
        }
    }
    let counts = original.window_tokens();
    let sums = |of: &Perplexity| stats::sums_by(of.nll.iter().copied(), &counts);
    let (original, plain, better) = (sums(original), sums(plain), sums(better));
    let less = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
    stats::share(&less(&plain, &better), &less(&plain, &original), seed)
}
