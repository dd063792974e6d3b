//! From a recipe to a file and back.

use super::gguf::gguf_model;
use super::*;
use crate::Error;
use crate::quant::{Calibration, Finished, Recipe, Samples, quantize_all};

fn quantized(model: &Model, recipe: &Recipe) -> Finished {
    let text = "abcdefghijkl".repeat(40);
    let samples = Samples::of_text(model, "t", &text, 6, 40).unwrap();
    let calibration = Calibration::run(model, &samples).unwrap();
    quantize_all(model, recipe, Some(&calibration)).unwrap()
}

#[test]
fn what_is_exported_is_read_again_with_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let model = gguf_model(&path(&folder, "source.gguf"), BlockType::F32);
    let f32 = Layout::Plain(BlockType::F32);
    for (text, layout) in [
        ("gptq:int4-g32", Layout::Gguf(Types::default())),
        (
            "rotate-offline,smooth,rtn:int8-channel",
            Layout::Gguf(Types::default()),
        ),
        ("rtn:Q4_1,ffn_down=Q8_0", Layout::Gguf(Types::default())),
        ("rotate-offline,awq-scales,gptq:int4-affine-g32", f32),
        ("gptq:nf4-g32,eora-r4", f32),
        ("had16-rtn:int4-g32", f32),
        ("gptq:int4-g32", Layout::Gptq(BlockType::F32)),
        ("rtn:int4-affine-g32", Layout::Awq(BlockType::F32)),
        (
            "smooth,gptq:int8-channel",
            Layout::CompressedTensors(BlockType::F32),
        ),
    ] {
        let recipe: Recipe = text.parse().unwrap();
        check_recipe(&model, &recipe, layout).unwrap();
        let finished = quantized(&model, &recipe);
        let out = path(&folder, "out");
        // A plain folder holds what the network computes with; the others hold codes.
        let matrices = match layout {
            Layout::Plain(_) => Matrices::new(),
            _ => finished.matrices.clone(),
        };
        replace(&finished.model, &matrices, &out, layout).unwrap();
        let loaded = match layout {
            Layout::Gguf(_) | Layout::Plain(_) => load(&out),
            _ => import(&out).unwrap().model,
        };
        let (got, expected) = (logits(&loaded), logits(&finished.model));
        let size = expected.iter().fold(0f32, |m, it| m.max(it.abs()));
        let pairs = got.iter().zip(&expected);
        let worst = pairs.fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        // A correction is added in another order.
        let bound = if text.contains("eora") {
            1e-5 * size
        } else {
            0.0
        };
        assert!(worst <= bound, "{text}: {worst} of {size}");
        match out.is_dir() {
            true => std::fs::remove_dir_all(&out).unwrap(),
            false => std::fs::remove_file(&out).unwrap(),
        }
    }
}

#[test]
fn what_a_layout_cannot_hold_is_said_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let model = gguf_model(&path(&folder, "source.gguf"), BlockType::F32);
    let gguf = Layout::Gguf(Types::default());
    for (text, layout, says) in [
        ("rotate,rtn:int4-g32", gguf, "rotate-offline"),
        ("rtn:int4-g32,lorc-r2", gguf, "plain folder"),
        ("had16-rtn:int4-g32", gguf, "blk.0.attn_q"),
        ("rtn:int4-g32,ffn_up=spqr1-rtn:int4-g32", gguf, "spqr1-rtn"),
        (
            "mr-gptq:int4-g32",
            Layout::Gptq(BlockType::F16),
            "codes and grids",
        ),
        ("rtn:nf4-g32", gguf, "nf4-g32"),
        ("rtn:int4-g20", gguf, "multiple of 32"),
        ("rtn:int4-g32,ffn_up=int3-g32", gguf, "int3-symmetric-g32"),
        ("rtn:Q4_K", gguf, "256"),
        ("rtn:int3-g32", Layout::Gptq(BlockType::F16), "[2, 4, 8]"),
        ("rtn:int8-g32", Layout::Awq(BlockType::F16), "[4]"),
        (
            "rtn:nf4-g32",
            Layout::CompressedTensors(BlockType::F16),
            "nf4-g32",
        ),
        (
            "rtn:int4-g32,ffn_up=int8-g32",
            Layout::CompressedTensors(BlockType::F16),
            "one for all",
        ),
    ] {
        let error = check_recipe(&model, &text.parse().unwrap(), layout).unwrap_err();
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
    let from_folder = tiny::model(WeightType::F32);
    let error = check_recipe(&from_folder, &"rtn:int4-g32".parse().unwrap(), gguf).unwrap_err();
    assert!(error.to_string().contains("from a folder"), "{error}");
}

#[test]
fn a_folder_is_replaced_only_if_it_holds_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::model(WeightType::F32);
    let layout = Layout::Plain(BlockType::F32);
    let out = path(&folder, "out");
    let write = |model: &Model| replace(model, &Matrices::new(), &out, layout);
    write(&model).unwrap();
    let finished = quantize_all(&model, &"rtn:int2-g16".parse().unwrap(), None).unwrap();
    assert_eq!(write(&finished.model).unwrap().path, out);
    assert_eq!(logits(&load(&out)), logits(&finished.model));
    // Something fails half-way: what was there stays.
    let name = "blk.0.ffn_up.weight";
    let huge = (model.weight(name).unwrap() * 1e6).unwrap();
    let broken = model.with_weight(name, &huge).unwrap();
    let half = Layout::Plain(BlockType::F16);
    let error = replace(&broken, &Matrices::new(), &out, half).unwrap_err();
    assert!(error.to_string().contains("F16"), "{error}");
    assert_eq!(logits(&load(&out)), logits(&finished.model));
    let names = || std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names(), 1, "nothing is left beside it");
    let own = path(&folder, "own");
    std::fs::create_dir(&own).unwrap();
    replace(&model, &Matrices::new(), &own, layout).unwrap();
    std::fs::remove_file(own.join("config.json")).unwrap();
    let error = replace(&model, &Matrices::new(), &own, layout).unwrap_err();
    assert!(
        matches!(error, Error::Argument { .. }) && error.to_string().contains("config.json"),
        "{error}"
    );
    // A place that is not there.
    let nowhere = path(&folder, "no/such/place/out.gguf");
    assert!(matches!(
        replace(&model, &Matrices::new(), &nowhere, layout),
        Err(Error::Io { .. })
    ));
}
