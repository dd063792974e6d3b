//! What the data covers, as points, so that legends and words can keep clear of it.

use super::areas::{bar_area, slot, slot_ends};
use super::canvas::POINT;
use super::frame::Frame;
use super::layers::points;
use super::shapes::{Area, Point, clip_line};
use super::spec::{Layer, Panel};

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
