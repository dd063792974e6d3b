//! Mixed precision: which matrix gets which scheme, so that the model fits a number of bytes and loses the least.
//!
//! ```text
//! minimise Σ cost(matrix, scheme) with Σ bytes(matrix, scheme) ≤ budget, one scheme a matrix
//! ```
//! Solved exactly: after each matrix, of all ways to choose so far those are kept that no other beats in both bytes and cost. Sizes of
//! a model's matrices are few, so many ways end at the same number of bytes and few are kept; nothing is rounded.
//!
//! Costs are assumed to add up. Two are at hand: the share of its output's power that a matrix loses ([`Layer::output_error`]), and the divergence
//! that it causes by itself ([`Attribution`]), measured with one scheme and taken in proportion to the output error for the others.
//!
//! Source: the multiple-choice knapsack problem, by dominance (H. Kellerer et al., *Knapsack Problems*, 2004, section 11.5); for quantization among
//! others AutoRound's *AutoScheme* (2025).
//!
//! Cost: matrices × schemes × ways kept; some 10⁷ steps for 210 matrices and 4 schemes.

use std::collections::BTreeMap;

use super::attribution::Attribution;
use super::{Layer, Recipe, Report, Scheme};
use crate::{Error, Result, interrupt};

/// Ways that are kept at most: four bytes and one for each of 210 matrices and so many ways are a gigabyte.
const WAYS: usize = 1 << 20;

/// One thing that could be done to a matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Bytes that it takes.
    pub bytes: usize,
    /// What it costs in quality, in any unit that adds up.
    pub cost: f64,
}

/// For each of `choices` (those of one matrix) the number of the one to take, so that the sum of costs is least and that of bytes at most
/// `budget_bytes`. Of ways that cost the same, one with the fewest bytes.
///
/// # Errors
/// [`Error::Argument`] if even the smallest choices are larger than the budget, a matrix has no choice, a cost is no number, or there are
/// more than a million ways that none beats.
pub fn cheapest(choices: &[Vec<Choice>], budget_bytes: usize) -> Result<Vec<usize>> {
    let mut least = 0;
    for (matrix, choices) in choices.iter().enumerate() {
        let name = || format!("choices of matrix {matrix}");
        if let Some(bad) = choices.iter().find(|it| !it.cost.is_finite()) {
            return Err(Error::argument(name(), "finite costs", bad.cost));
        }
        let smallest = choices.iter().map(|it| it.bytes).min();
        least += smallest.ok_or_else(|| Error::argument(name(), "at least one", "none"))?;
    }
    if least > budget_bytes {
        let expected = format!("at least {least} bytes, the least that the matrices take");
        return Err(Error::argument("budget", expected, budget_bytes));
    }
    // Of all ways so far: bytes, cost, ascending in the first and descending in the second.
    let mut ways = vec![(0usize, 0f64)];
    // Of each way, the one before it and the choice, matrix by matrix.
    let mut steps: Vec<Vec<(u32, u8)>> = Vec::with_capacity(choices.len());
    for choices in choices {
        interrupt::check("plan")?;
        let mut all: Vec<(usize, f64, u32, u8)> = Vec::with_capacity(ways.len() * choices.len());
        for (number, choice) in choices.iter().enumerate() {
            let on = ways.iter().enumerate().map(|(before, (bytes, cost))| {
                let before = before as u32;
                (
                    bytes + choice.bytes,
                    cost + choice.cost,
                    before,
                    number as u8,
                )
            });
            all.extend(on.filter(|it| it.0 <= budget_bytes));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut best = f64::INFINITY;
        all.retain(|it| {
            let is_better = it.1 < best;
            best = best.min(it.1);
            is_better
        });
        if all.len() > WAYS {
            let expected = format!("sizes of which at most {WAYS} sums are worth while");
            return Err(Error::argument("choices", expected, all.len()));
        }
        ways = all.iter().map(|it| (it.0, it.1)).collect();
        steps.push(all.into_iter().map(|it| (it.2, it.3)).collect());
    }
    let mut at = ways.len() - 1;
    let mut found = vec![0; choices.len()];
    for (found, steps) in found.iter_mut().zip(&steps).rev() {
        let (before, choice) = steps[at];
        (at, *found) = (before as usize, usize::from(choice));
    }
    Ok(found)
}

/// A recipe that gives each matrix its own scheme.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What to do; its exceptions are sorted by name.
    pub recipe: Recipe,
    /// Bytes of all matrices.
    pub bytes: usize,
    /// Σ of costs.
    pub cost: f64,
}

impl Plan {
    /// The best mixture of the schemes of `reports`, each of the same model through one scheme (with the same transforms and the rest of
    /// `recipe`, whose own scheme and exceptions do not count), in `budget_bytes` for all matrices together.
    ///
    /// Costs are output errors; with `attribution`, made with the scheme of the first report, divergences.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no reports or they are not of the same matrices with known output errors; those of [`cheapest`].
    pub fn of_reports(
        recipe: &Recipe,
        reports: &[&Report],
        attribution: Option<&Attribution>,
        budget_bytes: usize,
    ) -> Result<Plan> {
        let first = reports
            .first()
            .ok_or_else(|| Error::argument("reports", "at least one", "none"))?;
        let single = attribution.map(Attribution::single);
        let mut choices = Vec::new();
        for (at, layer) in first.layers.iter().enumerate() {
            let mut of_matrix = Vec::new();
            for report in reports {
                let here = report.layers.get(at).filter(|it| it.name == layer.name);
                let here = here.ok_or_else(|| {
                    let expected = format!("{} at place {at}", layer.name);
                    Error::argument(
                        format!("report of {}", report.recipe),
                        expected,
                        "another matrix",
                    )
                })?;
                let cost = cost(here, layer, single.as_ref())?;
                of_matrix.push(Choice {
                    bytes: here.bytes,
                    cost,
                });
            }
            choices.push(of_matrix);
        }
        let found = cheapest(&choices, budget_bytes)?;
        let mut recipe = recipe.clone();
        recipe.exceptions.clear();
        // What most matrices get is the rule.
        let mut counts = vec![0; reports.len()];
        found.iter().for_each(|&choice| counts[choice] += 1);
        let most = (0..reports.len())
            .rev()
            .max_by_key(|&it| counts[it])
            .unwrap_or(0);
        let scheme = |choice: usize, at: usize| -> Result<Scheme> {
            reports[choice].layers[at].requested.parse()
        };
        if let Some(at) = found.iter().position(|&choice| choice == most) {
            let rule = scheme(most, at)?;
            (recipe.method, recipe.format) = (rule.method, rule.format);
        }
        let rule = recipe.scheme();
        let mut exceptions = BTreeMap::new();
        for (at, &choice) in found.iter().enumerate() {
            let scheme = scheme(choice, at)?;
            if scheme.to_string() != rule {
                let name = first.layers[at].name.trim_end_matches(".weight");
                exceptions.insert(name.to_owned(), scheme);
            }
        }
        recipe.exceptions = exceptions.into_iter().collect();
        let chosen = || choices.iter().zip(&found).map(|(of, &choice)| of[choice]);
        Ok(Plan {
            bytes: chosen().map(|it| it.bytes).sum(),
            cost: chosen().map(|it| it.cost).sum(),
            recipe,
        })
    }
}

/// What `layer` costs, `measured` being the same matrix with the scheme that was attributed.
fn cost(layer: &Layer, measured: &Layer, single: Option<&BTreeMap<String, f64>>) -> Result<f64> {
    let missing = |what: &str| {
        let name = format!("cost of {}", layer.name);
        Error::argument(name, what, "none")
    };
    let error = |of: &Layer| {
        of.output_error
            .ok_or_else(|| missing("an output error, which a calibration gives"))
    };
    let own = error(layer)?;
    let Some(single) = single else {
        return Ok(own);
    };
    let divergence = single
        .get(&layer.name)
        .ok_or_else(|| missing("a divergence, which an attribution gives"))?;
    let measured = error(measured)?;
    Ok(match measured > 0.0 {
        true => divergence * own / measured,
        false => own,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WeightType;
    use crate::model::tests::tiny;
    use crate::quant::pipeline::{attribution, quantize_all};
    use crate::quant::{Calibration, Samples};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// The least cost over all ways.
    fn brute_force(choices: &[Vec<Choice>], budget: usize) -> Option<f64> {
        match choices {
            [] => Some(0.0),
            [first, rest @ ..] => first
                .iter()
                .filter(|it| it.bytes <= budget)
                .filter_map(|it| Some(it.cost + brute_force(rest, budget - it.bytes)?))
                .min_by(f64::total_cmp),
        }
    }

    #[test]
    fn the_optimum_is_that_of_brute_force() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        for case in 0..200 {
            let matrices = random.random_range(1..=if case < 20 { 12 } else { 7 });
            let choices: Vec<Vec<Choice>> = (0..matrices)
                .map(|_| {
                    let count = random.random_range(1..=3);
                    let of = |_| Choice {
                        bytes: random.random_range(0..60),
                        // Few values, so that there are ties; and costs that do not fall with bytes.
                        cost: f64::from(random.random_range(0..20u8)) / 4.0,
                    };
                    (0..count).map(of).collect()
                })
                .collect();
            let sum = |found: &[usize], of: fn(&Choice) -> f64| -> f64 {
                choices.iter().zip(found).map(|(it, &at)| of(&it[at])).sum()
            };
            for budget in [0, 40, 100, 200, 10_000] {
                let expected = brute_force(&choices, budget);
                match (cheapest(&choices, budget), expected) {
                    (Ok(found), Some(least)) => {
                        assert!(sum(&found, |it| it.bytes as f64) <= budget as f64);
                        assert!(
                            (sum(&found, |it| it.cost) - least).abs() < 1e-9,
                            "case {case}"
                        );
                    }
                    (Err(error), None) => {
                        assert!(error.to_string().contains("budget"), "{error}");
                    }
                    (found, expected) => panic!("case {case}: {found:?} for {expected:?}"),
                }
            }
        }
        // Planted: a greedy choice by cost a byte misses what the budget leaves room for.
        let choice = |bytes, cost| Choice { bytes, cost };
        let trap = vec![
            vec![choice(0, 10.0), choice(6, 1.0)],
            vec![choice(0, 9.0), choice(5, 1.0)],
            vec![choice(0, 9.0), choice(5, 1.0)],
        ];
        assert_eq!(cheapest(&trap, 10).unwrap(), [0, 1, 1]);
        assert!(cheapest(&[vec![]], 10).is_err());
        assert!(cheapest(&[vec![choice(1, f64::NAN)]], 10).is_err());
        assert_eq!(cheapest(&[], 0).unwrap(), [0usize; 0]);
    }

    #[test]
    fn plans_of_a_model_keep_the_budget_and_are_recipes() -> Result<()> {
        let model = tiny::model(WeightType::F32);
        let text = "the quick brown fox jumps over the lazy dog. ".repeat(30);
        let samples = Samples::of_text(&model, "t", &text, 6, 40)?;
        let calibration = Calibration::run(&model, &samples)?;
        let through = |text: &str| quantize_all(&model, &text.parse()?, Some(&calibration));
        let runs = [
            through("rtn:int4-g16")?,
            through("rtn:int2-g16")?,
            through("rtn:int8-g16")?,
        ];
        let reports: Vec<&Report> = runs.iter().map(|it| &it.report).collect();
        let single = attribution(&model, &runs[0].model, &samples)?;
        let [four, two, eight] = [0, 1, 2].map(|at| reports[at].bytes());
        let recipe: Recipe = "rtn:int4-g16,lorc-r1".parse()?;
        let mut last = f64::INFINITY;
        for budget in [two, (two + four) / 2, four, (four + eight) / 2, eight] {
            for attributed in [None, Some(&single)] {
                let plan = Plan::of_reports(&recipe, &reports, attributed, budget)?;
                assert!(plan.bytes <= budget, "{budget}");
                let text = plan.recipe.to_string();
                assert_eq!(text.parse::<Recipe>()?.to_string(), text);
                assert!(
                    text.ends_with("lorc-r1"),
                    "the rest of the recipe stays: {text}"
                );
                let mut plain = plan.recipe.clone();
                plain.correction = None;
                let done = quantize_all(&model, &plain, Some(&calibration))?;
                assert_eq!(done.report.bytes(), plan.bytes);
                if attributed.is_none() {
                    let cost: f64 = done.report.output_errors().iter().sum();
                    assert!((cost / plan.cost - 1.0).abs() < 1e-9);
                    assert!(plan.cost <= last, "more bytes are never worse");
                    last = plan.cost;
                    let uniform: f64 = reports[0].output_errors().iter().sum();
                    assert!(budget < four || plan.cost <= uniform);
                }
            }
        }
        let error = Plan::of_reports(&recipe, &reports, None, two - 1)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("budget") && error.contains(&two.to_string()),
            "{error}"
        );
        assert!(Plan::of_reports(&recipe, &[], None, two).is_err());
        Ok(())
    }
}
