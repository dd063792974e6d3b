//! Networks taken apart and put together again.

use std::sync::Arc;

use super::super::WeightType;
use super::super::{Llama, Piece, Record};
use super::tiny;
use crate::Error;
use crate::linalg::Hadamard;

const TOKENS: [u32; 5] = [1, 2, 3, 5, 8];

fn run(network: &Llama, record: &mut Record) -> Vec<f32> {
    let mut store = network.store();
    let mut pieces = [Piece {
        store: store.as_mut(),
        tokens: &TOKENS,
    }];
    network.logits(&network.hidden(&mut pieces, Some(record)).unwrap())
}

fn logits(network: &Llama) -> Vec<f32> {
    run(network, &mut Record::new(""))
}

#[test]
fn every_name_leads_to_a_part_and_back() {
    let model = tiny::model(WeightType::F32);
    let network = model.network();
    let (matrices, vectors) = (network.matrix_names(), network.vector_names());
    assert_eq!((matrices.len(), vectors.len()), (1 + 2 * 7, 2 * 2 + 1));
    let mut names: Vec<String> = [matrices.clone(), vectors.clone()].concat();
    names.sort();
    assert_eq!(names, model.tensor_names(), "all that the file has");
    for name in &matrices {
        let layer = network.linear(name).unwrap();
        assert_eq!(
            [layer.shape().0, layer.shape().1],
            model.weight(name).unwrap().dims()
        );
        let same = network.with_linear(name, layer).unwrap();
        assert_eq!(logits(&same), logits(network));
        assert!(same.is_tied());
    }
    for name in &vectors {
        let values = network.vector(name).unwrap().to_vec();
        assert_eq!(
            values,
            model.weight(name).unwrap().to_vec1::<f32>().unwrap()
        );
        let other = network.with_vector(name, vec![0.5; values.len()]).unwrap();
        assert_ne!(logits(&other), logits(network), "{name}");
        let back = other.with_vector(name, values).unwrap();
        assert_eq!(logits(&back), logits(network));
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let model = tiny::model(WeightType::F32);
    let network = model.network();
    let name = "blk.1.ffn_norm.weight";
    assert!(matches!(
        network.with_vector(name, vec![1.0; 31]),
        Err(Error::Shape { .. })
    ));
    let error = network.with_vector(name, vec![f32::NAN; 32]).unwrap_err();
    assert!(error.to_string().contains("ffn_norm.weight[0]"), "{error}");
    for name in [
        "blk.2.ffn_norm.weight",
        "blk.0.attn_q.bias",
        "blk.x.ffn_norm.weight",
        "",
        "blk.0.ffn_up.weight",
    ] {
        assert!(
            matches!(network.vector(name), Err(Error::NotFound { .. })),
            "{name}"
        );
        assert!(network.with_vector(name, vec![1.0; 32]).is_err());
    }
    assert!(matches!(
        network.linear("blk.0.ffn_norm.weight"),
        Err(Error::NotFound { .. })
    ));
    let up = network.linear("blk.0.ffn_up.weight").unwrap();
    assert!(matches!(network.with_head(up), Err(Error::Shape { .. })));
    let rotation = |order| Some(Arc::new(Hadamard::new(order).unwrap()));
    assert!(matches!(
        network.with_ffn_rotation(0, rotation(32)),
        Err(Error::Shape { .. })
    ));
    assert!(matches!(
        network.with_ffn_rotation(2, rotation(64)),
        Err(Error::NotFound { .. })
    ));
    let other = crate::model::Config {
        layers: 1,
        ..model.config.clone()
    };
    let mut smaller = network.clone();
    smaller.config = other;
    assert!(matches!(
        model.with_network(smaller),
        Err(Error::Argument { .. })
    ));
}

#[test]
fn a_head_of_its_own_leaves_the_embedding_alone() {
    let model = tiny::model(WeightType::F32);
    let network = model.network();
    let head = network.linear("output.weight").unwrap();
    let zeros = WeightType::F32
        .layer("zeros", &vec![0.0; head.shape().0 * 32], 32)
        .unwrap();
    let untied = network.with_head(Arc::clone(&zeros)).unwrap();
    assert!(network.is_tied() && !untied.is_tied());
    assert!(logits(&untied).iter().all(|it| *it == 0.0));
    assert_eq!(untied.matrix_names().last().unwrap(), "output.weight");
    // Now each goes its own way; bytes count both.
    let again = untied.with_linear("output.weight", head).unwrap();
    assert_eq!(logits(&again), logits(network));
    let blind = again.with_linear("token_embd.weight", zeros).unwrap();
    assert_ne!(logits(&blind), logits(network));
    assert!(untied.bytes() > network.bytes());
}

#[test]
fn a_rotation_on_the_way_is_seen_by_hooks_and_undone_by_the_matrix() {
    let model = tiny::model(WeightType::F32);
    let network = model.network();
    let rotation = Arc::new(Hadamard::random(64, 3).unwrap());
    let name = "blk.1.ffn_down.in";
    let seen = |network: &Llama| {
        let mut record = Record::new(name);
        let logits = run(network, &mut record);
        let rows: Vec<Vec<f32>> = record.get(name).unwrap().to_vec2().unwrap();
        (rows, logits)
    };
    let (before, plain) = seen(network);
    let rotated = network
        .with_ffn_rotation(1, Some(Arc::clone(&rotation)))
        .unwrap();
    assert!(rotated.ffn_rotation(1).is_some() && rotated.ffn_rotation(0).is_none());
    let (after, wrong) = seen(&rotated);
    for (before, after) in before.iter().zip(&after) {
        let mut expected = before.clone();
        rotation.apply(&mut expected);
        assert_eq!(*after, expected);
    }
    // The matrix has not been told yet.
    let distance = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .fold(0f32, |top, (a, b)| top.max((a - b).abs()))
    };
    let top = plain.iter().fold(0f32, |top, it| top.max(it.abs()));
    assert!(distance(&plain, &wrong) > 1e-2 * top);
    let matrix = model.weight("blk.1.ffn_down.weight").unwrap();
    let mut rows: Vec<f32> = matrix.flatten_all().unwrap().to_vec1().unwrap();
    rows.chunks_exact_mut(64)
        .for_each(|row| rotation.apply(row));
    let layer = WeightType::F32.layer("w", &rows, 64).unwrap();
    let right = rotated.with_linear("blk.1.ffn_down.weight", layer).unwrap();
    assert!(distance(&plain, &logits(&right)) < 1e-5 * top);
    let straight = rotated.with_ffn_rotation(1, None).unwrap();
    assert_eq!(logits(&straight), plain);
}
