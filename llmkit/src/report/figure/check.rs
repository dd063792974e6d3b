//! What is refused, what is left out and said, and what range the data has.

use super::spec::{Axis, Colours, Figure, Layer, Panel, Scale, VERSION};
use super::values::Num;
use crate::{Error, Result};

/// Most panels of one figure.
const MAX_PANELS: usize = 64;

/// Whether the figure can be drawn.
///
/// # Errors
/// [`Error::Figure`] that names the panel or series and says what is wrong with it.
pub(super) fn check(figure: &Figure) -> Result<()> {
    let refuse = |reason: String| {
        Err(Error::Figure {
            figure: figure.name(),
            reason,
        })
    };
    if figure.version != VERSION {
        return refuse(format!(
            "expected version {VERSION}, got {}",
            figure.version
        ));
    }
    if let Some(problem) = &figure.problem {
        return refuse(problem.clone());
    }
    if figure.panels.is_empty() || figure.panels.len() > MAX_PANELS || figure.columns == 0 {
        return refuse(format!(
            "expected 1 to {MAX_PANELS} panels in 1 or more columns, got {} in {}",
            figure.panels.len(),
            figure.columns
        ));
    }
    if let Some(aspect) = figure.aspect
        && !(0.05..=10.0).contains(&aspect.get())
    {
        return refuse(format!(
            "expected an aspect from 0.05 to 10, got {}",
            aspect.get()
        ));
    }
    for panel in &figure.panels {
        let different = figure.shared_axes
            && (std::mem::discriminant(&panel.x.scale)
                != std::mem::discriminant(&figure.panels[0].x.scale)
                || std::mem::discriminant(&panel.y.scale)
                    != std::mem::discriminant(&figure.panels[0].y.scale));
        if different {
            return refuse(format!(
                "shared axes need equal scales; panel {:?} differs",
                panel.title
            ));
        }
        for layer in &panel.layers {
            if let Err(reason) = check_layer(layer, panel) {
                return refuse(format!("series {:?}: {reason}", layer.name()));
            }
        }
    }
    Ok(())
}

fn check_layer(layer: &Layer, panel: &Panel) -> Result<(), String> {
    let lengths = |parts: &[(&str, &[Num])]| -> Result<(), String> {
        let first = parts[0].1.len();
        match parts.iter().find(|(_, values)| values.len() != first) {
            None => Ok(()),
            Some((what, values)) => Err(format!(
                "expected equal lengths, got {first} {} values and {} {what} values",
                parts[0].0,
                values.len()
            )),
        }
    };
    let on = |axis: &Axis, what: &str, values: &[Num]| positive_on_log(axis, what, values);
    match layer {
        Layer::Line { x, y, .. } | Layer::Scatter { x, y, .. } => {
            lengths(&[("x", x), ("y", y)])?;
            on(&panel.x, "x", x)?;
            on(&panel.y, "y", y)
        }
        Layer::Bars { y, error, .. } => {
            let Scale::Categories(names) = &panel.x.scale else {
                return Err("bars need an x axis made by Axis::categories".into());
            };
            if y.len() != names.len() {
                return Err(format!(
                    "expected one bar for each of {} categories, got {}",
                    names.len(),
                    y.len()
                ));
            }
            if let Some(error) = error {
                lengths(&[("height", y), ("error", error)])?;
            }
            on(&panel.y, "height", y)
        }
        Layer::ErrorBars {
            x, y, low, high, ..
        } => {
            lengths(&[("x", x), ("y", y), ("low", low), ("high", high)])?;
            on(&panel.x, "x", x)?;
            [("y", y), ("low", low), ("high", high)]
                .iter()
                .try_for_each(|(what, values)| on(&panel.y, what, values))
        }
        Layer::Band { x, low, high, .. } => {
            lengths(&[("x", x), ("low", low), ("high", high)])?;
            on(&panel.x, "x", x)?;
            on(&panel.y, "low", low)?;
            on(&panel.y, "high", high)
        }
        Layer::Histogram { edges, heights, .. } => {
            let ascend = edges.windows(2).all(|pair| pair[0].get() < pair[1].get());
            let fit = edges.len() == heights.len() + 1 || edges.is_empty() && heights.is_empty();
            if !ascend || !fit {
                return Err(format!(
                    "expected ascending edges, one more than heights, got {} edges and {} heights",
                    edges.len(),
                    heights.len()
                ));
            }
            on(&panel.x, "edge", edges)
        }
        Layer::HeatMap {
            shape: [rows, columns],
            columns: kept,
            values,
            colours,
            ..
        } => {
            if *rows == 0
                || *columns == 0
                || *kept == 0
                || values.is_empty()
                || !values.len().is_multiple_of(*kept)
            {
                return Err(format!(
                    "expected rows of {kept} cells, got {} values",
                    values.len()
                ));
            }
            for (axis, cells, what) in [(&panel.x, columns, "columns"), (&panel.y, rows, "rows")] {
                match &axis.scale {
                    Scale::Categories(names) if names.len() != *cells => {
                        return Err(format!(
                            "expected {cells} categories for the {what}, got {}",
                            names.len()
                        ));
                    }
                    Scale::Categories(_) | Scale::Linear => {}
                    _ => return Err("heat maps need linear or category axes".into()),
                }
            }
            match values.iter().find(|value| value.get() <= 0.0) {
                Some(value) if *colours == Colours::SequentialLog => Err(format!(
                    "expected positive values for logarithmic colours, got {}",
                    value.get()
                )),
                _ => Ok(()),
            }
        }
        Layer::Boxes { boxes, .. } => {
            let Scale::Categories(names) = &panel.x.scale else {
                return Err("box plots need an x axis of categories".into());
            };
            for stat in boxes {
                if stat.category >= names.len() {
                    return Err(format!(
                        "expected a category below {}, got {}",
                        names.len(),
                        stat.category
                    ));
                }
                on(&panel.y, "value", &stat.five)?;
                on(&panel.y, "value", &stat.outliers)?;
            }
            Ok(())
        }
        Layer::Tasks {
            lane, start, end, ..
        } => {
            let Scale::Categories(names) = &panel.y.scale else {
                return Err("tasks need a y axis of categories (their lanes)".into());
            };
            lengths(&[("start", start), ("end", end)])?;
            if lane.len() != start.len() || lane.iter().any(|&lane| lane >= names.len()) {
                return Err(format!(
                    "expected {} lanes below {}",
                    start.len(),
                    names.len()
                ));
            }
            if let Some((start, end)) = start
                .iter()
                .zip(end)
                .find(|(start, end)| start.get() > end.get())
            {
                return Err(format!(
                    "expected start ≤ end, got {} to {}",
                    start.get(),
                    end.get()
                ));
            }
            on(&panel.x, "start", start)?;
            on(&panel.x, "end", end)
        }
    }
}

fn positive_on_log(axis: &Axis, what: &str, values: &[Num]) -> Result<(), String> {
    if !matches!(axis.scale, Scale::Log(_)) {
        return Ok(());
    }
    match values
        .iter()
        .position(|value| value.get().is_finite() && value.get() <= 0.0)
    {
        None => Ok(()),
        Some(place) => Err(format!(
            "expected positive values on the logarithmic axis {:?}, got {what} = {} at index {place} (Axis::symlog shows both signs)",
            axis.label,
            values[place].get()
        )),
    }
}

impl Figure {
    /// The name errors use: the title, or that there is none.
    pub(super) fn name(&self) -> String {
        let titles =
            std::iter::once(&self.title).chain(self.panels.iter().map(|panel| &panel.title));
        titles
            .into_iter()
            .find(|title| !title.is_empty())
            .cloned()
            .unwrap_or_else(|| "(untitled)".into())
    }

    /// What is not drawn: thinned points, values that are not finite. One sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        for layer in self.panels.iter().flat_map(|panel| &panel.layers) {
            let parts: Vec<&[Num]> = match layer {
                Layer::Line { x, y, .. } | Layer::Scatter { x, y, .. } => vec![x, y],
                Layer::Bars { y, error, .. } => {
                    std::iter::once(y).chain(error).map(Vec::as_slice).collect()
                }
                Layer::ErrorBars {
                    x, y, low, high, ..
                } => vec![x, y, low, high],
                Layer::Band { x, low, high, .. } => vec![x, low, high],
                Layer::HeatMap { values, .. } => vec![values],
                Layer::Tasks { start, end, .. } => vec![start, end],
                Layer::Histogram { .. } | Layer::Boxes { .. } => vec![],
            };
            let length = parts.first().map_or(0, |part| part.len());
            let broken = (0..length)
                .filter(|&i| {
                    parts
                        .iter()
                        .any(|part| part.get(i).is_some_and(|v| !v.get().is_finite()))
                })
                .count();
            if broken > 0 {
                notes.push(format!(
                    "{}: {broken} of {length} points are not finite and are not drawn",
                    layer.name()
                ));
            }
        }
        notes
    }
}
