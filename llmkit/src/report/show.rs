//! What a cell shows: the last expression through [`Show::evcxr_display`], anything else through [`display`].

use polars::prelude::DataFrame;

use super::emit::{Content, emit, escape_html};
use super::figure::{Figure, Rendered, Saved};
use super::table::{table_html, table_text};
use super::tensor::TensorSummary;
use crate::{Error, Result};

/// How much larger than on paper a figure is shown on a screen.
const SCREEN_SCALE: f64 = 2.0;

/// Widest figure on a screen, in pixels.
const SCREEN_WIDTH: f64 = 900.0;

/// Something a notebook shows in its own way.
pub trait Show {
    /// The display's MIME types, richest first.
    fn bundle(&self) -> Vec<(&'static str, Content)>;

    /// Shows it. evcxr calls this for the last expression of a cell.
    fn evcxr_display(&self) {
        emit(&self.bundle());
    }
}

/// Shows `what` now, in the middle of a cell.
pub fn display(what: &(impl Show + ?Sized)) {
    what.evcxr_display();
}

fn text(content: String) -> (&'static str, Content) {
    ("text/plain", Content::Text(content))
}

fn html(content: String) -> (&'static str, Content) {
    ("text/html", Content::Text(content))
}

impl Show for DataFrame {
    fn bundle(&self) -> Vec<(&'static str, Content)> {
        vec![html(table_html(self)), text(table_text(self))]
    }
}

impl Show for Error {
    fn bundle(&self) -> Vec<(&'static str, Content)> {
        let lines = chain(self);
        let (first, causes) = lines
            .split_first()
            .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
        let mut markup = format!(
            "<div style=\"border-left:3px solid #d55e00;padding:2px 8px;white-space:pre-wrap\"><b>Error</b> {}",
            escape_html(first)
        );
        for cause in causes {
            markup += &format!(
                "\n<span style=\"opacity:.75\">caused by: {}</span>",
                escape_html(cause)
            );
        }
        markup += "</div>";
        vec![
            html(markup),
            text(format!("Error: {}", lines.join("\n  caused by: "))),
        ]
    }
}

/// The error's sentence and those of its causes; a cause already told by its effect is not repeated.
fn chain(error: &Error) -> Vec<String> {
    let mut lines = vec![error.to_string()];
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let line = error.to_string();
        if !lines.iter().any(|known| known.contains(&line)) {
            lines.push(line);
        }
        cause = error.source();
    }
    lines
}

impl Show for Figure {
    fn bundle(&self) -> Vec<(&'static str, Content)> {
        match self
            .render()
            .and_then(|rendered| pictures(&rendered, self.summary(&rendered)))
        {
            Ok(bundle) => bundle,
            Err(error) => error.bundle(),
        }
    }

    fn evcxr_display(&self) {
        emit(&self.bundle());
        // A front end shows one form only: what was left out is said beside it.
        for note in self.notes() {
            println!("note: {note}");
        }
    }
}

impl Figure {
    fn summary(&self, rendered: &Rendered) -> String {
        let mut names: Vec<&str> = self
            .panels
            .iter()
            .flat_map(|panel| &panel.layers)
            .map(|layer| layer.name())
            .filter(|name| !name.is_empty())
            .collect();
        // Panels and bands repeat names; each is told once.
        let mut told = std::collections::HashSet::new();
        names.retain(|name| told.insert(*name));
        let (width, height) = rendered.inches;
        let title = if self.title.is_empty() {
            "figure"
        } else {
            &self.title
        };
        format!(
            "[{title}: {width:.2} × {height:.2} in; {}]",
            names.join(", ")
        )
    }
}

/// SVG with letters as shapes (the viewer need not have the font), PNG for viewers without SVG, a line of text.
fn pictures(rendered: &Rendered, summary: String) -> Result<Vec<(&'static str, Content)>> {
    let scale = SCREEN_SCALE.min(SCREEN_WIDTH / (rendered.inches.0 * 96.0));
    Ok(vec![
        (
            "image/svg+xml",
            Content::Text(rendered.outlined_svg(scale)?),
        ),
        ("image/png", Content::Binary(rendered.png_at(96.0 * scale)?)),
        text(summary),
    ])
}

impl Show for Saved {
    fn bundle(&self) -> Vec<(&'static str, Content)> {
        let (width, height) = self.inches;
        let mut lines = vec![format!(
            "saved {}.{{svg,pdf,png,csv,json}}, {width:.2} × {height:.2} in",
            self.stem
        )];
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        vec![text(lines.join("\n"))]
    }
}

impl Show for candle_core::Tensor {
    fn bundle(&self) -> Vec<(&'static str, Content)> {
        match TensorSummary::of(self) {
            Ok(summary) => summary.bundle(),
            Err(error) => error.bundle(),
        }
    }
}

impl Show for TensorSummary {
    fn bundle(&self) -> Vec<(&'static str, Content)> {
        let mut bundle = vec![html(self.html()), text(self.text())];
        // The picture is inside the HTML, which front ends prefer; a plain PNG serves the others.
        if let Some(Ok(png)) = self
            .picture()
            .map(|rendered| rendered.and_then(|rendered| rendered.png_at(150.0)))
        {
            bundle.insert(1, ("image/png", Content::Binary(png)));
        }
        bundle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_show_their_causes() {
        let source = std::io::Error::other("disk <full>");
        let error = Error::Json {
            context: "spec.json".into(),
            source: serde_json::Error::io(source),
        };
        let bundle = error.bundle();
        let Content::Text(html) = &bundle[0].1 else {
            panic!()
        };
        assert!(
            html.contains("spec.json") && html.contains("&lt;full&gt;"),
            "{html}"
        );
    }

    #[test]
    fn a_figure_that_cannot_be_drawn_shows_why() {
        let bundle = Figure::new("t").line("a", &[1.0], &[1.0, 2.0]).bundle();
        assert_eq!(bundle[0].0, "text/html");
        let Content::Text(text) = &bundle[1].1 else {
            panic!()
        };
        assert!(
            text.contains("\"a\"") && text.contains("equal lengths"),
            "{text}"
        );
    }
}
