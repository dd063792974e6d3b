//! One drawing in every form: SVG by plotters, from it PDF and PNG.

use krilla::geom::Size;
use krilla::metadata::Metadata;
use krilla::page::PageSettings;
use krilla_svg::{SurfaceExt, SvgSettings};
use resvg::{tiny_skia, usvg};

use super::canvas::{Align, Canvas, INCH, Ink, printable};
use super::check::check;
use super::colour::{BLACK, QUIET, WHITE};
use super::frame::Frame;
use super::layers;
use super::layout::Layout;
use super::obstacles::obstacles;
use super::shapes::{Area, Point};
use super::spec::{Figure, Layer, Legend, Panel};
use super::{axes, fonts, legend, marks};
use crate::{Error, Result};

/// Dots per inch of saved pictures.
const PRINT_DPI: f64 = 300.0;

/// A drawn figure.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// Name for errors and metadata.
    name: String,
    /// The drawing, text as text.
    svg: String,
    /// Size on paper, in inches: width, height.
    pub inches: (f64, f64),
    /// What was left out, one sentence each.
    pub notes: Vec<String>,
}

impl Figure {
    /// Draws the figure.
    ///
    /// # Errors
    /// [`Error::Figure`] naming the series or axis that cannot be drawn: unequal lengths, a value ≤ 0 on a
    /// logarithmic axis, categories that do not fit, labels that leave no room.
    pub fn render(&self) -> Result<Rendered> {
        check(self)?;
        let layout = Layout::of(self, self.legend)?;
        let (layout, inner_legend) = self.settle_legend(layout)?;
        let mut svg = String::new();
        let mut canvas = Canvas::new(&mut svg, layout.width, layout.height);
        self.draw(&mut canvas, &layout, inner_legend);
        canvas.finish();
        Ok(Rendered {
            name: self.name(),
            inches: (layout.width / INCH, layout.height / INCH),
            svg: finished(&svg, &layout, self),
            notes: self.notes(),
        })
    }

    /// The figure as SVG, its text as text in the bundled font's name.
    ///
    /// # Errors
    /// As [`Figure::render`].
    pub fn to_svg(&self) -> Result<String> {
        Ok(self.render()?.svg)
    }

    /// Decides whether an automatic legend has a free place inside the plot; if not, makes room above.
    fn settle_legend(&self, layout: Layout) -> Result<(Layout, Option<Area>)> {
        let wants_inside = matches!(self.legend, Legend::Auto | Legend::Inside);
        if layout.entries.is_empty() || !wants_inside {
            return Ok((layout, None));
        }
        let (mut place, mut hidden) = (layout.frames[0].plot, usize::MAX);
        for (panel, frame) in self.panels.iter().zip(&layout.frames) {
            let mut taken = panel_obstacles(panel, frame);
            marks::place(panel, frame, &mut taken, &layout.theme);
            let found = legend::inside(&layout.entries, &frame.plot, &taken, &layout.theme);
            if found.1 < hidden {
                (place, hidden) = found;
            }
        }
        let too_large = place.width() > 0.62 * layout.frames[0].plot.width()
            || place.height() > 0.6 * layout.frames[0].plot.height();
        if self.legend == Legend::Auto && (hidden > 0 || too_large || self.panels.len() > 1) {
            return Ok((Layout::of(self, Legend::Above)?, None));
        }
        Ok((layout, Some(place)))
    }

    fn draw(&self, canvas: &mut Canvas<'_>, layout: &Layout, inner_legend: Option<Area>) {
        let theme = &layout.theme;
        let paper = Area {
            left: 0.0,
            top: 0.0,
            right: layout.width,
            bottom: layout.height,
        };
        canvas.fill(paper, WHITE, 1.0);
        for (row, line) in layout.title.0.iter().enumerate() {
            let ink = Ink {
                size: theme.font,
                colour: BLACK,
                is_bold: true,
            };
            let baseline = layout.title.1 + 1.2 * theme.font * row as f64;
            canvas.text(line, (layout.width / 2.0, baseline), Align::Centre, ink);
        }
        let references = legend::reference_names(self);
        for (panel, frame) in self.panels.iter().zip(&layout.frames) {
            axes::draw_grid(canvas, panel, frame);
            marks::draw_lines(canvas, panel, frame, &references);
            // Areas lie under lines, whatever the order they were given in.
            let is_area = |layer: &&Layer| {
                matches!(
                    layer,
                    Layer::Band { .. } | Layer::Histogram { .. } | Layer::HeatMap { .. }
                )
            };
            let (areas, lines): (Vec<_>, Vec<_>) = panel.layers.iter().partition(is_area);
            for layer in areas.into_iter().chain(lines) {
                let index = layout.names.iter().position(|name| name == layer.name());
                layers::draw(
                    canvas,
                    layer,
                    panel,
                    frame,
                    index.unwrap_or(0),
                    self.legend == Legend::None,
                    theme,
                );
            }
            axes::draw(canvas, panel, frame, theme, (layout.width, layout.height));
            let mut taken = panel_obstacles(panel, frame);
            if taken.is_empty() {
                let middle = (
                    (frame.plot.left + frame.plot.right) / 2.0,
                    (frame.plot.top + frame.plot.bottom) / 2.0,
                );
                let ink = Ink {
                    size: theme.small,
                    colour: QUIET,
                    is_bold: false,
                };
                canvas.text("no data", middle, Align::Centre, ink);
            }
            let words = marks::place(panel, frame, &mut taken, theme);
            marks::draw_words(canvas, &words, theme);
        }
        if let Some(area) = layout.legend {
            let legend = if self.legend == Legend::Outside {
                Legend::Outside
            } else {
                Legend::Above
            };
            legend::draw(canvas, &layout.entries, legend, area, theme);
        } else if let Some(area) = inner_legend {
            legend::draw(canvas, &layout.entries, Legend::Inside, area, theme);
        }
    }
}

fn panel_obstacles(panel: &Panel, frame: &Frame) -> Vec<Point> {
    let all = panel
        .layers
        .iter()
        .flat_map(|layer| obstacles(layer, panel, frame));
    all.filter(|point| frame.plot.holds(*point)).collect()
}

/// plotters' document with its size in inches, round joins, and without what says nothing.
fn finished(svg: &str, layout: &Layout, figure: &Figure) -> String {
    let (width, height) = (layout.width, layout.height);
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let body = body
        .replace(" opacity=\"1\"", "")
        .replace(" stroke=\"none\"", "")
        .replace(" \"/>", "\"/>");
    let title = super::super::emit::escape_html(&printable(&figure.title));
    let title = if title.is_empty() {
        title
    } else {
        format!("<title>{title}</title>\n")
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}in\" height=\"{}in\" viewBox=\"0 0 {width} {height}\" \
         stroke-linejoin=\"round\">\n{title}{}",
        width / INCH,
        height / INCH,
        body.trim_start()
    )
}

impl Rendered {
    fn fail(&self, reason: impl ToString) -> Error {
        Error::Figure {
            figure: self.name.clone(),
            reason: reason.to_string(),
        }
    }

    /// The drawing as SVG: a reader without the bundled font shows its own.
    pub fn svg(&self) -> &str {
        &self.svg
    }

    fn tree(&self) -> Result<usvg::Tree> {
        usvg::Tree::from_str(&self.svg, &fonts::options()).map_err(|error| self.fail(error))
    }

    /// The drawing as SVG with its letters as shapes, `scale` times as large as on paper: the same everywhere.
    ///
    /// # Errors
    /// [`Error::Figure`] if the drawing cannot be read back.
    pub fn outlined_svg(&self, scale: f64) -> Result<String> {
        let options = usvg::WriteOptions {
            coordinates_precision: 3,
            transforms_precision: 6,
            indent: usvg::Indent::None,
            ..usvg::WriteOptions::default()
        };
        let text = self.tree()?.to_string(&options);
        // The tree is in pixels of 1/96 inch; a viewBox lets it be shown at any size.
        let (width, height) = (self.inches.0 * 96.0, self.inches.1 * 96.0);
        let body = text.split_once('>').map_or("", |(_, body)| body);
        Ok(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{:.0}\" viewBox=\"0 0 {width} {height}\">{body}",
            width * scale,
            height * scale
        ))
    }

    /// The drawing as a one-page PDF of its size on paper, fonts embedded as subsets, or letters as shapes.
    ///
    /// # Errors
    /// [`Error::Figure`] if the PDF cannot be made.
    pub fn pdf(&self, outline_text: bool) -> Result<Vec<u8>> {
        let tree = self.tree()?;
        let (width, height) = (self.inches.0 as f32 * 72.0, self.inches.1 as f32 * 72.0);
        let page = PageSettings::from_wh(width, height)
            .ok_or_else(|| self.fail("no page of this size"))?;
        let size = Size::from_wh(width, height).ok_or_else(|| self.fail("no page of this size"))?;
        let mut document = krilla::Document::new();
        // No dates: the same figure gives the same bytes.
        document.set_metadata(
            Metadata::new()
                .title(self.name.clone())
                .creator("llmkit".into()),
        );
        let mut page = document.start_page_with(page);
        let mut surface = page.surface();
        let settings = SvgSettings {
            embed_text: !outline_text,
            ..SvgSettings::default()
        };
        surface
            .draw_svg(&tree, size, settings)
            .ok_or_else(|| self.fail("the drawing does not fit a PDF page"))?;
        surface.finish();
        page.finish();
        document
            .finish()
            .map_err(|error| self.fail(format!("{error:?}")))
    }

    /// The drawing as PNG at 300 dots per inch, which the file says.
    ///
    /// # Errors
    /// [`Error::Figure`] if the picture cannot be made.
    pub fn png(&self) -> Result<Vec<u8>> {
        self.png_at(PRINT_DPI)
    }

    /// The drawing as PNG at `dpi` dots per inch.
    ///
    /// # Errors
    /// [`Error::Figure`] if the picture cannot be made.
    pub fn png_at(&self, dpi: f64) -> Result<Vec<u8>> {
        let pixels = |inches: f64| (inches * dpi).round().clamp(1.0, 20_000.0) as u32;
        let (width, height) = (pixels(self.inches.0), pixels(self.inches.1));
        let mut paper = tiny_skia::Pixmap::new(width, height)
            .ok_or_else(|| self.fail("no picture of this size"))?;
        paper.fill(tiny_skia::Color::WHITE);
        let scale = (dpi / 96.0) as f32;
        resvg::render(
            &self.tree()?,
            tiny_skia::Transform::from_scale(scale, scale),
            &mut paper.as_mut(),
        );
        // The paper is opaque: colours are not premultiplied by anything, alpha says nothing.
        let colours: Vec<u8> = paper
            .data()
            .chunks_exact(4)
            .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]])
            .collect();
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        let per_metre = (dpi / 0.0254).round() as u32;
        encoder.set_pixel_dims(Some(png::PixelDimensions {
            xppu: per_metre,
            yppu: per_metre,
            unit: png::Unit::Meter,
        }));
        let mut writer = encoder.write_header().map_err(|error| self.fail(error))?;
        writer
            .write_image_data(&colours)
            .map_err(|error| self.fail(error))?;
        writer.finish().map_err(|error| self.fail(error))?;
        Ok(file)
    }
}
