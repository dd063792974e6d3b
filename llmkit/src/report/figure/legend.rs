//! Names of the series: collecting, placing and drawing them.

use super::areas::block;
use super::canvas::{Align, Canvas, Ink, MIDDLE, POINT, Pen};
use super::colour::{BLACK, QUIET, SPINE, WHITE, series, tint};
use super::fonts::{fit, width};
use super::layers::MANY_POINTS;
use super::layout::Theme;
use super::marks::reference_dash;
use super::shapes::{Area, Point, pattern};
use super::spec::{Figure, Layer, Legend, Mark, Reference};

/// One row of the legend.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub name: String,
    sample: Sample,
    /// Room before the name, the same in all rows, in sizes of the letters.
    room: f64,
}

/// What stands before the name.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sample {
    Series {
        index: usize,
        has_line: bool,
        has_marker: bool,
        fill: Fill,
    },
    Reference(usize),
}

/// The area of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fill {
    None,
    Band,
    Block,
    Outline,
    Box,
}

/// Names of all series in order of first appearance; the place is the series' index.
pub(super) fn names(figure: &Figure) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for layer in figure.panels.iter().flat_map(|panel| &panel.layers) {
        let is_series = !matches!(layer, Layer::HeatMap { .. });
        if is_series && !names.iter().any(|name| name == layer.name()) {
            names.push(layer.name().to_owned());
        }
    }
    names
}

/// The labels of sloped reference lines, in order; the place chooses the dash.
pub(super) fn reference_names(figure: &Figure) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for mark in figure.panels.iter().flat_map(|panel| &panel.marks) {
        if let Mark::Line { line, label } = mark
            && !matches!(line, Reference::Horizontal(_) | Reference::Vertical(_))
            && !label.is_empty()
            && !names.contains(label)
        {
            names.push(label.clone());
        }
    }
    names
}

/// The legend's rows.
pub(super) fn entries(figure: &Figure, names: &[String]) -> Vec<Entry> {
    let layers = || figure.panels.iter().flat_map(|panel| &panel.layers);
    let of_series = names
        .iter()
        .enumerate()
        .filter(|(_, name)| !name.is_empty());
    let mut entries: Vec<Entry> = of_series
        .map(|(index, name)| {
            let (mut has_line, mut has_marker, mut fill) = (false, false, Fill::None);
            for layer in layers().filter(|layer| layer.name() == name) {
                match layer {
                    Layer::Line { markers, x, .. } => {
                        has_line = true;
                        has_marker |= *markers && x.len() <= MANY_POINTS;
                    }
                    Layer::Scatter { .. } | Layer::ErrorBars { .. } => has_marker = true,
                    Layer::Band { .. } => fill = Fill::Band,
                    Layer::Histogram { .. } => fill = Fill::Outline,
                    Layer::Boxes { .. } => fill = Fill::Box,
                    Layer::Bars { .. } | Layer::Tasks { .. } => fill = Fill::Block,
                    Layer::HeatMap { .. } => {}
                }
            }
            Entry {
                name: name.clone(),
                sample: Sample::Series {
                    index,
                    has_line,
                    has_marker,
                    fill,
                },
                room: match (has_line, fill) {
                    (true, _) | (_, Fill::Band) => 2.6,
                    (false, Fill::None) => 1.0,
                    _ => 1.8,
                },
            }
        })
        .collect();
    let references = reference_names(figure).into_iter().enumerate();
    entries.extend(references.map(|(index, name)| Entry {
        name,
        sample: Sample::Reference(index),
        room: 2.6,
    }));
    if entries.len() == 1
        && figure.legend == Legend::Auto
        && matches!(entries[0].sample, Sample::Series { .. })
    {
        entries.clear();
    }
    let room = entries.iter().map(|entry| entry.room).fold(0.0, f64::max);
    entries.iter_mut().for_each(|entry| entry.room = room);
    entries
}

fn row_height(theme: &Theme) -> f64 {
    1.25 * theme.small
}

fn entry_width(entry: &Entry, theme: &Theme) -> f64 {
    entry.room * theme.small + theme.gap * 1.5 + width(&entry.name, theme.small, false)
}

/// Rows of entries that fit side by side into `room`.
fn rows<'a>(entries: &'a [Entry], room: f64, theme: &Theme) -> Vec<Vec<&'a Entry>> {
    let between = theme.small;
    let mut rows: Vec<Vec<&Entry>> = vec![Vec::new()];
    let mut used = 0.0;
    for entry in entries {
        let needed = entry_width(entry, theme) + between;
        let is_full = used + needed > room + between;
        if let Some(row) = rows.last_mut().filter(|row| row.is_empty() || !is_full) {
            row.push(entry);
            used += needed;
        } else {
            rows.push(vec![entry]);
            used = needed;
        }
    }
    rows
}

/// Takes the legend's room out of `inner`, if it is to stand outside the plots.
pub(super) fn reserve(
    entries: &[Entry],
    legend: Legend,
    inner: &mut Area,
    theme: &Theme,
) -> Option<Area> {
    match legend {
        Legend::Outside => {
            let widest = entries
                .iter()
                .map(|entry| entry_width(entry, theme))
                .fold(0.0, f64::max);
            let room = widest.min(0.42 * inner.width());
            let area = Area {
                left: inner.right - room,
                ..*inner
            };
            inner.right = area.left - 2.0 * theme.gap;
            Some(area)
        }
        Legend::Above => {
            let rows = rows(entries, inner.width(), theme).len() as f64;
            let area = Area {
                bottom: inner.top + rows * row_height(theme),
                ..*inner
            };
            inner.top = area.bottom + theme.gap;
            Some(area)
        }
        Legend::Auto | Legend::Inside | Legend::None => None,
    }
}

/// The place inside `plot` that hides the fewest of `obstacles`, and how many it hides.
pub(super) fn inside(
    entries: &[Entry],
    plot: &Area,
    obstacles: &[Point],
    theme: &Theme,
) -> (Area, usize) {
    let widest = entries
        .iter()
        .map(|entry| entry_width(entry, theme))
        .fold(0.0, f64::max);
    let pad = 1.5 * theme.gap;
    let size = (
        (widest + 2.0 * pad).min(plot.width()),
        (entries.len() as f64 * row_height(theme) + pad).min(plot.height()),
    );
    let places = [
        (1.0, 0.0),
        (0.0, 0.0),
        (1.0, 1.0),
        (0.0, 1.0),
        (0.5, 0.0),
        (0.5, 1.0),
        (1.0, 0.5),
        (0.0, 0.5),
    ];
    let margin = theme.gap;
    places
        .into_iter()
        .map(|(right, down)| {
            let left = plot.left + margin + right * (plot.width() - size.0 - 2.0 * margin);
            let top = plot.top + margin + down * (plot.height() - size.1 - 2.0 * margin);
            let area = Area {
                left,
                top,
                right: left + size.0,
                bottom: top + size.1,
            };
            let hidden = obstacles.iter().filter(|&&(x, y)| {
                (area.left..=area.right).contains(&x) && (area.top..=area.bottom).contains(&y)
            });
            (area, hidden.count())
        })
        .min_by_key(|(_, hidden)| *hidden)
        .unwrap_or((*plot, usize::MAX))
}

/// Draws the legend into `area`: in rows, or one entry below the other.
pub(super) fn draw(
    canvas: &mut Canvas<'_>,
    entries: &[Entry],
    legend: Legend,
    area: Area,
    theme: &Theme,
) {
    let height = row_height(theme);
    if legend == Legend::Above {
        for (row, members) in rows(entries, area.width(), theme).iter().enumerate() {
            let total: f64 = members
                .iter()
                .map(|entry| entry_width(entry, theme) + theme.small)
                .sum();
            let mut left = area.left + ((area.width() - total + theme.small) / 2.0).max(0.0);
            for entry in members {
                let at = (left, area.top + (row as f64 + 0.5) * height);
                draw_entry(canvas, entry, at, area.right, theme);
                left += entry_width(entry, theme) + theme.small;
            }
        }
        return;
    }
    let mut pad = (0.0, theme.small * 0.5);
    if legend != Legend::Outside {
        canvas.fill(area, WHITE, 0.82);
        pad = (1.5 * theme.gap, 0.75 * theme.gap);
    }
    for (row, entry) in entries.iter().enumerate() {
        let at = (
            area.left + pad.0,
            area.top + pad.1 + (row as f64 + 0.5) * height,
        );
        if at.1 + 0.4 * height <= area.bottom {
            draw_entry(canvas, entry, at, area.right, theme);
        }
    }
}

fn draw_entry(
    canvas: &mut Canvas<'_>,
    entry: &Entry,
    (left, middle): Point,
    limit: f64,
    theme: &Theme,
) {
    let right = left + entry.room * theme.small;
    let ends = [(left, middle), (right, middle)];
    let centre = ((left + right) / 2.0, middle);
    let tall = 0.36 * theme.small;
    let area = Area {
        left,
        top: middle - tall,
        right,
        bottom: middle + tall,
    };
    match entry.sample {
        Sample::Series {
            index,
            has_line,
            has_marker,
            fill,
        } => {
            let colour = series(index);
            match fill {
                Fill::None => {}
                Fill::Band => canvas.fill(area, colour, 0.22),
                Fill::Block => block(canvas, area, index, theme),
                Fill::Outline => {
                    canvas.fill(area, colour, 0.25);
                    canvas.frame(area, Pen::new(colour, 0.8 * theme.line));
                }
                Fill::Box => {
                    canvas.fill(area, tint(colour, 0.45), 1.0);
                    canvas.frame(area, Pen::new(SPINE, 0.7 * POINT));
                }
            }
            if has_line {
                canvas.line(&ends, Pen::new(colour, theme.line).dashed(pattern(index)));
            }
            if has_marker {
                canvas.marker(index, centre, theme.marker, colour, 0.3 * POINT);
            }
        }
        Sample::Reference(index) => {
            canvas.line(
                &ends,
                Pen::new(QUIET, 0.7 * POINT).dashed(reference_dash(index)),
            );
        }
    }
    let ink = Ink {
        size: theme.small,
        colour: BLACK,
        is_bold: false,
    };
    let from = right + theme.gap * 1.5;
    let name = fit(&entry.name, theme.small, false, limit - from + 1.0);
    canvas.text(
        &name,
        (from, middle + MIDDLE * theme.small),
        Align::Left,
        ink,
    );
}
