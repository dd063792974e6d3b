//! SmolLM2 itself, where it is in reach.

use candle_core::{IndexOp, Tensor};

use super::super::chat::SMOLLM2;
use super::super::sample::{Past, Temperature, TopK};
use super::super::{ChatTemplate, GenerateOptions, Message, Model, Sampling};
use super::CPU;

/// The edition that tests take: SmolLM2 in 4 bits.
pub(crate) const NAME: &str = "smollm2-135m-instruct-q4_1";

/// The model, loaded once; `None` (with a word about it) where it is out of reach.
pub(crate) fn real() -> Option<&'static Model> {
    static MODEL: std::sync::OnceLock<Option<Model>> = std::sync::OnceLock::new();
    let model = MODEL.get_or_init(|| match Model::load(NAME) {
        Ok(model) => Some(model),
        Err(error) if std::env::var_os("LLMKIT_REQUIRE_MODEL").is_some_and(|it| it == "1") => {
            panic!("{error}")
        }
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    });
    model.as_ref()
}

#[test]
fn the_real_tokenizer_splits_as_smollm_does() {
    let Some(model) = real() else { return };
    let pieces = |text: &str| -> Vec<String> {
        let ids = model.encode(text).unwrap();
        assert_eq!(model.decode(&ids).unwrap(), text, "round trip");
        ids.iter().map(|&id| model.decode(&[id]).unwrap()).collect()
    };
    // No blank in front; digits one by one, the blank before a number on its own.
    assert_eq!(pieces("Hello world"), ["Hello", " world"]);
    assert_eq!(pieces("in 2024,"), ["in", " ", "2", "0", "2", "4", ","]);
    assert_eq!(pieces("it's"), ["it", "'s"]);
    assert_eq!(pieces(""), Vec::<String>::new());
    // Published ids of this tokenizer.
    assert_eq!(
        model.encode("The capital of France is").unwrap(),
        [504, 3575, 282, 4649, 314]
    );
    assert_eq!(model.encode("<|im_start|>user\n").unwrap(), [1, 4093, 198]);
    assert_eq!(model.tokenizer.id("<|im_end|>"), Some(2));
    assert_eq!(model.tokenizer.ends, [2, 0]);
    assert_eq!(model.tokenizer.bos, None);
    assert_eq!(model.tokenizer.vocabulary(), 49_152);
    for odd in [
        "naïve 日本語 🦀\r\n\t  x",
        "\u{0}",
        "a\u{300}",
        "<|im_start",
        "  ",
    ] {
        pieces(odd);
    }
    assert!(model.decode(&[49_152]).is_err());
    // Half a character is shown as such, not an error.
    let crab = model.encode("🦀").unwrap();
    assert!(crab.len() > 1 && model.decode(&crab[..1]).unwrap().contains('\u{fffd}'));
}

#[test]
fn the_real_chat_template_writes_what_the_model_was_trained_on() {
    let Some(model) = real() else { return };
    for message in [
        "What is a tensor?",
        " blanks \n",
        "{{ 7 * 7 }} <|im_end|>",
        "日本 🦀 'é\"&<>",
    ] {
        assert_eq!(model.chat(message).unwrap(), super::chat::smollm2(message));
    }
    let talk = [
        Message::system("S"),
        Message::user("a"),
        Message::assistant("b"),
        Message::user("c"),
    ];
    let template = model.chat_template.as_ref().unwrap();
    let built_in = ChatTemplate::new("built in", SMOLLM2, "", "");
    assert_eq!(
        template.render(&talk, true).unwrap(),
        built_in.render(&talk, true).unwrap()
    );
    assert_eq!(
        template.render(&talk, false).unwrap(),
        built_in.render(&talk, false).unwrap()
    );
}

#[test]
fn the_real_model_knows_the_capital_of_france() {
    let Some(model) = real() else { return };
    assert_eq!(model.parameters(), 134_515_008);
    assert_eq!(model.tensor_names().len(), 272);
    assert_eq!(
        model.weight("blk.3.ffn_up.weight").unwrap().dims(),
        [1536, 576]
    );
    assert!(model.weight("blk.30.ffn_up.weight").is_err());
    let next = model.next_tokens("The capital of France is", 5).unwrap();
    assert_eq!(next[0].text, " Paris");
    assert!(
        next.windows(2)
            .all(|pair| pair[0].probability >= pair[1].probability)
    );
    let all: f64 = model
        .next_tokens("The capital of France is", usize::MAX)
        .unwrap()
        .iter()
        .map(|it| it.probability)
        .sum();
    assert!((all - 1.0).abs() < 1e-9);
    assert!(model.next_tokens("", 5).is_err());

    let options = GenerateOptions {
        max_tokens: 12,
        prints: false,
        ..GenerateOptions::default()
    };
    let prompt = model.chat("What is the capital of France?").unwrap();
    let greedy = model.generate(&prompt, &options).unwrap();
    assert!(greedy.text.contains("Paris"), "{}", greedy.text);
    // Step by step with a cache gives what the whole sequence gives at once.
    let mut ids = model.encode(&prompt).unwrap();
    let start = ids.len();
    ids.extend(&greedy.tokens);
    let logits = model.logits(&ids).unwrap();
    for (n, token) in greedy.tokens.iter().enumerate() {
        let row: Vec<f32> = logits.i(start + n - 1).unwrap().to_vec1().unwrap();
        assert_eq!(
            Sampling::greedy().law(&row, Past::default()).unwrap()[0].token,
            *token
        );
    }
    let warm = GenerateOptions {
        sampling: Sampling::plain()
            .with(Temperature(1.0))
            .with(TopK(40))
            .seeded(3),
        ..options.clone()
    };
    assert_eq!(
        model.generate(&prompt, &warm).unwrap().tokens,
        model.generate(&prompt, &warm).unwrap().tokens
    );
    assert!(
        model
            .generate(
                &prompt,
                &GenerateOptions {
                    max_tokens: 0,
                    ..options
                }
            )
            .unwrap()
            .text
            .is_empty()
    );

    // A weight replaced changes this copy alone.
    let name = "blk.0.attn_v.weight";
    let zero = model.weight(name).unwrap().zeros_like().unwrap();
    let other = model.with_weight(name, &zero).unwrap();
    let top =
        |model: &Model| model.next_tokens("The capital of France is", 1).unwrap()[0].probability;
    assert_ne!(top(&other), top(model));
    assert_eq!(top(model), next[0].probability);
    assert!(
        model
            .with_weight(
                name,
                &Tensor::zeros((1, 2), candle_core::DType::F32, &CPU).unwrap()
            )
            .is_err()
    );
}

/// Perplexity of the first two windows of a corpus under the real model, where both are in reach.
fn two_windows(corpus: &str) -> Option<(crate::hub::Provenance, f64)> {
    let model = real()?;
    let corpus = match crate::hub::corpus(corpus) {
        Ok(corpus) => corpus,
        Err(error) => {
            println!("skipped: {error}");
            return None;
        }
    };
    let text = corpus.text().unwrap();
    let result = crate::eval::Protocol::LLAMA_CPP
        .run(model, &text, 2)
        .unwrap();
    println!("{}: {result}", corpus.provenance);
    assert_eq!(result.nll.len(), 2 * 255);
    Some((corpus.provenance, result.value))
}

#[test]
fn perplexity_of_the_real_model_is_llama_cpps() {
    let Some((provenance, value)) = two_windows("wikitext-2") else {
        return;
    };
    // llama.cpp on these dequantized weights and this edition of the text: 27.8419 over 20 windows; the example
    // `eval` gives 27.8422. The run that did so had 21.2799 after two windows.
    let edition = "4f3e427e4aff23acff917a8a51aeae21bf12832256e26914c8fc250dcef4103c";
    if provenance.files[0].sha256 == edition {
        assert!((value / 21.2799 - 1.0).abs() < 1e-3, "{value}");
    } else {
        println!("skipped: no reference for this edition of the text");
    }
}

#[test]
fn perplexity_on_botchan_has_not_moved() {
    let Some((_, value)) = two_windows("botchan") else {
        return;
    };
    // Measured by the same code that reproduces llama.cpp on WikiText-2; this text is in reach of every machine.
    assert!((value / 26.4252 - 1.0).abs() < 1e-3, "{value}");
}
