//! Spines, ticks and their words, panel titles, colour bars.

use super::super::number::superscript;
use super::canvas::{Align, Canvas, Ink, MIDDLE, POINT, Pen};
use super::colour::{BLACK, GRID, SPINE};
use super::fonts::{fit, width};
use super::frame::{ColourBar, Frame, Words};
use super::layout::Theme;
use super::shapes::Area;
use super::spec::{Panel, Scale};

/// Lines behind the data, at the labelled ticks of axes that are read off.
pub(super) fn draw_grid(canvas: &mut Canvas<'_>, panel: &Panel, frame: &Frame) {
    if frame.bar.is_some() {
        return;
    }
    let pen = Pen::new(GRID, 0.4 * POINT);
    let plot = frame.plot;
    if !matches!(panel.y.scale, Scale::Categories(_)) {
        for (value, _) in &frame.y_ticks.major {
            let (_, y) = frame.point(frame.x.limits()[0], *value);
            canvas.line(&[(plot.left, y), (plot.right, y)], pen);
        }
    } else if !matches!(panel.x.scale, Scale::Categories(_)) {
        for (value, _) in &frame.x_ticks.major {
            let x = plot.left + frame.x.share(*value) * plot.width();
            canvas.line(&[(x, plot.top), (x, plot.bottom)], pen);
        }
    }
}

/// Everything around the plot, drawn over the data's edge.
pub(super) fn draw(
    canvas: &mut Canvas<'_>,
    panel: &Panel,
    frame: &Frame,
    theme: &Theme,
    paper: (f64, f64),
) {
    let plot = frame.plot;
    let spine = Pen::new(SPINE, theme.spine);
    if frame.bar.is_some() {
        canvas.frame(plot, spine);
    } else {
        let corner = [
            (plot.left, plot.top),
            (plot.left, plot.bottom),
            (plot.right, plot.bottom),
        ];
        canvas.line(&corner, spine);
    }
    draw_x(canvas, panel, frame, theme, paper);
    draw_y(canvas, panel, frame, theme, paper);
    if let Some(bar) = &frame.bar {
        draw_bar(canvas, bar, frame, theme);
    }
    if !panel.title.is_empty() {
        let title = fit(&panel.title, theme.font, false, plot.width() * 1.08);
        let lift = if frame.y_ticks.exponent != 0 && frame.is_labelled[1] {
            1.1 * theme.small
        } else {
            0.0
        };
        let at = (
            (plot.left + plot.right) / 2.0,
            plot.top - 0.5 * theme.small - lift,
        );
        canvas.text(&title, at, Align::Centre, ink(theme.font));
    }
}

fn ink(size: f64) -> Ink {
    Ink {
        size,
        colour: BLACK,
        is_bold: false,
    }
}

fn draw_x(canvas: &mut Canvas<'_>, panel: &Panel, frame: &Frame, theme: &Theme, paper: (f64, f64)) {
    let plot = frame.plot;
    let spine = Pen::new(SPINE, theme.spine);
    let is_named = matches!(panel.x.scale, Scale::Categories(_));
    let place = |value: f64| plot.left + frame.x.share(value) * plot.width();
    for value in &frame.x_ticks.minor {
        let x = place(*value);
        canvas.line(
            &[(x, plot.bottom), (x, plot.bottom + 0.6 * theme.tick)],
            spine,
        );
    }
    let words_top = plot.bottom + theme.tick + theme.gap;
    let mut below = words_top;
    for (i, (value, _)) in frame.x_ticks.major.iter().enumerate() {
        let x = place(*value);
        if !is_named {
            canvas.line(&[(x, plot.bottom), (x, plot.bottom + theme.tick)], spine);
        }
        if !frame.is_labelled[0] {
            continue;
        }
        match &frame.x_words {
            Words::Lines(labels) => {
                for (row, line) in labels.get(i).into_iter().flatten().enumerate() {
                    let down = words_top + (0.75 + 1.1 * row as f64) * frame.x_size;
                    canvas.text(line, (x, down), Align::Centre, ink(frame.x_size));
                    below = below.max(words_top + 1.1 * frame.x_size * (row + 1) as f64);
                }
            }
            Words::Upwards(labels) => {
                let Some(label) = labels.get(i) else { continue };
                let at = (x + MIDDLE * theme.small, words_top);
                canvas.text_upwards(label, at, Align::Right, ink(theme.small));
                below = below.max(words_top + width(label, theme.small, false));
            }
        }
    }
    if frame.is_labelled[0] {
        for (row, line) in frame.x_label.iter().enumerate() {
            let half = width(line, theme.font, false) / 2.0;
            let middle = inside((plot.left + plot.right) / 2.0, half, paper.0);
            let down = below + theme.gap + (0.72 + 1.1 * row as f64) * theme.font;
            canvas.text(line, (middle, down), Align::Centre, ink(theme.font));
        }
    }
}

fn draw_y(canvas: &mut Canvas<'_>, panel: &Panel, frame: &Frame, theme: &Theme, paper: (f64, f64)) {
    let plot = frame.plot;
    let spine = Pen::new(SPINE, theme.spine);
    let is_named = matches!(panel.y.scale, Scale::Categories(_));
    let place = |value: f64| frame.point(frame.x.limits()[0], value).1;
    for value in &frame.y_ticks.minor {
        let y = place(*value);
        canvas.line(&[(plot.left - 0.6 * theme.tick, y), (plot.left, y)], spine);
    }
    let words_right = plot.left - theme.tick - theme.gap;
    for (value, label) in &frame.y_ticks.major {
        let y = place(*value);
        if !is_named {
            canvas.line(&[(plot.left - theme.tick, y), (plot.left, y)], spine);
        }
        if frame.is_labelled[1] {
            let label = fit(label, theme.small, false, frame.y_room + 1.0);
            canvas.text(
                &label,
                (words_right, y + MIDDLE * theme.small),
                Align::Right,
                ink(theme.small),
            );
        }
    }
    if frame.is_labelled[1] {
        if frame.y_ticks.exponent != 0 {
            let factor = format!("×10{}", superscript(frame.y_ticks.exponent));
            let at = (plot.left, plot.top - 0.45 * theme.small);
            canvas.text(&factor, at, Align::Left, ink(theme.small));
        }
        for (row, line) in frame.y_label.iter().rev().enumerate() {
            let half = width(line, theme.font, false) / 2.0;
            let middle = inside((plot.top + plot.bottom) / 2.0, half, paper.1);
            let x = words_right - frame.y_room - theme.gap - (0.3 + 1.1 * row as f64) * theme.font;
            canvas.text_upwards(line, (x, middle), Align::Centre, ink(theme.font));
        }
    }
}

/// The middle of a label of this half-length, moved so that it lies on the paper.
fn inside(middle: f64, half: f64, paper: f64) -> f64 {
    let edge = POINT;
    middle.min(paper - half - edge).max(half + edge)
}

fn draw_bar(canvas: &mut Canvas<'_>, bar: &ColourBar, frame: &Frame, theme: &Theme) {
    let plot = frame.plot;
    let spine = Pen::new(SPINE, theme.spine);
    let left = plot.right + 2.0 * theme.gap;
    let area = Area {
        left,
        right: left + 3.0 * theme.gap,
        ..plot
    };
    const STEPS: usize = 64;
    for step in 0..STEPS {
        let (low, high) = (step as f64 / STEPS as f64, (step + 1) as f64 / STEPS as f64);
        let colour = super::colour::mapped(bar.is_diverging, (low + high) / 2.0);
        // Each step runs on under the next, so that no white line shows between them.
        let overlap = if step + 1 < STEPS { 6.0 } else { 0.0 };
        let part = Area {
            top: (area.bottom - high * area.height() - overlap).max(area.top),
            bottom: area.bottom - low * area.height(),
            ..area
        };
        canvas.fill(part, colour, 1.0);
    }
    canvas.frame(area, spine);
    for value in &bar.ticks.minor {
        let y = area.bottom - bar.map.share(*value) * area.height();
        canvas.line(
            &[(area.right, y), (area.right + 0.6 * theme.tick, y)],
            spine,
        );
    }
    for (value, label) in &bar.ticks.major {
        let y = area.bottom - bar.map.share(*value) * area.height();
        canvas.line(&[(area.right, y), (area.right + theme.tick, y)], spine);
        let at = (
            area.right + theme.tick + theme.gap,
            y + MIDDLE * theme.small,
        );
        canvas.text(label, at, Align::Left, ink(theme.small));
    }
    if bar.ticks.exponent != 0 {
        let factor = format!("×10{}", superscript(bar.ticks.exponent));
        let at = (area.left, area.top - 0.45 * theme.small);
        canvas.text(&factor, at, Align::Left, ink(theme.small));
    }
    let label = fit(&bar.label, theme.font, false, plot.height() * 1.2);
    let x = area.right + theme.tick + 2.0 * theme.gap + bar.room + 0.85 * theme.font;
    canvas.text_upwards(
        &label,
        (x, (plot.top + plot.bottom) / 2.0),
        Align::Centre,
        ink(theme.font),
    );
}
