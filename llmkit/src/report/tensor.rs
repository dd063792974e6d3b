//! What a tensor looks like: shape, type, range, and for a matrix a small heat map.

use candle_core::{DType, Tensor};

use super::emit::escape_html;
use super::figure::{Axis, Colours, Figure, Rendered};
use super::number::significant;
use crate::Result;

/// Elements converted at once.
const CHUNK: usize = 1 << 20;

/// Rows and columns looked at for the picture of a large matrix.
const SAMPLED: usize = 384;

/// A tensor's facts. Minimum, mean, maximum and standard deviation are over the finite elements (NaN if none).
#[derive(Debug, Clone)]
pub struct TensorSummary {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Element type as candle names it.
    pub dtype: String,
    /// Where it lives.
    pub device: String,
    /// Smallest finite element.
    pub min: f64,
    /// Mean of the finite elements.
    pub mean: f64,
    /// Largest finite element.
    pub max: f64,
    /// Standard deviation of the finite elements (dividing by their number).
    pub std: f64,
    /// Elements that are NaN.
    pub nan: usize,
    /// Elements that are infinite.
    pub infinite: usize,
    /// The elements, if there are few.
    few: Vec<f64>,
    heat: Option<Figure>,
}

impl TensorSummary {
    /// Looks at every element once; memory beyond the tensor itself is a few megabytes.
    ///
    /// # Errors
    /// Tensor errors, such as an element type that cannot be converted.
    pub fn of(tensor: &Tensor) -> Result<TensorSummary> {
        let flat = tensor.detach().flatten_all()?;
        let count = flat.elem_count();
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        let (mut nan, mut infinite) = (0, 0);
        // Welford's running mean and sum of squares: no cancellation for large means.
        let (mut seen, mut mean, mut squares) = (0.0, 0.0, 0.0);
        let mut few = Vec::new();
        let mut start = 0;
        while start < count {
            let length = CHUNK.min(count - start);
            let values = flat
                .narrow(0, start, length)?
                .to_dtype(DType::F64)?
                .to_vec1::<f64>()?;
            if count <= 8 {
                few.clone_from(&values);
            }
            for value in values {
                if value.is_finite() {
                    (min, max) = (min.min(value), max.max(value));
                    seen += 1.0;
                    let away = value - mean;
                    mean += away / seen;
                    squares += away * (value - mean);
                } else if value.is_nan() {
                    nan += 1;
                } else {
                    infinite += 1;
                }
            }
            start += length;
        }
        if seen == 0.0 {
            (min, mean, max) = (f64::NAN, f64::NAN, f64::NAN);
        }
        Ok(TensorSummary {
            shape: tensor.dims().to_vec(),
            dtype: tensor.dtype().as_str().to_owned(),
            device: format!("{:?}", tensor.device().location()).to_lowercase(),
            min,
            mean,
            max,
            std: (squares / seen).sqrt(),
            nan,
            infinite,
            few,
            heat: heat(tensor, min)?,
        })
    }

    /// "[576, 1536] f32 on cpu".
    fn head(&self) -> String {
        format!("{:?} {} on {}", self.shape, self.dtype, self.device)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let number = |value: f64| significant(value, 4).replace('-', "−");
        let mut facts = vec![
            ("min", number(self.min)),
            ("mean", number(self.mean)),
            ("max", number(self.max)),
            ("std", number(self.std)),
        ];
        for (name, count) in [("NaN", self.nan), ("infinite", self.infinite)] {
            if count > 0 {
                facts.push((name, count.to_string()));
            }
        }
        if !self.few.is_empty() {
            let values: Vec<String> = self.few.iter().map(|&value| number(value)).collect();
            facts.push(("values", values.join(", ")));
        }
        facts
    }

    /// One line of text.
    pub fn text(&self) -> String {
        let facts: Vec<String> = self
            .facts()
            .into_iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        format!("Tensor {}; {}", self.head(), facts.join(", "))
    }

    /// The facts and, for a matrix, its heat map.
    pub fn html(&self) -> String {
        let mut html = format!(
            "<div class=\"llmkit-tensor\"><div><b>Tensor</b> {}</div><div>",
            escape_html(&self.head())
        );
        for (name, value) in self.facts() {
            let warning = if matches!(name, "NaN" | "infinite") {
                ";color:#d55e00;font-weight:600"
            } else {
                ""
            };
            html += &format!(
                "<span style=\"margin-right:1.2em{warning}\"><span style=\"opacity:.6\">{name}</span> {}</span>",
                escape_html(&value)
            );
        }
        html += "</div>";
        if let Some(Ok(svg)) = self
            .picture()
            .map(|drawn| drawn.and_then(|drawn| drawn.outlined_svg(1.5)))
        {
            html += &svg;
        }
        html + "</div>"
    }

    /// The heat map of a matrix, drawn.
    pub(super) fn picture(&self) -> Option<Result<Rendered>> {
        self.heat.as_ref().map(Figure::render)
    }
}

/// The heat map of a matrix with at least two rows, two columns and one finite element.
fn heat(tensor: &Tensor, min: f64) -> Result<Option<Figure>> {
    let &[rows, columns] = tensor.dims() else {
        return Ok(None);
    };
    if rows < 2 || columns < 2 || min.is_nan() {
        return Ok(None);
    }
    // A large matrix is looked at through evenly spread rows and columns; block means would blur outliers away.
    let pick = |count: usize| -> Vec<u32> {
        let kept = count.min(SAMPLED);
        (0..kept).map(|i| (i * count / kept) as u32).collect()
    };
    let mut small = tensor.detach();
    if rows > SAMPLED {
        small = small.index_select(&Tensor::new(pick(rows), tensor.device())?, 0)?;
    }
    if columns > SAMPLED {
        small = small.index_select(&Tensor::new(pick(columns), tensor.device())?, 1)?;
    }
    let colours = if min < 0.0 {
        Colours::Diverging
    } else {
        Colours::Sequential
    };
    let aspect = (rows as f64 / columns as f64).clamp(0.35, 1.0) * 0.9;
    let figure = Figure::new("")
        .x(Axis::linear(format!("column of {columns}")))
        .y(Axis::linear(format!("row of {rows}")))
        .heat_map_sampled(&small, [rows, columns], colours)
        .aspect(aspect);
    Ok(Some(figure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn facts_are_over_finite_elements() {
        let tensor = Tensor::new(&[1f32, 3.0, f32::NAN, f32::INFINITY], &Device::Cpu).unwrap();
        let summary = TensorSummary::of(&tensor).unwrap();
        assert_eq!(
            (summary.min, summary.mean, summary.max, summary.std),
            (1.0, 2.0, 3.0, 1.0)
        );
        assert_eq!((summary.nan, summary.infinite), (1, 1));
        let text = summary.text();
        assert!(
            text.contains("[4] f32 on cpu") && text.contains("NaN 1"),
            "{text}"
        );
        assert!(summary.picture().is_none());
    }

    #[test]
    fn every_kind_of_tensor() {
        let cpu = &Device::Cpu;
        for tensor in [
            Tensor::zeros((0, 3), DType::F32, cpu).unwrap(),
            Tensor::zeros((), DType::BF16, cpu).unwrap(),
            Tensor::ones((3, 5), DType::U8, cpu).unwrap(),
            Tensor::full(f32::NAN, (4, 4), cpu).unwrap(),
            Tensor::ones((2, 3, 4), DType::F16, cpu).unwrap(),
            Tensor::randn(0f32, 1.0, (700, 900), cpu).unwrap(),
            Tensor::ones((2, 2), DType::I64, cpu).unwrap().t().unwrap(),
        ] {
            let summary = TensorSummary::of(&tensor).unwrap();
            assert!(summary.html().contains(&format!("{:?}", tensor.dims())));
            if let Some(picture) = summary.picture() {
                let svg = picture.unwrap().outlined_svg(1.0).unwrap();
                assert!(svg.len() < 2_000_000, "{}", svg.len());
            }
        }
    }

    #[test]
    fn large_means_do_not_cancel() {
        let values: Vec<f64> = (0..1000).map(|i| 1e9 + f64::from(i % 2)).collect();
        let summary = TensorSummary::of(&Tensor::new(values, &Device::Cpu).unwrap()).unwrap();
        assert!((summary.std - 0.5).abs() < 1e-6, "{}", summary.std);
    }
}
