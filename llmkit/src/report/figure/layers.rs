//! Drawing the data.

use super::super::number::significant;
use super::canvas::{Align, Canvas, Ink, MIDDLE, POINT, Pen};
use super::colour::{BLACK, SPINE, WHITE, brightness, series, tint};
use super::fonts::width;
use super::layout::{Frame, Theme};
use super::shapes::{Area, Point, clip_line, clip_polygon, clip_segment, pattern};
use super::spec::{Layer, Panel, Stat};
use super::values::Num;

/// From this many points on, a line has no markers.
pub(super) const MANY_POINTS: usize = 25;

/// Draws one layer, the series of which is the `index`-th of the figure. Tasks carry their names (`is_named`) where
/// no legend does.
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
        Layer::Line { x, y, markers, .. } => {
            let points = points(frame, x, y);
            let pen = Pen::new(colour, theme.line).dashed(pattern(index));
            for piece in clip_line(&points, &frame.plot) {
                canvas.line(&thin(piece), pen);
            }
            let is_alone = |i: usize| {
                let broken =
                    |j: Option<&Point>| j.is_none_or(|p| !p.0.is_finite() || !p.1.is_finite());
                broken(i.checked_sub(1).and_then(|j| points.get(j))) && broken(points.get(i + 1))
            };
            for (i, &point) in points.iter().enumerate() {
                // A point without neighbours has no line to show it.
                if (*markers && points.len() <= MANY_POINTS || is_alone(i))
                    && frame.plot.holds(point)
                {
                    canvas.marker(index, point, theme.marker, colour, 0.3 * POINT);
                }
            }
        }
        Layer::Scatter { x, y, .. } => {
            let many = x.len() > 300;
            let (radius, edge) = if many {
                (0.55 * theme.marker, 0.0)
            } else {
                (theme.marker, 0.3 * POINT)
            };
            let grain = if x.len() > 3000 { radius } else { 8.0 };
            let mut drawn = std::collections::HashSet::new();
            for point in points(frame, x, y) {
                // Points that would hide each other are drawn once.
                let cell = ((point.0 / grain) as i64, (point.1 / grain) as i64);
                if frame.plot.holds(point) && (!many || drawn.insert(cell)) {
                    canvas.marker(index, point, radius, colour, edge);
                }
            }
        }
        Layer::ErrorBars {
            x, y, low, high, ..
        } => {
            let pen = Pen::new(colour, 0.7 * theme.line);
            for (i, point) in points(frame, x, y).into_iter().enumerate() {
                let ends = [low[i], high[i]].map(|end| frame.point(x[i].get(), end.get()));
                whisker(canvas, frame, ends, 1.2 * theme.marker, pen);
                if frame.plot.holds(point) {
                    canvas.marker(index, point, theme.marker, colour, 0.0);
                }
            }
        }
        Layer::Band { x, low, high, .. } => {
            let (low, high) = (points(frame, x, low), points(frame, x, high));
            let is_whole = |i: &usize| {
                [low[*i].0, low[*i].1, high[*i].1]
                    .iter()
                    .all(|v| v.is_finite())
            };
            let whole: Vec<usize> = (0..low.len()).collect();
            for run in whole.split(|i| !is_whole(i)).filter(|run| run.len() > 1) {
                let there = run.iter().map(|&i| high[i]);
                let back = run.iter().rev().map(|&i| low[i]);
                let outline: Vec<Point> = there.chain(back).collect();
                canvas.polygon(&clip_polygon(&outline, &frame.plot), colour, 0.22);
            }
        }
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
        Layer::HeatMap {
            columns, values, ..
        } => heat_map(canvas, *columns, values, frame, theme),
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

fn points(frame: &Frame, x: &[Num], y: &[Num]) -> Vec<Point> {
    x.iter()
        .zip(y)
        .map(|(x, y)| frame.point(x.get(), y.get()))
        .collect()
}

/// Drops points of a line that would fall on the same hundredth of an inch as both neighbours' extremes.
fn thin(piece: Vec<Point>) -> Vec<Point> {
    const COLUMN: f64 = 12.0;
    if piece.len() < 2000 {
        return piece;
    }
    let mut thinned: Vec<Point> = Vec::new();
    for run in piece.chunk_by(|a, b| (a.0 / COLUMN).floor() == (b.0 / COLUMN).floor()) {
        let by_y = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
        let extremes = [run.iter().min_by(by_y), run.iter().max_by(by_y)];
        let last = run.len() - 1;
        let keeps =
            |i: usize, point: &Point| i == 0 || i == last || extremes.contains(&Some(point));
        thinned.extend(
            run.iter()
                .enumerate()
                .filter(|(i, point)| keeps(*i, point))
                .map(|(_, point)| *point),
        );
    }
    thinned
}

/// Which of the panel's layers of its kind this is, and how many there are.
fn slot(panel: &Panel, layer: &Layer, is_kin: impl Fn(&Layer) -> bool) -> (usize, usize) {
    let kin: Vec<&Layer> = panel.layers.iter().filter(|other| is_kin(other)).collect();
    let place = kin
        .iter()
        .position(|other| std::ptr::eq(*other, layer))
        .unwrap_or(0);
    (place, kin.len().max(1))
}

/// Where the `slot`-th of `slots` bars of a category begins and ends along its axis.
fn slot_ends(category: usize, slot: usize, slots: usize) -> (f64, f64) {
    let whole = if slots == 1 { 0.6 } else { 0.8 };
    let each = whole / slots as f64;
    let left = category as f64 - whole / 2.0 + each * slot as f64;
    (left, left + each)
}

/// A bar's place, clipped to the plot; `None` if there is nothing to draw.
fn bar_area(frame: &Frame, left: f64, right: f64, height: f64) -> Option<Area> {
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

/// A vertical interval with caps, where the plot shows it.
fn whisker(canvas: &mut Canvas<'_>, frame: &Frame, ends: [Point; 2], cap: f64, pen: Pen) {
    let Some((from, to)) = clip_segment(ends[0], ends[1], &frame.plot) else {
        return;
    };
    canvas.line(&[from, to], pen);
    for (end, shown) in [(ends[0], from), (ends[1], to)] {
        if end == shown {
            canvas.line(&[(end.0 - cap, end.1), (end.0 + cap, end.1)], pen);
        }
    }
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

fn heat_map(canvas: &mut Canvas<'_>, columns: usize, values: &[Num], frame: &Frame, theme: &Theme) {
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
    let decimals = 1 - most.log10().floor() as i64;
    let word = |value: f64| match value {
        v if !v.is_finite() => String::new(),
        v if most / least > 1e3 || !(0..=3).contains(&decimals.max(0)) => significant(v, 2),
        v => {
            let text = format!("{v:.*}", decimals.max(0) as usize);
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

/// Points that the layer covers, for finding a place for the legend.
pub(super) fn obstacles(layer: &Layer, panel: &Panel, frame: &Frame) -> Vec<Point> {
    let step = 4.0 * POINT;
    let along = |points: &[Point]| -> Vec<Point> {
        let mut all = Vec::new();
        for piece in clip_line(points, &frame.plot) {
            for pair in piece.windows(2) {
                let length = (pair[1].0 - pair[0].0).hypot(pair[1].1 - pair[0].1);
                let parts = (length / step).ceil().max(1.0) as usize;
                all.extend((0..=parts).map(|i| {
                    let t = i as f64 / parts as f64;
                    (
                        pair[0].0 + t * (pair[1].0 - pair[0].0),
                        pair[0].1 + t * (pair[1].1 - pair[0].1),
                    )
                }));
            }
        }
        all
    };
    let over = |area: Option<Area>| -> Vec<Point> {
        let Some(area) = area else { return Vec::new() };
        let count = |length: f64| (length / step).ceil().max(1.0) as usize;
        let (across, down) = (count(area.width()), count(area.height()));
        (0..=across * (down + 1))
            .map(|i| {
                let (x, y) = (i % (across + 1), i / (across + 1));
                (
                    area.left + area.width() * x as f64 / across as f64,
                    area.top + area.height() * (y.min(down)) as f64 / down as f64,
                )
            })
            .collect()
    };
    match layer {
        Layer::Line { x, y, .. } => {
            let points = points(frame, x, y);
            let mut all = along(&points);
            all.extend(points);
            all
        }
        Layer::Scatter { x, y, .. } => points(frame, x, y),
        Layer::ErrorBars {
            x, y, low, high, ..
        } => {
            let mut all = points(frame, x, y);
            for ((x, low), high) in x.iter().zip(low).zip(high) {
                all.extend(along(&[
                    frame.point(x.get(), low.get()),
                    frame.point(x.get(), high.get()),
                ]));
            }
            all
        }
        Layer::Band { x, low, high, .. } => {
            let mut all = along(&points(frame, x, low));
            all.extend(along(&points(frame, x, high)));
            all
        }
        Layer::Bars { y, error, .. } => {
            let (slot, slots) = slot(panel, layer, |other| matches!(other, Layer::Bars { .. }));
            let tops = y.iter().enumerate().map(|(i, y)| {
                y.get()
                    + error
                        .as_ref()
                        .and_then(|error| error.get(i))
                        .map_or(0.0, |e| e.get().abs())
            });
            tops.enumerate()
                .flat_map(|(category, top)| {
                    let (left, right) = slot_ends(category, slot, slots);
                    over(bar_area(frame, left, right, top))
                })
                .collect()
        }
        Layer::Histogram { edges, heights, .. } => heights
            .iter()
            .zip(edges.windows(2))
            .filter(|(height, _)| height.get() > 0.0)
            .flat_map(|(height, ends)| {
                over(bar_area(frame, ends[0].get(), ends[1].get(), height.get()))
            })
            .collect(),
        Layer::HeatMap { .. } => over(Some(frame.plot)),
        Layer::Boxes { boxes, .. } => {
            let (slot, slots) = slot(panel, layer, |other| matches!(other, Layer::Boxes { .. }));
            boxes
                .iter()
                .flat_map(|stat| {
                    let (left, right) = slot_ends(stat.category, slot, slots);
                    let corners = [
                        frame.point(left, stat.five[4].get()),
                        frame.point(right, stat.five[0].get()),
                    ];
                    let mut all = over(
                        Area {
                            left: corners[0].0,
                            top: corners[0].1,
                            right: corners[1].0,
                            bottom: corners[1].1,
                        }
                        .within(&frame.plot),
                    );
                    all.extend(
                        stat.outliers
                            .iter()
                            .map(|v| frame.point((left + right) / 2.0, v.get())),
                    );
                    all
                })
                .collect()
        }
        Layer::Tasks {
            lane, start, end, ..
        } => lane
            .iter()
            .zip(start.iter().zip(end))
            .flat_map(|(lane, (start, end))| {
                let from = frame.point(start.get(), *lane as f64 - 0.36);
                let to = frame.point(end.get(), *lane as f64 + 0.36);
                over(
                    Area {
                        left: from.0,
                        top: from.1,
                        right: to.0,
                        bottom: to.1,
                    }
                    .within(&frame.plot),
                )
            })
            .collect(),
    }
}
