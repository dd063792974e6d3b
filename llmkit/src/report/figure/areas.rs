//! Drawing bars, histograms, boxes and tasks: what fills an area of paper.

use super::canvas::{Align, Canvas, Ink, MIDDLE, POINT, Pen};
use super::colour::{BLACK, SPINE, WHITE, brightness, series, tint};
use super::fonts::width;
use super::frame::Frame;
use super::layers::whisker;
use super::layout::Theme;
use super::shapes::{Area, clip_line, clip_polygon, clip_segment};
use super::spec::{Layer, Panel, Stat};
use super::values::Num;

/// Draws a layer that fills areas; others are not its business.
pub(super) fn draw(
    canvas: &mut Canvas<'_>,
    layer: &Layer,
    panel: &Panel,
    frame: &Frame,
    index: usize,
    is_named: bool,
    theme: &Theme,
) {
    let colour = series(index);
    match layer {
        Layer::Bars { y, error, .. } => {
            let (slot, slots) = slot(panel, layer, |other| matches!(other, Layer::Bars { .. }));
            for (category, height) in y.iter().enumerate() {
                let (left, right) = slot_ends(category, slot, slots);
                let Some(area) = bar_area(frame, left, right, height.get()) else {
                    continue;
                };
                block(canvas, area, index, theme);
                if let Some(half) = error.as_ref().and_then(|error| error.get(category)) {
                    let middle = (left + right) / 2.0;
                    let floor = frame.y.limits()[0];
                    let ends = [height.get() - half.get(), height.get() + half.get()]
                        .map(|end| frame.point(middle, end.max(floor)));
                    let cap = (0.25 * area.width()).min(1.5 * theme.marker);
                    whisker(canvas, frame, ends, cap, Pen::new(BLACK, 0.7 * POINT));
                }
            }
        }
        Layer::Histogram { edges, heights, .. } => {
            let mut outline = Vec::with_capacity(2 * edges.len() + 2);
            let foot = frame.y.foot();
            for (height, ends) in heights.iter().zip(edges.windows(2)) {
                let top = height.get().max(foot);
                outline.push(frame.point(ends[0].get(), top));
                outline.push(frame.point(ends[1].get(), top));
            }
            if let (Some(first), Some(last)) = (edges.first(), edges.last()) {
                outline.insert(0, frame.point(first.get(), foot));
                outline.push(frame.point(last.get(), foot));
            }
            canvas.polygon(&clip_polygon(&outline, &frame.plot), colour, 0.25);
            for piece in clip_line(&outline, &frame.plot) {
                canvas.line(&piece, Pen::new(colour, 0.8 * theme.line));
            }
        }
        Layer::Boxes { boxes, .. } => {
            let (slot, slots) = slot(panel, layer, |other| matches!(other, Layer::Boxes { .. }));
            for stat in boxes {
                draw_box(
                    canvas,
                    stat,
                    slot_ends(stat.category, slot, slots),
                    frame,
                    index,
                    theme,
                );
            }
        }
        Layer::Tasks {
            lane,
            start,
            end,
            name,
        } => {
            for ((lane, start), end) in lane.iter().zip(start).zip(end) {
                let middle = *lane as f64;
                let from = frame.point(start.get(), middle - 0.36);
                let to = frame.point(end.get(), middle + 0.36);
                let area = Area {
                    left: from.0,
                    top: from.1,
                    right: to.0.max(from.0 + 6.0),
                    bottom: to.1,
                };
                if let Some(area) = area.within(&frame.plot).filter(|_| from.0.is_finite()) {
                    if is_named {
                        canvas.fill(area, colour, 1.0);
                    } else {
                        block(canvas, area, index, theme);
                    }
                    canvas.frame(area, Pen::new(WHITE, 0.4 * POINT));
                    if is_named {
                        task_name(canvas, name, area, index, theme);
                    }
                }
            }
        }
        _ => {}
    }
}

/// A task's name inside its bar, if there is room.
fn task_name(canvas: &mut Canvas<'_>, name: &str, area: Area, index: usize, theme: &Theme) {
    let fits = width(name, theme.small, false) + 2.0 * theme.gap <= area.width()
        && area.height() >= theme.small;
    if fits {
        let colour = if brightness(series(index)) < 0.55 {
            WHITE
        } else {
            BLACK
        };
        let at = (
            (area.left + area.right) / 2.0,
            (area.top + area.bottom) / 2.0 + MIDDLE * theme.small,
        );
        let ink = Ink {
            size: theme.small,
            colour,
            is_bold: false,
        };
        canvas.text(name, at, Align::Centre, ink);
    }
}

/// Which of the panel's layers of its kind this is, and how many there are.
pub(super) fn slot(
    panel: &Panel,
    layer: &Layer,
    is_kin: impl Fn(&Layer) -> bool,
) -> (usize, usize) {
    let kin: Vec<&Layer> = panel.layers.iter().filter(|other| is_kin(other)).collect();
    let place = kin
        .iter()
        .position(|other| std::ptr::eq(*other, layer))
        .unwrap_or(0);
    (place, kin.len().max(1))
}

/// Where the `slot`-th of `slots` bars of a category begins and ends along its axis.
pub(super) fn slot_ends(category: usize, slot: usize, slots: usize) -> (f64, f64) {
    let whole = if slots == 1 { 0.6 } else { 0.8 };
    let each = whole / slots as f64;
    let left = category as f64 - whole / 2.0 + each * slot as f64;
    (left, left + each)
}

/// A bar's place, clipped to the plot; `None` if there is nothing to draw.
pub(super) fn bar_area(frame: &Frame, left: f64, right: f64, height: f64) -> Option<Area> {
    let (from, to) = (
        frame.point(left, frame.y.foot()),
        frame.point(right, height),
    );
    let area = Area {
        left: from.0,
        top: from.1.min(to.1),
        right: to.0,
        bottom: from.1.max(to.1),
    };
    let is_real = [area.left, area.top, area.right, area.bottom]
        .iter()
        .all(|v| v.is_finite());
    is_real.then(|| area.within(&frame.plot)).flatten()
}

/// Slopes of the white lines that tell filled series apart without colour.
fn hatch(index: usize) -> &'static [f64] {
    match index % 6 {
        0 | 2 => &[],
        1 => &[1.0],
        3 => &[-1.0],
        4 => &[1.0, -1.0],
        _ => &[0.0],
    }
}

/// A filled rectangle in the series' colour and hatching.
pub(super) fn block(canvas: &mut Canvas<'_>, area: Area, index: usize, theme: &Theme) {
    canvas.fill(area, series(index), 1.0);
    let pen = Pen::new(WHITE, 0.45 * POINT);
    let step = 0.55 * theme.small;
    for &slope in hatch(index) {
        let reach = area.height() + area.width() * f64::abs(slope);
        // Lines are fixed to the paper, not to the bar, so that neighbours match; at most a few hundred a bar.
        let first = ((area.top - area.width()) / step).floor() * step;
        for i in 0..((reach + area.width()) / step) as usize + 2 {
            if i > 600 {
                break;
            }
            let start = first + i as f64 * step;
            let rise = slope * area.width();
            let a = (area.left, start + if slope < 0.0 { 0.0 } else { rise });
            let b = (area.right, start + if slope < 0.0 { -rise } else { 0.0 });
            if let Some((a, b)) = clip_segment(a, b, &area) {
                canvas.line(&[a, b], pen);
            }
        }
    }
}

fn draw_box(
    canvas: &mut Canvas<'_>,
    stat: &Stat,
    (left, right): (f64, f64),
    frame: &Frame,
    index: usize,
    theme: &Theme,
) {
    let inset = (right - left) * 0.08;
    let (left, right) = (left + inset, right - inset);
    let middle = (left + right) / 2.0;
    let [low, q1, median, q3, high] = stat.five.map(Num::get);
    let edge = Pen::new(SPINE, 0.7 * POINT);
    let (bottom_left, top_right) = (frame.point(left, q1), frame.point(right, q3));
    let cap = 0.2 * (top_right.0 - bottom_left.0);
    for (from, to) in [(q1, low), (q3, high)] {
        let ends = [frame.point(middle, from), frame.point(middle, to)];
        if let Some((a, b)) = clip_segment(ends[0], ends[1], &frame.plot) {
            canvas.line(&[a, b], edge);
            canvas.line(&[(b.0 - cap, b.1), (b.0 + cap, b.1)], edge);
        }
    }
    let area = Area {
        left: bottom_left.0,
        top: top_right.1,
        right: top_right.0,
        bottom: bottom_left.1,
    };
    if let Some(area) = area.within(&frame.plot) {
        canvas.fill(area, tint(series(index), 0.45), 1.0);
        canvas.frame(area, edge);
        let level = frame.point(middle, median).1;
        canvas.line(
            &[(area.left, level), (area.right, level)],
            Pen::new(BLACK, 1.2 * POINT),
        );
    }
    for value in &stat.outliers {
        let point = frame.point(middle, value.get());
        if frame.plot.holds(point) {
            canvas.marker(0, point, 0.5 * theme.marker, SPINE, 0.0);
        }
    }
}
