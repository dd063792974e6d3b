//! Files written, read back, and compared: with the network, with the codes, byte by byte.

mod folders;
mod gguf;
mod recipes;

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::linalg::Hadamard;
use crate::model::gguf::Gguf;
use crate::model::gguf::write::{Entry, Pairs};
use crate::model::tests::tiny;
use crate::model::{Model, WeightType};
use crate::numeric::ggml::GgmlType;
use crate::quant::format::{Ggml, IntAffine, IntSymmetric, Nf4};
use crate::quant::method::Rtn;
use crate::quant::transform::{Rotate, Transform};
use crate::quant::{Format, Granularity, Matrix, Method, Statistics};

const TOKENS: [u32; 6] = [3, 1, 4, 1, 5, 9];

fn logits(model: &Model) -> Vec<f32> {
    model
        .logits(&TOKENS)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// All matrices of the layers, rounded to nearest.
fn rounded(model: &Model, format: &dyn Format) -> Matrices {
    let names = model.network().matrix_names().into_iter();
    names
        .filter(|name| name.starts_with("blk."))
        .map(|name| {
            let weights = Matrix::from_tensor(&name, &model.weight(&name).unwrap()).unwrap();
            let quantized = Rtn.quantize(&weights, format).unwrap();
            (name, quantized)
        })
        .collect()
}

/// The model that runs with what the codes stand for.
fn decoded(model: &Model, matrices: &Matrices) -> Model {
    matrices
        .iter()
        .fold(model.clone(), |model, (name, matrix)| {
            model
                .with_weight(name, &matrix.to_tensor().unwrap())
                .unwrap()
        })
}

fn path(folder: &tempfile::TempDir, name: &str) -> std::path::PathBuf {
    folder.path().join(name)
}

fn load(path: &Path) -> Model {
    Model::load(path.to_str().unwrap()).unwrap()
}

fn same(a: &Matrices, b: &Matrices) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((name, a), (other, b))| {
            name == other
                && a.codes() == b.codes()
                && a.grids() == b.grids()
                && a.format().name() == b.format().name()
        })
}
