//! Plane geometry on paper: clipping, dashes, markers. Points are (x, y) in twips, y downwards.

/// A point on paper.
pub(super) type Point = (f64, f64);

/// A rectangle on paper: left, top, right, bottom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Area {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Area {
    pub fn width(&self) -> f64 {
        self.right - self.left
    }

    pub fn height(&self) -> f64 {
        self.bottom - self.top
    }

    /// Whether the point lies inside, or on the edge up to half a point.
    pub fn holds(&self, (x, y): Point) -> bool {
        (self.left - 10.0..=self.right + 10.0).contains(&x)
            && (self.top - 10.0..=self.bottom + 10.0).contains(&y)
    }

    /// The same, larger by `margin` on each side.
    pub fn grown(&self, margin: f64) -> Area {
        Area {
            left: self.left - margin,
            top: self.top - margin,
            right: self.right + margin,
            bottom: self.bottom + margin,
        }
    }

    /// The part inside `frame`, if any.
    pub fn within(&self, frame: &Area) -> Option<Area> {
        let part = Area {
            left: self.left.max(frame.left),
            top: self.top.max(frame.top),
            right: self.right.min(frame.right),
            bottom: self.bottom.min(frame.bottom),
        };
        (part.left <= part.right && part.top <= part.bottom).then_some(part)
    }
}

/// The part of the segment `a`–`b` inside `area` (Liang and Barsky).
pub(super) fn clip_segment(a: Point, b: Point, area: &Area) -> Option<(Point, Point)> {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    if ![a.0, a.1, dx, dy].iter().all(|part| part.is_finite()) {
        return None;
    }
    let (mut enter, mut leave) = (0.0f64, 1.0f64);
    for (step, room) in [
        (-dx, a.0 - area.left),
        (dx, area.right - a.0),
        (-dy, a.1 - area.top),
        (dy, area.bottom - a.1),
    ] {
        if step == 0.0 {
            if room < 0.0 {
                return None;
            }
        } else if step < 0.0 {
            enter = enter.max(room / step);
        } else {
            leave = leave.min(room / step);
        }
    }
    let at = |t: f64| (a.0 + t * dx, a.1 + t * dy);
    (enter <= leave).then(|| (at(enter), at(leave)))
}

/// The pieces of a line inside `area`; a point that is not finite ends a piece.
pub(super) fn clip_line(points: &[Point], area: &Area) -> Vec<Vec<Point>> {
    let mut pieces: Vec<Vec<Point>> = Vec::new();
    for pair in points.windows(2) {
        let Some((from, to)) = clip_segment(pair[0], pair[1], area) else {
            continue;
        };
        match pieces.last_mut() {
            Some(piece) if piece.last() == Some(&from) => piece.push(to),
            _ => pieces.push(vec![from, to]),
        }
    }
    pieces
}

/// The part of a polygon inside `area` (Sutherland and Hodgman); empty if nothing is.
pub(super) fn clip_polygon(points: &[Point], area: &Area) -> Vec<Point> {
    let mut polygon = points.to_vec();
    for side in 0..4 {
        // Distance into the area from each of its four sides.
        let depth = |(x, y): Point| match side {
            0 => x - area.left,
            1 => area.right - x,
            2 => y - area.top,
            _ => area.bottom - y,
        };
        let mut kept = Vec::with_capacity(polygon.len() + 4);
        for (i, &to) in polygon.iter().enumerate() {
            let from = polygon[(i + polygon.len() - 1) % polygon.len()];
            let (before, now) = (depth(from), depth(to));
            if (before < 0.0) != (now < 0.0) {
                let t = before / (before - now);
                kept.push((from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1)));
            }
            if now >= 0.0 {
                kept.push(to);
            }
        }
        polygon = kept;
    }
    polygon
}

/// Cuts a line into the drawn parts of a dash pattern (lengths on, off, on, off …).
pub(super) fn dashes(points: &[Point], pattern: &[f64]) -> Vec<Vec<Point>> {
    if pattern.is_empty() || pattern.iter().sum::<f64>() <= 0.0 {
        return vec![points.to_vec()];
    }
    let mut drawn = Vec::new();
    let (mut phase, mut left) = (0, pattern[0]);
    let mut current: Vec<Point> = points.first().copied().into_iter().collect();
    for pair in points.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let length = (b.0 - a.0).hypot(b.1 - a.1);
        let mut done = 0.0;
        while length - done > left {
            done += left;
            let t = done / length;
            let cut = (a.0 + t * (b.0 - a.0), a.1 + t * (b.1 - a.1));
            current.push(cut);
            if phase % 2 == 0 {
                drawn.push(std::mem::take(&mut current));
            }
            current = vec![cut];
            phase = (phase + 1) % pattern.len();
            left = pattern[phase];
        }
        left -= length - done;
        current.push(b);
    }
    if phase % 2 == 0 && current.len() > 1 {
        drawn.push(current);
    }
    drawn
}

/// The outline of the `index`-th marker around `centre`; `None` stands for a circle. Colours repeat after seven
/// series; markers and dashes then go with other colours.
pub(super) fn marker(index: usize, (x, y): Point, radius: f64) -> Option<Vec<Point>> {
    let around = |offsets: &[Point]| {
        let point = |&(dx, dy): &Point| (x + dx * radius, y + dy * radius);
        Some(offsets.iter().map(point).collect())
    };
    match (index + index / 7) % 7 {
        0 => None,
        1 => around(&[(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]),
        2 => around(&[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)]),
        3 => around(&[(0.0, -1.3), (1.1, 0.0), (0.0, 1.3), (-1.1, 0.0)]),
        4 => around(&[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)]),
        5 => around(&[
            (-0.4, -1.2),
            (0.4, -1.2),
            (0.4, -0.4),
            (1.2, -0.4),
            (1.2, 0.4),
            (0.4, 0.4),
            (0.4, 1.2),
            (-0.4, 1.2),
            (-0.4, 0.4),
            (-1.2, 0.4),
            (-1.2, -0.4),
            (-0.4, -0.4),
        ]),
        _ => around(&[
            (0.0, -1.2),
            (1.14, -0.37),
            (0.71, 0.97),
            (-0.71, 0.97),
            (-1.14, -0.37),
        ]),
    }
}

/// Dash pattern of the `index`-th series, in widths of its line; the first is solid.
pub(super) fn pattern(index: usize) -> &'static [f64] {
    match (index + index / 7) % 7 {
        0 => &[],
        1 => &[5.0, 2.0],
        2 => &[1.2, 1.6],
        3 => &[6.0, 1.8, 1.2, 1.8],
        4 => &[8.0, 3.0],
        5 => &[3.0, 1.5],
        _ => &[6.0, 1.8, 1.2, 1.8, 1.2, 1.8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Area = Area {
        left: 0.0,
        top: 0.0,
        right: 100.0,
        bottom: 100.0,
    };

    #[test]
    fn lines_end_at_the_frame() {
        let pieces = clip_line(
            &[(-50.0, 50.0), (50.0, 50.0), (50.0, 1e12), (80.0, 80.0)],
            &UNIT,
        );
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0], [(0.0, 50.0), (50.0, 50.0), (50.0, 100.0)]);
        assert!(clip_line(&[(f64::NAN, 0.0), (1.0, 1.0)], &UNIT).is_empty());
        assert!(clip_line(&[(5.0, 5.0)], &UNIT).is_empty());
    }

    #[test]
    fn polygons_end_at_the_frame() {
        let clipped = clip_polygon(
            &[(-10.0, 10.0), (110.0, 10.0), (110.0, 20.0), (-10.0, 20.0)],
            &UNIT,
        );
        assert!(!clipped.is_empty() && clipped.iter().all(|&point| UNIT.holds(point)));
        assert!(clip_polygon(&[(200.0, 200.0), (300.0, 200.0), (200.0, 300.0)], &UNIT).is_empty());
        assert!(clip_polygon(&[], &UNIT).is_empty());
    }

    #[test]
    fn dashes_cover_their_share() {
        let drawn = dashes(&[(0.0, 0.0), (33.0, 0.0), (100.0, 0.0)], &[6.0, 4.0]);
        let total: f64 = drawn
            .iter()
            .flat_map(|dash| dash.windows(2))
            .map(|p| p[1].0 - p[0].0)
            .sum();
        assert!((total - 60.0).abs() < 1e-9, "{drawn:?}");
        assert_eq!(dashes(&[(0.0, 0.0), (1.0, 0.0)], &[]).len(), 1);
    }
}
