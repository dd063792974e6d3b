//! What range the data of a panel has.

use super::scale::Extent;
use super::spec::{Axis, Layer, Mark, Panel, Reference, Scale};

/// What the panel's axes have to show: x and y.
pub(super) fn extents(panel: &Panel) -> (Extent, Extent) {
    let (mut x, mut y) = (Extent::EMPTY, Extent::EMPTY);
    let mut stands = false;
    let is_log = |axis: &Axis| matches!(axis.scale, Scale::Log(_));
    for layer in &panel.layers {
        match layer {
            Layer::Line { x: xs, y: ys, .. } | Layer::Scatter { x: xs, y: ys, .. } => {
                for (a, b) in xs.iter().zip(ys) {
                    if a.get().is_finite() && b.get().is_finite() {
                        x.add(a.get());
                        y.add(b.get());
                    }
                }
            }
            Layer::ErrorBars {
                x: xs,
                y: ys,
                low,
                high,
                ..
            } => {
                xs.iter().for_each(|value| x.add(value.get()));
                ys.iter()
                    .chain(low)
                    .chain(high)
                    .for_each(|value| y.add(value.get()));
            }
            Layer::Band {
                x: xs, low, high, ..
            } => {
                xs.iter().for_each(|value| x.add(value.get()));
                low.iter().chain(high).for_each(|value| y.add(value.get()));
            }
            Layer::Bars { y: ys, error, .. } => {
                for (i, height) in ys.iter().enumerate() {
                    let half = error
                        .as_ref()
                        .and_then(|error| error.get(i))
                        .map_or(0.0, |e| e.get());
                    y.add(height.get());
                    y.add(height.get() + half);
                    if !is_log(&panel.y) {
                        y.add(height.get() - half);
                    }
                }
                stands = true;
            }
            Layer::Histogram { edges, heights, .. } => {
                edges.iter().for_each(|value| x.add(value.get()));
                let shown = heights.iter().map(|height| height.get());
                shown
                    .filter(|height| *height > 0.0)
                    .for_each(|height| y.add(height));
                stands = true;
            }
            Layer::HeatMap {
                shape: [rows, columns],
                ..
            } => {
                for (extent, cells) in [(&mut x, columns), (&mut y, rows)] {
                    extent.join(Extent {
                        low: -0.5,
                        high: *cells as f64 - 0.5,
                        exact: [true, true],
                    });
                }
            }
            Layer::Boxes { boxes, .. } => {
                let values = boxes
                    .iter()
                    .flat_map(|stat| stat.five.iter().chain(&stat.outliers));
                values.for_each(|value| y.add(value.get()));
            }
            Layer::Tasks { start, end, .. } => {
                end.iter().for_each(|value| x.add(value.get()));
                start.iter().for_each(|value| x.add(value.get()));
                x.exact[0] = true;
            }
        }
    }
    if stands {
        stand(&mut y, is_log(&panel.y));
    }
    for mark in &panel.marks {
        match mark {
            Mark::Line {
                line: Reference::Horizontal(value),
                ..
            } => y.add(value.get()),
            Mark::Line {
                line: Reference::Vertical(value),
                ..
            } => x.add(value.get()),
            Mark::Line { .. } => {}
            Mark::Note {
                x: a, y: b, from, ..
            } => {
                x.add(a.get());
                y.add(b.get());
                if let Some([a, b]) = from {
                    x.add(a.get());
                    y.add(b.get());
                }
            }
        }
    }
    // A mark at zero or below has no place on a logarithmic axis.
    for (extent, axis) in [(&mut x, &panel.x), (&mut y, &panel.y)] {
        if is_log(axis) && extent.low <= 0.0 {
            *extent = if extent.high > 0.0 {
                Extent {
                    low: extent.high,
                    ..*extent
                }
            } else {
                Extent::EMPTY
            };
        }
    }
    (x, y)
}

/// Bars stand on zero; on a logarithmic axis, on a third of the smallest.
fn stand(y: &mut Extent, is_log: bool) {
    if !is_log {
        y.add_foot(0.0);
    } else if !y.is_empty() {
        y.add_foot(y.low / 3.0);
    }
}
