//! Paper to draw on: plotters' SVG backend, in twips (1/1440 inch), so that its whole pixels are finer than any
//! printer's.

use plotters::backend::{DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color, FontDesc, FontFamily, FontStyle, FontTransform, RGBColor, ShapeStyle, TextStyle,
};

use super::colour::Rgb;
use super::fonts::{FAMILY, PLOTTERS_EM};
use super::shapes::{Area, Point, dashes, marker};

/// Twips in a point.
pub(super) const POINT: f64 = 20.0;
/// Twips in an inch.
pub(super) const INCH: f64 = 1440.0;

/// A pen: colour, width in twips, opacity, dash pattern in widths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pen {
    pub colour: Rgb,
    pub width: f64,
    pub opacity: f64,
    pub dash: &'static [f64],
}

impl Pen {
    pub fn new(colour: Rgb, width: f64) -> Pen {
        Pen {
            colour,
            width,
            opacity: 1.0,
            dash: &[],
        }
    }

    pub fn dashed(self, dash: &'static [f64]) -> Pen {
        Pen { dash, ..self }
    }
}

/// Which point of a line of text is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Align {
    Left,
    Centre,
    Right,
}

/// How a line of text looks: size in twips.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ink {
    pub size: f64,
    pub colour: Rgb,
    pub is_bold: bool,
}

/// Height of a small letter's middle above the baseline, in em: what "centred on a tick" means.
pub(super) const MIDDLE: f64 = 0.31;

/// The paper. Drawing into memory cannot fail, so nothing here returns an error.
pub(super) struct Canvas<'a> {
    backend: SVGBackend<'a>,
}

impl<'a> Canvas<'a> {
    /// Paper of `width` × `height` twips, written into `svg`.
    pub fn new(svg: &'a mut String, width: f64, height: f64) -> Canvas<'a> {
        Canvas {
            backend: SVGBackend::with_string(svg, (width.round() as u32, height.round() as u32)),
        }
    }

    /// Closes the document.
    pub fn finish(mut self) {
        let _ = self.backend.present();
    }

    /// A line through `points`.
    pub fn line(&mut self, points: &[Point], pen: Pen) {
        let pattern: Vec<f64> = pen.dash.iter().map(|part| part * pen.width).collect();
        for piece in dashes(points, &pattern) {
            let mut whole: Vec<(i32, i32)> = piece.into_iter().map(pixel).collect();
            whole.dedup();
            if whole.len() == 1 {
                whole.push(whole[0]);
            }
            let _ = self.backend.draw_path(whole, &pen.style());
        }
    }

    /// A filled polygon.
    pub fn polygon(&mut self, points: &[Point], colour: Rgb, opacity: f64) {
        if points.len() > 2 {
            let points = points.iter().copied().map(pixel);
            let _ = self.backend.fill_polygon(points, &rgb(colour).mix(opacity));
        }
    }

    /// A filled rectangle.
    pub fn fill(&mut self, area: Area, colour: Rgb, opacity: f64) {
        let from = pixel((area.left, area.top));
        let to = pixel((area.right, area.bottom));
        let _ = self
            .backend
            .draw_rect(from, to, &rgb(colour).mix(opacity), true);
    }

    /// The edge of a rectangle.
    pub fn frame(&mut self, area: Area, pen: Pen) {
        let corners = [
            (area.left, area.top),
            (area.right, area.top),
            (area.right, area.bottom),
            (area.left, area.bottom),
            (area.left, area.top),
        ];
        self.line(&corners, pen);
    }

    /// The `index`-th marker, with a thin white edge that parts it from what lies under it.
    pub fn marker(&mut self, index: usize, at: Point, radius: f64, colour: Rgb, edge: f64) {
        match marker(index, at, radius) {
            None => {
                let centre = pixel(at);
                let (outer, inner) = (radius + edge, radius);
                if edge > 0.0 {
                    let white = rgb(super::colour::WHITE);
                    let _ = self
                        .backend
                        .draw_circle(centre, outer.round() as u32, &white, true);
                }
                let _ = self
                    .backend
                    .draw_circle(centre, inner.round() as u32, &rgb(colour), true);
            }
            Some(outline) => {
                if edge > 0.0 {
                    let mut closed = outline.clone();
                    closed.extend(outline.iter().take(2));
                    self.line(&closed, Pen::new(super::colour::WHITE, edge * 2.0));
                }
                self.polygon(&outline, colour, 1.0);
            }
        }
    }

    /// One line of text whose baseline runs through `at`.
    pub fn text(&mut self, text: &str, at: Point, align: Align, ink: Ink) {
        self.set(
            text,
            (at.0, at.1 - 0.76 * ink.size),
            align,
            ink,
            FontTransform::None,
        );
    }

    /// One line of text that reads upwards, its baseline on the vertical line through `at`.
    pub fn text_upwards(&mut self, text: &str, at: Point, align: Align, ink: Ink) {
        self.set(
            text,
            (at.0 - 0.76 * ink.size, at.1),
            align,
            ink,
            FontTransform::Rotate270,
        );
    }

    /// plotters hangs text 0.76 em below the given point with `VPos::Top`: the one anchor that all readers of SVG
    /// agree on.
    fn set(&mut self, text: &str, at: Point, align: Align, ink: Ink, turn: FontTransform) {
        if text.is_empty() {
            return;
        }
        let style = if ink.is_bold {
            FontStyle::Bold
        } else {
            FontStyle::Normal
        };
        let font =
            FontDesc::new(FontFamily::Name(FAMILY), ink.size * PLOTTERS_EM, style).transform(turn);
        let h_pos = match align {
            Align::Left => HPos::Left,
            Align::Centre => HPos::Center,
            Align::Right => HPos::Right,
        };
        let colour = rgb(ink.colour);
        let style = TextStyle::from(font)
            .color(&colour)
            .pos(Pos::new(h_pos, VPos::Top));
        let _ = self.backend.draw_text(&printable(text), &style, pixel(at));
    }
}

impl Pen {
    fn style(self) -> ShapeStyle {
        rgb(self.colour)
            .mix(self.opacity)
            .stroke_width(self.width.round().max(1.0) as u32)
    }
}

fn rgb([red, green, blue]: Rgb) -> RGBColor {
    RGBColor(red, green, blue)
}

/// Whole twips. Everything drawn is clipped to the paper before, so the bound is never met.
fn pixel((x, y): Point) -> (i32, i32) {
    let whole = |value: f64| value.round().clamp(-1e6, 1e6) as i32;
    (whole(x), whole(y))
}

/// Without control characters, which XML refuses.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') {
                ' '
            } else {
                c
            }
        })
        .collect()
}
