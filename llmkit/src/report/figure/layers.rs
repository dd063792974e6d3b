//! Drawing the data.

use super::canvas::{Canvas, POINT, Pen};
use super::colour::series;
use super::frame::Frame;
use super::layout::Theme;
use super::shapes::{Point, clip_line, clip_polygon, clip_segment, pattern};
use super::spec::{Layer, Panel};
use super::values::Num;
use super::{areas, heat};

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
        Layer::HeatMap {
            columns, values, ..
        } => heat::draw(canvas, *columns, values, frame, theme),
        Layer::Bars { .. }
        | Layer::Histogram { .. }
        | Layer::Boxes { .. }
        | Layer::Tasks { .. } => areas::draw(canvas, layer, panel, frame, index, is_named, theme),
    }
}

pub(super) fn points(frame: &Frame, x: &[Num], y: &[Num]) -> Vec<Point> {
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

/// A vertical interval with caps, where the plot shows it.
pub(super) fn whisker(
    canvas: &mut Canvas<'_>,
    frame: &Frame,
    ends: [Point; 2],
    cap: f64,
    pen: Pen,
) {
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
