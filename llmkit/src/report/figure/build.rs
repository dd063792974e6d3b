//! How a figure is written down in a cell. Nothing here fails: the first mistake is kept and told when it is drawn.

use super::spec::{Axis, Figure, Legend, Mark, Panel, Reference, Scale, VERSION};
use super::venue::Venue;

impl Axis {
    fn new(label: impl Into<String>, scale: Scale) -> Axis {
        Axis {
            label: label.into(),
            scale,
            range: None,
            plain: false,
        }
    }

    /// An even scale.
    pub fn linear(label: impl Into<String>) -> Axis {
        Axis::new(label, Scale::Linear)
    }

    /// Decades: ticks 10⁻¹, 10⁰, 10¹ …
    pub fn log(label: impl Into<String>) -> Axis {
        Axis::new(label, Scale::Log(10))
    }

    /// Octaves: ticks 2⁷, 2⁸ …
    pub fn log2(label: impl Into<String>) -> Axis {
        Axis::new(label, Scale::Log(2))
    }

    /// Even within ±`threshold`, decades beyond it, both signs.
    pub fn symlog(label: impl Into<String>, threshold: f64) -> Axis {
        Axis::new(label, Scale::Symlog(threshold.into()))
    }

    /// One place for each name.
    pub fn categories<S: Into<String>>(
        label: impl Into<String>,
        names: impl IntoIterator<Item = S>,
    ) -> Axis {
        let names = names.into_iter().map(Into::into).collect();
        Axis::new(label, Scale::Categories(names))
    }

    /// Shows exactly `first..last` (first < last).
    pub fn range(mut self, first: f64, last: f64) -> Axis {
        self.range = Some([first.into(), last.into()]);
        self
    }

    /// Ticks of a logarithmic axis as plain numbers.
    pub fn plain(mut self) -> Axis {
        self.plain = true;
        self
    }
}

impl Panel {
    fn empty(title: String) -> Panel {
        Panel {
            title,
            x: Axis::linear(""),
            y: Axis::linear(""),
            layers: Vec::new(),
            marks: Vec::new(),
        }
    }
}

impl Figure {
    /// A figure of one empty panel; an empty title is not drawn.
    pub fn new(title: impl Into<String>) -> Figure {
        Figure {
            version: VERSION,
            title: title.into(),
            venue: Venue::default(),
            full_width: false,
            aspect: None,
            legend: Legend::Auto,
            columns: 1,
            shared_axes: false,
            panels: vec![Panel::empty(String::new())],
            outline_text: false,
            seed: None,
            notes: Vec::new(),
            problem: None,
        }
    }

    /// Small multiples: each figure becomes a panel with its title, `columns` side by side, across the full width.
    pub fn panels(
        title: impl Into<String>,
        columns: usize,
        figures: impl IntoIterator<Item = Figure>,
    ) -> Figure {
        let mut whole = Figure::new(title).full_width();
        whole.panels.clear();
        whole.columns = columns.max(1);
        for figure in figures {
            whole.problem = whole.problem.or(figure.problem);
            whole.notes.extend(figure.notes);
            whole.panels.extend(figure.panels.into_iter().map(|panel| {
                let title = if panel.title.is_empty() {
                    figure.title.clone()
                } else {
                    panel.title.clone()
                };
                Panel { title, ..panel }
            }));
        }
        whole
    }

    pub(super) fn last(&mut self) -> &mut Panel {
        if self.panels.is_empty() {
            self.panels.push(Panel::empty(String::new()));
        }
        let last = self.panels.len() - 1;
        &mut self.panels[last]
    }

    /// The horizontal axis.
    pub fn x(mut self, axis: Axis) -> Figure {
        self.last().x = axis;
        self
    }

    /// The vertical axis.
    pub fn y(mut self, axis: Axis) -> Figure {
        self.last().y = axis;
        self
    }

    /// Where the legend is.
    pub fn legend(mut self, legend: Legend) -> Figure {
        self.legend = legend;
        self
    }

    /// The venue's width, letters and lines.
    pub fn venue(mut self, venue: Venue) -> Figure {
        self.venue = venue;
        self
    }

    /// Across the whole text width.
    pub fn full_width(mut self) -> Figure {
        self.full_width = true;
        self
    }

    /// Height over width of the whole figure.
    pub fn aspect(mut self, height_over_width: f64) -> Figure {
        self.aspect = Some(height_over_width.into());
        self
    }

    /// All panels with the same ranges, labelled at the outer edges only.
    pub fn shared_axes(mut self) -> Figure {
        self.shared_axes = true;
        self
    }

    /// Letters of the saved PDF as shapes, for venues that refuse some font formats.
    pub fn outline_text(mut self) -> Figure {
        self.outline_text = true;
        self
    }

    /// Records the experiment's seed in the manifest.
    pub fn seed(mut self, seed: u64) -> Figure {
        self.seed = Some(seed);
        self
    }

    /// A law or limit, thin and dashed; sloped lines are named in the legend, others beside the line.
    pub fn reference_line(mut self, line: Reference, label: impl Into<String>) -> Figure {
        self.last().marks.push(Mark::Line {
            line,
            label: label.into(),
        });
        self
    }

    /// Words beside the point (x, y).
    pub fn annotate(mut self, text: impl Into<String>, x: f64, y: f64) -> Figure {
        self.last().marks.push(Mark::Note {
            text: text.into(),
            x: x.into(),
            y: y.into(),
            from: None,
        });
        self
    }

    /// Words at `from`, with a thin line to the point `to`, both in data coordinates.
    pub fn annotate_from(
        mut self,
        text: impl Into<String>,
        from: (f64, f64),
        to: (f64, f64),
    ) -> Figure {
        self.last().marks.push(Mark::Note {
            text: text.into(),
            x: to.0.into(),
            y: to.1.into(),
            from: Some([from.0.into(), from.1.into()]),
        });
        self
    }
}
