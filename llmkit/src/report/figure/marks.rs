//! Reference lines and annotations: lines under the data, words where they hide least.

use super::canvas::{Align, Canvas, Ink, POINT, Pen};
use super::colour::{BLACK, QUIET, WHITE};
use super::fonts::{fit, width};
use super::frame::Frame;
use super::layout::Theme;
use super::shapes::{Area, Point, clip_line};
use super::spec::{Mark, Panel, Reference};

/// Words with their place on paper.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placed {
    text: String,
    pub area: Area,
    is_quiet: bool,
    /// The point a thin line leads to.
    leader: Option<Point>,
}

/// Dash pattern of the `index`-th sloped reference line, in widths of its line.
pub(super) fn reference_dash(index: usize) -> &'static [f64] {
    match index % 3 {
        0 => &[5.0, 3.0],
        1 => &[1.5, 2.0],
        _ => &[9.0, 3.0, 1.5, 3.0],
    }
}

/// The reference lines of a panel; `names` are the labels of all sloped ones.
pub(super) fn draw_lines(canvas: &mut Canvas<'_>, panel: &Panel, frame: &Frame, names: &[String]) {
    for mark in &panel.marks {
        let Mark::Line { line, label } = mark else {
            continue;
        };
        let dash = match names.iter().position(|name| name == label) {
            Some(index) => reference_dash(index),
            None => &[2.0, 2.0],
        };
        let pen = Pen::new(QUIET, 0.7 * POINT).dashed(dash);
        for piece in clip_line(&course(line, frame), &frame.plot) {
            canvas.line(&piece, pen);
        }
    }
}

/// The line on paper, longer than the plot.
fn course(line: &Reference, frame: &Frame) -> Vec<Point> {
    let [low, high] = frame.y.limits();
    if let Reference::Vertical(x) = line {
        return [low, high].map(|y| frame.point(x.get(), y)).to_vec();
    }
    const PARTS: u32 = 200;
    (0..=PARTS)
        .map(|part| {
            let x = frame.x.value(f64::from(part) / f64::from(PARTS));
            frame.point(x, line.y_at(x).unwrap_or(f64::NAN))
        })
        .collect()
}

/// Finds places for the panel's words among `obstacles`, to which each placed word is added.
pub(super) fn place(
    panel: &Panel,
    frame: &Frame,
    obstacles: &mut Vec<Point>,
    theme: &Theme,
) -> Vec<Placed> {
    let mut placed = Vec::new();
    for mark in &panel.marks {
        let found = match mark {
            Mark::Line { line, label } => place_label(line, label, frame, obstacles, theme),
            Mark::Note { text, x, y, from } => {
                let point = frame.point(x.get(), y.get());
                let stand = from.map(|[x, y]| frame.point(x.get(), y.get()));
                place_note(text, point, stand, frame, obstacles, theme)
            }
        };
        if let Some(found) = found {
            obstacles.extend(grid(&found.area));
            placed.push(found);
        }
    }
    placed
}

fn size(text: &str, theme: &Theme) -> (f64, f64) {
    (width(text, theme.small, false), theme.small)
}

fn place_label(
    line: &Reference,
    label: &str,
    frame: &Frame,
    obstacles: &[Point],
    theme: &Theme,
) -> Option<Placed> {
    let plot = frame.plot;
    let label = fit(label, theme.small, false, 0.9 * plot.width());
    let (wide, tall) = size(&label, theme);
    let near = theme.gap;
    let at = |left: f64, top: f64| Area {
        left,
        top,
        right: left + wide,
        bottom: top + tall,
    };
    let candidates = match line {
        Reference::Horizontal(y) if frame.y.shows(y.get()) => {
            let level = frame.point(frame.x.limits()[0], y.get()).1;
            let sides = [
                plot.right - wide - near,
                plot.left + near,
                (plot.left + plot.right - wide) / 2.0,
            ];
            let tops = [level - tall - 0.5 * near, level + 0.7 * near];
            tops.iter()
                .flat_map(|&top| sides.map(|left| at(left, top)))
                .collect()
        }
        Reference::Vertical(x) if frame.x.shows(x.get()) => {
            let column = plot.left + frame.x.share(x.get()) * plot.width();
            let tops = [
                plot.top + near,
                plot.bottom - tall - near,
                (plot.top + plot.bottom - tall) / 2.0,
            ];
            let sides = [column + 1.3 * near, column - wide - 1.3 * near];
            tops.iter()
                .flat_map(|&top| sides.map(|left| at(left, top)))
                .collect()
        }
        _ => Vec::new(),
    };
    let area = best(candidates, frame, obstacles).filter(|_| !label.is_empty())?;
    Some(Placed {
        text: label,
        area,
        is_quiet: true,
        leader: None,
    })
}

fn place_note(
    text: &str,
    point: Point,
    stand: Option<Point>,
    frame: &Frame,
    obstacles: &[Point],
    theme: &Theme,
) -> Option<Placed> {
    let is_real = |p: &Point| p.0.is_finite() && p.1.is_finite() && frame.plot.holds(*p);
    if text.is_empty() || !is_real(&point) || stand.as_ref().is_some_and(|p| !is_real(p)) {
        return None;
    }
    let text = fit(text, theme.small, false, 0.95 * frame.plot.width());
    let (wide, tall) = size(&text, theme);
    let around = |(x, y): Point, dx: f64, dy: f64| Area {
        left: x + dx
            - if dx < 0.0 {
                wide
            } else if dx == 0.0 {
                wide / 2.0
            } else {
                0.0
            },
        right: x
            + dx
            + if dx < 0.0 {
                0.0
            } else if dx == 0.0 {
                wide / 2.0
            } else {
                wide
            },
        top: y + dy
            - if dy < 0.0 {
                tall
            } else if dy == 0.0 {
                tall / 2.0
            } else {
                0.0
            },
        bottom: y
            + dy
            + if dy < 0.0 {
                0.0
            } else if dy == 0.0 {
                tall / 2.0
            } else {
                tall
            },
    };
    let candidates = match stand {
        Some(stand) => vec![inward(around(stand, 0.0, 0.0), &frame.plot)],
        None => {
            let far = theme.marker + theme.gap;
            [
                (1.0, -1.0),
                (-1.0, -1.0),
                (1.0, 1.0),
                (-1.0, 1.0),
                (0.0, -1.4),
                (0.0, 1.4),
                (1.6, 0.0),
                (-1.6, 0.0),
            ]
            .map(|(dx, dy)| around(point, dx * far, dy * 0.8 * far))
            .to_vec()
        }
    };
    Some(Placed {
        text,
        area: best(candidates, frame, obstacles)?,
        is_quiet: false,
        leader: stand.map(|_| point),
    })
}

/// The area moved so that it lies inside the plot.
fn inward(area: Area, plot: &Area) -> Area {
    let dx = (plot.left - area.left).max(0.0) - (area.right - plot.right).max(0.0);
    let dy = (plot.top - area.top).max(0.0) - (area.bottom - plot.bottom).max(0.0);
    Area {
        left: area.left + dx,
        right: area.right + dx,
        top: area.top + dy,
        bottom: area.bottom + dy,
    }
}

/// The candidate that hides the fewest obstacles; one that leaves the plot counts as hiding very many.
fn best(candidates: Vec<Area>, frame: &Frame, obstacles: &[Point]) -> Option<Area> {
    candidates
        .into_iter()
        .min_by_key(|area| {
            let moved = inward(*area, &frame.plot);
            let wide = area.grown(1.0 * POINT);
            let hidden = obstacles.iter().filter(|&&(x, y)| {
                (wide.left..=wide.right).contains(&x) && (wide.top..=wide.bottom).contains(&y)
            });
            hidden.count() + if moved == *area { 0 } else { 1000 }
        })
        .map(|area| inward(area, &frame.plot))
}

/// Points that stand for an area among the obstacles.
fn grid(area: &Area) -> Vec<Point> {
    (0..=8)
        .flat_map(|i| {
            let x = area.left + area.width() * f64::from(i) / 8.0;
            [
                (x, area.top),
                (x, (area.top + area.bottom) / 2.0),
                (x, area.bottom),
            ]
        })
        .collect()
}

/// Draws placed words and their leaders.
pub(super) fn draw_words(canvas: &mut Canvas<'_>, placed: &[Placed], theme: &Theme) {
    for Placed {
        text,
        area,
        is_quiet,
        leader,
    } in placed
    {
        if let Some(point) = leader {
            // From the side of the words that faces the point.
            let middle = (
                (area.left + area.right) / 2.0,
                (area.top + area.bottom) / 2.0,
            );
            let room = area.grown(0.5 * theme.gap);
            let from = (
                point.0.clamp(room.left, room.right),
                point.1.clamp(room.top, room.bottom),
            );
            let from = if (from.1 - middle.1).abs() < 0.5 * area.height() {
                (from.0, middle.1)
            } else {
                (
                    from.0.clamp(
                        area.left + 0.2 * area.width(),
                        area.right - 0.2 * area.width(),
                    ),
                    from.1,
                )
            };
            let length = (point.0 - from.0).hypot(point.1 - from.1);
            let stop = 1.0 - ((theme.marker + 1.5 * POINT) / length.max(1.0)).min(1.0);
            let to = (
                from.0 + (point.0 - from.0) * stop,
                from.1 + (point.1 - from.1) * stop,
            );
            canvas.line(&[from, to], Pen::new(QUIET, 0.5 * POINT));
        }
        canvas.fill(area.grown(0.3 * theme.gap), WHITE, 0.75);
        let ink = Ink {
            size: theme.small,
            colour: if *is_quiet { QUIET } else { BLACK },
            is_bold: false,
        };
        canvas.text(
            text,
            (area.left, area.bottom - 0.22 * theme.small),
            Align::Left,
            ink,
        );
    }
}
