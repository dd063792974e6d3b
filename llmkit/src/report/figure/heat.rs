//! Drawing a matrix as coloured cells, with their numbers where there is room.

use super::super::number::significant;
use super::canvas::{Align, Canvas, Ink, MIDDLE};
use super::colour::{BLACK, WHITE, brightness};
use super::fonts::width;
use super::frame::Frame;
use super::layout::Theme;
use super::shapes::Area;
use super::values::Num;

/// Draws the cells of a matrix, row by row.
pub(super) fn draw(
    canvas: &mut Canvas<'_>,
    columns: usize,
    values: &[Num],
    frame: &Frame,
    theme: &Theme,
) {
    let Some(bar) = &frame.bar else { return };
    let rows = values.len() / columns;
    let plot = frame.plot;
    let edge_x = |column: usize| plot.left + plot.width() * column as f64 / columns as f64;
    let edge_y = |row: usize| plot.top + plot.height() * row as f64 / rows as f64;
    for (row, cells) in values.chunks(columns).enumerate() {
        let mut start = 0;
        for run in cells.chunk_by(|a, b| bar.colour(a.get()) == bar.colour(b.get())) {
            let end = start + run.len();
            // Cells run on under their right and lower neighbours: no white lines between them.
            let area = Area {
                left: edge_x(start),
                top: edge_y(row),
                right: (edge_x(end) + 8.0).min(plot.right),
                bottom: (edge_y(row + 1) + 8.0).min(plot.bottom),
            };
            canvas.fill(area, bar.colour(run[0].get()), 1.0);
            start = end;
        }
    }
    // Numbers in the cells, if all of them have room.
    let words = cell_words(values);
    let widest = words
        .iter()
        .take(200)
        .map(|word| width(word, theme.small, false))
        .fold(0.0, f64::max);
    let cell = (plot.width() / columns as f64, plot.height() / rows as f64);
    if values.len() > 200 || widest > 0.85 * cell.0 || 1.3 * theme.small > cell.1 {
        return;
    }
    for (i, word) in words.iter().enumerate() {
        let middle = (
            edge_x(i % columns) + 0.5 * cell.0,
            edge_y(i / columns) + 0.5 * cell.1,
        );
        let colour = if brightness(bar.colour(values[i].get())) < 0.5 {
            WHITE
        } else {
            BLACK
        };
        let ink = Ink {
            size: theme.small,
            colour,
            is_bold: false,
        };
        canvas.text(
            word,
            (middle.0, middle.1 + MIDDLE * theme.small),
            Align::Centre,
            ink,
        );
    }
}

/// The cells' numbers: two digits of the largest, the same decimals for all; two digits each if they differ a
/// thousandfold. A missing cell says nothing.
fn cell_words(values: &[Num]) -> Vec<String> {
    let sizes = || {
        values
            .iter()
            .map(|v| v.get().abs())
            .filter(|v| v.is_finite() && *v > 0.0)
    };
    let (least, most) = (
        sizes().fold(f64::INFINITY, f64::min),
        sizes().fold(0.0, f64::max),
    );
    // Zero has no logarithm: a matrix of zeros shows whole zeros.
    let decimals = if most > 0.0 {
        (1.0 - most.log10().floor()).max(0.0)
    } else {
        0.0
    };
    let word = |value: f64| match value {
        v if !v.is_finite() => String::new(),
        v if most / least > 1e3 || decimals > 3.0 => significant(v, 2),
        v => {
            let text = format!("{v:.*}", decimals as usize);
            let is_zero = !text.contains(|c: char| ('1'..='9').contains(&c));
            if is_zero {
                text.trim_start_matches('-').to_owned()
            } else {
                text
            }
        }
    };
    values
        .iter()
        .map(|v| word(v.get()).replace('-', "−"))
        .collect()
}
