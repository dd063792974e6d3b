//! Sharing out the paper: title, legend, panels, and around each panel its labels.

use super::canvas::{INCH, POINT};
use super::extent::extents;
use super::fonts::wrap;
use super::frame::{Frame, Margins};
use super::legend::{self, Entry};
use super::scale::Extent;
use super::shapes::Area;
use super::spec::{Figure, Legend};
use crate::{Error, Result};

/// Sizes in twips.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    /// Axis labels and titles.
    pub font: f64,
    /// Tick labels, legends, annotations.
    pub small: f64,
    /// Data lines.
    pub line: f64,
    /// Spines and ticks.
    pub spine: f64,
    /// Length of a labelled tick.
    pub tick: f64,
    /// Between a tick and its label, a label and its neighbour.
    pub gap: f64,
    /// Radius of a marker.
    pub marker: f64,
}

/// Where everything goes.
#[derive(Debug)]
pub(super) struct Layout {
    pub theme: Theme,
    pub width: f64,
    pub height: f64,
    /// Lines of the title, the first one's baseline.
    pub title: (Vec<String>, f64),
    pub frames: Vec<Frame>,
    pub entries: Vec<Entry>,
    /// Where the legend's rows start, if it is not inside a panel.
    pub legend: Option<Area>,
    /// Names of all series, in order of first appearance: the index chooses colour, marker and dash.
    pub names: Vec<String>,
}

impl Theme {
    pub fn of(figure: &Figure) -> Theme {
        let font = figure.venue.font_points() * POINT;
        Theme {
            font,
            small: (font - POINT).max(6.5 * POINT),
            line: figure.venue.line_points() * POINT,
            spine: 0.5 * POINT,
            tick: 2.5 * POINT,
            gap: 2.0 * POINT,
            marker: 1.8 * POINT,
        }
    }
}

impl Layout {
    /// Lays out a checked figure with its legend at `legend`.
    pub fn of(figure: &Figure, legend: Legend) -> Result<Layout> {
        let theme = Theme::of(figure);
        let columns = figure.columns.min(figure.panels.len());
        let rows = figure.panels.len().div_ceil(columns);
        let paper_width = figure.venue.width_inches(figure.full_width) * INCH;
        let default_aspect = if figure.panels.len() == 1 {
            if figure.full_width { 0.42 } else { 0.64 }
        } else {
            (0.9 * rows as f64 / columns as f64).clamp(0.25, 1.3)
        };
        let aspect = figure.aspect.map_or(default_aspect, |aspect| aspect.get());
        let paper_height = (paper_width * aspect).round();
        let edge = 1.5 * POINT;
        let mut inner = Area {
            left: edge,
            top: edge,
            right: paper_width - edge,
            bottom: paper_height - edge,
        };

        let lines = wrap(&figure.title, theme.font, true, inner.width(), 2);
        let title = (lines, inner.top + 0.85 * theme.font);
        if !title.0.is_empty() {
            inner.top += theme.font * (1.2 * title.0.len() as f64 + 0.25);
        }

        let names = legend::names(figure);
        let entries = legend::entries(figure, &names);
        let mut legend_area = None;
        if !entries.is_empty() {
            let place = legend::reserve(&entries, legend, &mut inner, &theme);
            legend_area = place;
        }

        let shared = figure.shared_axes.then(|| {
            figure.panels.iter().map(extents).fold(
                (Extent::EMPTY, Extent::EMPTY),
                |(mut x, mut y), (panel_x, panel_y)| {
                    x.join(panel_x);
                    y.join(panel_y);
                    (x, y)
                },
            )
        });
        let cell = (inner.width() / columns as f64, inner.height() / rows as f64);
        let mut frames = Vec::with_capacity(figure.panels.len());
        for (i, panel) in figure.panels.iter().enumerate() {
            let is_labelled = [
                !figure.shared_axes || i + columns >= figure.panels.len(),
                !figure.shared_axes || i % columns == 0,
            ];
            let frame =
                Frame::measure(panel, shared, is_labelled, cell, &theme).map_err(|error| {
                    Error::Figure {
                        figure: figure.name(),
                        reason: error.to_string(),
                    }
                })?;
            frames.push(frame);
        }

        // Plots of one size: each column and row takes the largest margin its panels need.
        let margins: Vec<Margins> = figure
            .panels
            .iter()
            .zip(&frames)
            .map(|(panel, frame)| frame.margins(panel, &theme))
            .collect();
        let most = |of: &dyn Fn(&Margins) -> f64, keep: &dyn Fn(usize) -> bool| {
            margins
                .iter()
                .enumerate()
                .filter(|(i, _)| keep(*i))
                .map(|(_, margin)| of(margin))
                .fold(0.0, f64::max)
        };
        let column_margins: Vec<(f64, f64)> = (0..columns)
            .map(|column| {
                let keep = |i: usize| i % columns == column;
                (most(&|m| m.left, &keep), most(&|m| m.right, &keep))
            })
            .collect();
        let row_margins: Vec<(f64, f64)> = (0..rows)
            .map(|row| {
                let keep = |i: usize| i / columns == row;
                (most(&|m| m.top, &keep), most(&|m| m.bottom, &keep))
            })
            .collect();
        let across = 5.0 * POINT;
        let taken_x: f64 = column_margins
            .iter()
            .map(|(left, right)| left + right)
            .sum();
        let taken_y: f64 = row_margins.iter().map(|(top, bottom)| top + bottom).sum();
        let plot_width = (inner.width() - taken_x - across * (columns - 1) as f64) / columns as f64;
        let plot_height = (inner.height() - taken_y - across * (rows - 1) as f64) / rows as f64;
        if plot_width < 0.25 * INCH || plot_height < 0.2 * INCH {
            return Err(Error::Figure {
                figure: figure.name(),
                reason: format!(
                    "labels leave {:.2} × {:.2} in for each plot; expected a larger aspect, the full width, fewer panels or shorter labels",
                    plot_width / INCH,
                    plot_height / INCH
                ),
            });
        }
        for (i, frame) in frames.iter_mut().enumerate() {
            let (column, row) = (i % columns, i / columns);
            let before =
                |margins: &[(f64, f64)]| -> f64 { margins.iter().map(|(a, b)| a + b).sum() };
            let left = inner.left
                + before(&column_margins[..column])
                + column_margins[column].0
                + (plot_width + across) * column as f64;
            let top = inner.top
                + before(&row_margins[..row])
                + row_margins[row].0
                + (plot_height + across) * row as f64;
            frame.plot = Area {
                left: left.round(),
                top: top.round(),
                right: (left + plot_width).round(),
                bottom: (top + plot_height).round(),
            };
        }
        Ok(Layout {
            theme,
            width: paper_width,
            height: paper_height,
            title,
            frames,
            entries,
            legend: legend_area,
            names,
        })
    }
}
