//! What a figure shows, point by point: the rows of its CSV file.

use super::spec::{Axis, Figure, Layer, Panel, Scale};
use super::values::Num;
use crate::{Error, Result};

impl Figure {
    /// The data as CSV, one row a point: panel, series, kind, then the columns its kind has.
    ///
    /// # Errors
    /// [`Error::Figure`] if the rows cannot be written.
    pub fn to_csv(&self) -> Result<Vec<u8>> {
        let fail = |error: String| Error::Figure {
            figure: self.name(),
            reason: error,
        };
        let mut table = csv::Writer::from_writer(Vec::new());
        let header = [
            "panel", "series", "kind", "x", "x_end", "y", "low", "high", "value",
        ];
        table
            .write_record(header)
            .map_err(|error| fail(error.to_string()))?;
        for (i, panel) in self.panels.iter().enumerate() {
            let title = if panel.title.is_empty() {
                (i + 1).to_string()
            } else {
                panel.title.clone()
            };
            for layer in &panel.layers {
                for (kind, cells) in rows(layer, panel) {
                    let front = [title.as_str(), layer.name(), kind];
                    let record = front.into_iter().chain(cells.iter().map(String::as_str));
                    table
                        .write_record(record)
                        .map_err(|error| fail(error.to_string()))?;
                }
            }
        }
        table.into_inner().map_err(|error| fail(error.to_string()))
    }
}

/// Rows of a layer: kind, then x, x_end, y, low, high, value.
fn rows<'a>(layer: &'a Layer, panel: &'a Panel) -> Vec<(&'static str, [String; 6])> {
    let number = |value: Num| value.get().to_string();
    let at = |values: &[Num], i: usize| values.get(i).copied().map(number).unwrap_or_default();
    let category = |axis: &Axis, place: usize| match &axis.scale {
        Scale::Categories(names) => names.get(place).cloned().unwrap_or_default(),
        _ => place.to_string(),
    };
    let none = String::new;
    match layer {
        Layer::Line { x, y, .. } => (0..x.len())
            .map(|i| ("line", [at(x, i), none(), at(y, i), none(), none(), none()]))
            .collect(),
        Layer::Scatter { x, y, .. } => (0..x.len())
            .map(|i| {
                (
                    "scatter",
                    [at(x, i), none(), at(y, i), none(), none(), none()],
                )
            })
            .collect(),
        Layer::Bars { y, error, .. } => (0..y.len())
            .map(|i| {
                let half = error
                    .as_ref()
                    .and_then(|error| error.get(i))
                    .map(|half| half.get());
                let end = |sign: f64| {
                    half.map(|half| number(Num::new(y[i].get() + sign * half)))
                        .unwrap_or_default()
                };
                (
                    "bar",
                    [
                        category(&panel.x, i),
                        none(),
                        at(y, i),
                        end(-1.0),
                        end(1.0),
                        none(),
                    ],
                )
            })
            .collect(),
        Layer::ErrorBars {
            x, y, low, high, ..
        } => (0..x.len())
            .map(|i| {
                (
                    "error_bar",
                    [at(x, i), none(), at(y, i), at(low, i), at(high, i), none()],
                )
            })
            .collect(),
        Layer::Band { x, low, high, .. } => (0..x.len())
            .map(|i| {
                (
                    "band",
                    [at(x, i), none(), none(), at(low, i), at(high, i), none()],
                )
            })
            .collect(),
        Layer::Histogram { edges, heights, .. } => (0..heights.len())
            .map(|i| {
                (
                    "histogram",
                    [
                        at(edges, i),
                        at(edges, i + 1),
                        at(heights, i),
                        none(),
                        none(),
                        none(),
                    ],
                )
            })
            .collect(),
        Layer::HeatMap {
            columns, values, ..
        } => (0..values.len())
            .map(|i| {
                let (x, y) = ((i % columns).to_string(), (i / columns).to_string());
                ("heat_map", [x, none(), y, none(), none(), at(values, i)])
            })
            .collect(),
        Layer::Boxes { boxes, .. } => {
            let kinds = [
                "whisker_low",
                "quartile_1",
                "median",
                "quartile_3",
                "whisker_high",
            ];
            boxes
                .iter()
                .flat_map(|stat| {
                    let five = kinds.into_iter().zip(stat.five);
                    let beyond = stat.outliers.iter().map(|&value| ("outlier", value));
                    five.chain(beyond).map(|(kind, value)| {
                        (
                            kind,
                            [
                                category(&panel.x, stat.category),
                                none(),
                                number(value),
                                none(),
                                none(),
                                none(),
                            ],
                        )
                    })
                })
                .collect()
        }
        Layer::Tasks {
            lane, start, end, ..
        } => (0..lane.len())
            .map(|i| {
                (
                    "task",
                    [
                        at(start, i),
                        at(end, i),
                        category(&panel.y, lane[i]),
                        none(),
                        none(),
                        none(),
                    ],
                )
            })
            .collect(),
    }
}
