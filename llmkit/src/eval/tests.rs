//! Whole evaluations of SmolLM2, where it is in reach, against the same from its logits.

use super::{Comparison, Divergence, Floor, Outcome, Protocol};
use crate::kernels::Isa;
use crate::model::{Model, WeightType};

const NAME: &str = "smollm2-135m-instruct-q4_1";

/// SmolLM2 in 4 bits; `None` (with a word about it) where it is out of reach.
fn real() -> Option<Model> {
    match Model::load(NAME) {
        Ok(model) => Some(model),
        Err(error) if std::env::var_os("LLMKIT_REQUIRE_MODEL").is_some_and(|it| it == "1") => {
            panic!("{error}")
        }
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

fn text() -> String {
    let mut text = String::new();
    for i in 0..60 {
        text += &format!(
            "Chapter {i}. The ship sailed on day {} and met no other.\n",
            i * i
        );
    }
    text
}

/// ln of the law of a row of logits, in f64.
fn law(row: &[f32]) -> Vec<f64> {
    let top = row.iter().fold(f64::MIN, |top, &it| top.max(f64::from(it)));
    let sum: f64 = row.iter().map(|&it| (f64::from(it) - top).exp()).sum();
    row.iter()
        .map(|&it| f64::from(it) - top - sum.ln())
        .collect()
}

#[test]
fn divergences_and_likelihoods_are_those_of_the_logits() {
    let Some(model) = real() else { return };
    let int4 = Model::load_as(NAME, WeightType::Int4).unwrap();
    let protocol = Protocol::Gptq { ctx: 48 };
    let found = Divergence::run(protocol, &model, &int4, &text(), 2).unwrap();
    assert_eq!((found.kl.len(), found.baseline.windows.len()), (94, 2));
    assert_eq!(found.baseline, protocol.run(&model, &text(), 2).unwrap());

    let tokens = model.encode(&text()).unwrap();
    let rows = |of: &Model| {
        of.logits(&tokens[48..96])
            .unwrap()
            .to_vec2::<f32>()
            .unwrap()
    };
    let (p, q) = (rows(&model), rows(&int4));
    for i in 0..47 {
        let (p, q) = (law(&p[i]), law(&q[i]));
        let target = tokens[48 + i + 1] as usize;
        let kl: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        let got = found.kl[47 + i];
        assert!((got - kl).abs() < 1e-5 * kl + 1e-9, "{i}: {got} for {kl}");
        for (nll, law) in [(&found.baseline.nll, &p), (&found.model.nll, &q)] {
            assert!((nll[47 + i] + law[target]).abs() < 2e-6, "{i}");
        }
        let first = |law: &[f64]| {
            law.iter()
                .position(|&it| it == law.iter().fold(f64::MIN, |a, &b| a.max(b)))
        };
        let (of_p, of_q) = (first(&p), first(&q));
        assert_eq!(found.agrees[47 + i], of_p == of_q);
        assert_eq!(
            found.flips[47 + i],
            (of_p == Some(target)) != (of_q == Some(target))
        );
    }
}

#[test]
fn a_model_is_nothing_apart_from_itself_and_little_from_its_other_paths() {
    let Some(model) = real() else { return };
    let int4 = Model::load_as(NAME, WeightType::Int4).unwrap();
    let protocol = Protocol::LlamaCpp { ctx: 16 };
    let other = match Isa::here().len() {
        // The reference takes minutes.
        ..=2 => model.clone(),
        _ => Floor::Arithmetic.of(NAME, &model).unwrap(),
    };
    let all = [&model, &other, &int4];
    let found = Divergence::run_all(protocol, &model, &all, &text(), 16).unwrap();
    assert!(found[0].kl.iter().all(|&kl| kl == 0.0));
    assert_eq!(found[0].baseline, found[0].model);
    assert_eq!(
        (found[0].top1_agreement(), found[0].flip_share()),
        (1.0, 0.0)
    );
    assert!(found.iter().all(|it| it.kl.iter().all(|&kl| kl >= 0.0)));
    assert!(found[1].quantile(1.0) < 1e-6, "{}", found[1]);
    assert!(found[2].mean() > 1e-3, "{}", found[2]);
    let above = Comparison::of_divergences(&found[2], &found[1], 0).unwrap();
    assert_eq!(above.outcome, Outcome::Worse, "{above}");
    let alike = Comparison::of_perplexities(&found[0].model, &found[0].baseline, 0).unwrap();
    assert!(
        alike.to_string().contains("no difference at all"),
        "{alike}"
    );
}

#[test]
fn models_of_other_tokens_and_texts_too_short_are_refused() {
    let Some(model) = real() else { return };
    let error = Protocol::GPTQ_2048
        .run(&model, "Too short.", 0)
        .unwrap_err();
    assert!(
        error.to_string().contains("at least 2048 tokens"),
        "{error}"
    );
    let long = "a b ".repeat(9000);
    let error = Protocol::Gptq { ctx: 9000 }
        .run(&model, &long, 1)
        .unwrap_err();
    assert!(error.to_string().contains("8192"), "{error}");
    let none: [&Model; 0] = [];
    let found = Divergence::run_all(Protocol::Gptq { ctx: 16 }, &model, &none, &text(), 1);
    assert!(found.is_ok_and(|it| it.is_empty()));
}
