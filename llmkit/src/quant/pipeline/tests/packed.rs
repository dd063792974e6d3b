//! Layers on codes against layers on decoded values.

use super::*;
use crate::model::linear::Linear;

/// Whether two layers of the same weights differ by no more than what rounding inputs to 8 bits can do: half of 1/127 of a row's
/// greatest for each input.
fn apart(exact: &dyn Linear, rounded: &dyn Linear) -> Result<(), String> {
    let (rows, columns) = exact.shape();
    let x = crate::quant::samples::correlated(7, columns, 1);
    let engine = crate::model::Engine::default();
    let run = |layer: &dyn Linear| {
        let mut out = vec![0.0; 7 * rows];
        let input = crate::model::linear::Input::new(&x, columns, &engine);
        layer.forward(
            &input,
            crate::kernels::dense::Into::Replace,
            &mut out,
            &engine,
        );
        out
    };
    let (a, b) = (run(exact), run(rounded));
    let mut row = vec![0.0; columns];
    for n in 0..rows {
        exact.row(n, &mut row);
        let size: f32 = row.iter().map(|it| it.abs()).sum();
        for (t, x) in x.chunks_exact(columns).enumerate() {
            let greatest = x.iter().fold(0f32, |most, it| most.max(it.abs()));
            let bound = size * greatest * (0.5 / 127.0 + 1e-5);
            let (a, b) = (a[t * rows + n], b[t * rows + n]);
            if (a - b).abs() > bound {
                return Err(format!("[{t}, {n}]: {a} and {b}, bound {bound}"));
            }
        }
    }
    Ok(())
}

#[test]
fn packed_and_decoded_layers_agree() -> Result<()> {
    let (model, calibration) = calibrated();
    for format in [
        "int8-g32",
        "int4-g32",
        "int3-g64",
        "int2-channel",
        "int4-channel",
    ] {
        let of = |steps: &str| -> Result<(Model, Report)> {
            quantize(
                &model,
                &format!("{steps}gptq:{format}").parse()?,
                Some(&calibration),
            )
        };
        let (dense, of_dense) = of("")?;
        let (on_codes, report) = of("packed,")?;
        for (a, b) in of_dense.layers.iter().zip(&report.layers) {
            assert_eq!(
                (a.runs_as.as_str(), &b.runs_as[..3]),
                ("f32", "int"),
                "{format}"
            );
            let (values, codes) = (
                matrix_of(dense.network(), &a.name)?,
                matrix_of(on_codes.network(), &a.name)?,
            );
            assert_eq!(values, codes, "{format} {}: the very same weights", a.name);
        }
        for layer in &report.layers {
            let of = |model: &Model| model.network().linear(&layer.name);
            let differ = apart(of(&dense)?.as_ref(), of(&on_codes)?.as_ref());
            assert!(differ.is_ok(), "{format} {}: {differ:?}", layer.name);
        }
        let distance = distance(&logits(&dense), &logits(&on_codes));
        assert!(distance < 0.05, "{format}: {distance}");
    }
    // Where there is no kernel, it says so.
    let (_, report) = quantize(&model, &"packed,rtn:int4-g20".parse()?, None)?;
    assert!(report.layers.iter().any(|it| it.runs_as == "f32"));
    let (_, report) = quantize(&model, &"packed,rtn:nf4-g32".parse()?, None)?;
    assert!(report.layers.iter().all(|it| it.runs_as == "f32"));
    Ok(())
}
