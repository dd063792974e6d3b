//! What a figure is: plain data that survives JSON.

use serde::{Deserialize, Serialize};

use super::values::Num;
use super::venue::Venue;

/// The version of the JSON form; raised when an old file could no longer be read the same way.
pub(super) const VERSION: u32 = 1;

/// A figure: one or several panels, a legend, and the paper it is made for.
///
/// Built in a cell by chained calls (see [`Figure::new`]); kept as JSON beside its pictures, so that it can be drawn
/// again for another venue without running the experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// Version of this form.
    pub version: u32,
    /// Drawn above the figure; empty = none.
    pub title: String,
    /// Whose style: width, font size, line width.
    pub venue: Venue,
    /// Across the whole text width instead of one column.
    pub full_width: bool,
    /// Height over width of the figure; `None` = chosen from the number of panels.
    pub aspect: Option<Num>,
    /// Where the legend is.
    pub legend: Legend,
    /// Panels side by side.
    pub columns: usize,
    /// Whether all panels have the same ranges, labelled only at the outer edges.
    pub shared_axes: bool,
    /// The panels, row by row.
    pub panels: Vec<Panel>,
    /// Letters of the saved PDF as shapes, for venues that refuse some font formats.
    #[serde(default)]
    pub outline_text: bool,
    /// Seed of the experiment, for the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What was left out while the figure was built (points thinned out).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The first mistake made while building, reported when the figure is drawn.
    #[serde(skip)]
    pub(super) problem: Option<String>,
}

/// One pair of axes and what is drawn on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    /// Drawn above the panel; empty = none.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The data, in drawing order.
    pub layers: Vec<Layer>,
    /// Reference lines and annotations.
    pub marks: Vec<Mark>,
}

/// An axis: its label with the unit in parentheses, its scale, its range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// Label with unit: `"prompt length (tokens)"`.
    pub label: String,
    /// How values are spread.
    pub scale: Scale,
    /// First and last value shown; `None` = from the data.
    pub range: Option<[Num; 2]>,
    /// Ticks of a logarithmic axis as plain numbers (128) instead of powers (2⁷).
    pub plain: bool,
}

/// How values are spread along an axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By the logarithm to this base (2 or 10).
    Log(u32),
    /// Evenly within ± the threshold, by decades beyond it.
    Symlog(Num),
    /// One place for each name: bars, boxes, lanes of a Gantt chart.
    Categories(Vec<String>),
}

/// Where the legend is drawn. A figure in which nothing has a name has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Legend {
    /// In an empty corner if there is one, else above the plot. With one name only: none.
    Auto,
    /// In the corner that hides least.
    Inside,
    /// On the right of the plot.
    Outside,
    /// In rows above the plot.
    Above,
    /// Nowhere.
    None,
}

/// Data drawn on a panel. Series of one name share colour, marker, dash and legend entry in all panels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layer {
    /// Points joined by a line; not joined across NaN. Up to 25 points carry markers if `markers`.
    Line {
        /// Name in the legend.
        name: String,
        /// Places along x.
        x: Vec<Num>,
        /// Places along y.
        y: Vec<Num>,
        /// Whether points are marked.
        markers: bool,
    },
    /// Points.
    Scatter {
        /// Name in the legend.
        name: String,
        /// Places along x.
        x: Vec<Num>,
        /// Places along y.
        y: Vec<Num>,
    },
    /// One bar a category, side by side with the bars of other names; optionally ± an error.
    Bars {
        /// Name in the legend.
        name: String,
        /// Places along y.
        y: Vec<Num>,
        /// Half the interval around each bar.
        error: Option<Vec<Num>>,
    },
    /// Points with intervals `low..high` along y.
    ErrorBars {
        /// Name in the legend.
        name: String,
        /// Places along x.
        x: Vec<Num>,
        /// Places along y.
        y: Vec<Num>,
        /// Lower ends.
        low: Vec<Num>,
        /// Upper ends.
        high: Vec<Num>,
    },
    /// The region between two curves.
    Band {
        /// Name in the legend.
        name: String,
        /// Places along x.
        x: Vec<Num>,
        /// Lower ends.
        low: Vec<Num>,
        /// Upper ends.
        high: Vec<Num>,
    },
    /// Counts or densities between edges (one more edge than heights).
    Histogram {
        /// Name in the legend.
        name: String,
        /// Edges of the bins, ascending.
        edges: Vec<Num>,
        /// One height a bin.
        heights: Vec<Num>,
    },
    /// A matrix, row by row, first row on top; cells lie at 0, 1, 2 … of linear axes, or at categories.
    HeatMap {
        /// Label of the colour bar, with unit.
        label: String,
        /// Rows and columns of the matrix the axes count.
        shape: [usize; 2],
        /// Columns of `values`: fewer than the matrix's if it was reduced to block means.
        columns: usize,
        /// The cells, row by row.
        values: Vec<Num>,
        /// The colours.
        colours: Colours,
    },
    /// Boxes of quartiles, each in its category.
    Boxes {
        /// Name in the legend; empty = none.
        name: String,
        /// The boxes.
        boxes: Vec<Stat>,
    },
    /// Intervals in lanes (categories of the y axis).
    Tasks {
        /// Name in the legend.
        name: String,
        /// Lane (category) of each interval.
        lane: Vec<usize>,
        /// Starts.
        start: Vec<Num>,
        /// Ends.
        end: Vec<Num>,
    },
}

/// Colours of a heat map. The sequential ones have even steps in grey; in grey a diverging one shows magnitudes only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colours {
    /// Dark to light.
    Sequential,
    /// Dark to light by decades; the values must be positive.
    SequentialLog,
    /// Blue to red about zero.
    Diverging,
}

/// One box of a box plot: quartiles, whiskers at the last points within 1.5 interquartile ranges, points beyond.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stat {
    /// Category it stands in.
    pub category: usize,
    /// Lower whisker, first quartile, median, third quartile, upper whisker.
    pub five: [Num; 5],
    /// Points beyond the whiskers.
    pub outliers: Vec<Num>,
}

/// Something drawn over or under the data that is not data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mark {
    /// A law or limit, drawn thin and dashed under the data.
    Line {
        /// The line.
        line: Reference,
        /// Its name.
        label: String,
    },
    /// Words near a point; with `from`, they stand there and a thin line leads to the point.
    Note {
        /// The words.
        text: String,
        /// Where, along x.
        x: Num,
        /// Where, along y.
        y: Num,
        /// Where the words stand, if not beside the point.
        from: Option<[Num; 2]>,
    },
}

/// A reference line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// y = value.
    Horizontal(Num),
    /// x = value.
    Vertical(Num),
    /// y = slope · x + intercept.
    Slope {
        /// Rise per unit of x.
        slope: Num,
        /// Value at x = 0.
        intercept: Num,
    },
    /// y = coefficient · x^exponent (a straight line where both axes are logarithmic), for x > 0.
    Power {
        /// The exponent.
        exponent: Num,
        /// Value at x = 1.
        coefficient: Num,
    },
    /// y = coefficient · base^x, for x of either sign.
    Exponential {
        /// The base.
        base: Num,
        /// Value at x = 0.
        coefficient: Num,
    },
}

impl Layer {
    /// The series' name; for a heat map the label of its colour bar.
    pub fn name(&self) -> &str {
        match self {
            Layer::Line { name, .. }
            | Layer::Scatter { name, .. }
            | Layer::Bars { name, .. }
            | Layer::ErrorBars { name, .. }
            | Layer::Band { name, .. }
            | Layer::Histogram { name, .. }
            | Layer::Boxes { name, .. }
            | Layer::Tasks { name, .. } => name,
            Layer::HeatMap { label, .. } => label,
        }
    }
}

impl Reference {
    /// y = `value`.
    pub fn horizontal(value: f64) -> Reference {
        Reference::Horizontal(value.into())
    }

    /// x = `value`.
    pub fn vertical(value: f64) -> Reference {
        Reference::Vertical(value.into())
    }

    /// y = `slope` · x + `intercept`.
    pub fn slope(slope: f64, intercept: f64) -> Reference {
        Reference::Slope {
            slope: slope.into(),
            intercept: intercept.into(),
        }
    }

    /// y = `coefficient` · x^`exponent`.
    pub fn power(exponent: f64, coefficient: f64) -> Reference {
        Reference::Power {
            exponent: exponent.into(),
            coefficient: coefficient.into(),
        }
    }

    /// y = `coefficient` · `base`^x.
    pub fn exponential(base: f64, coefficient: f64) -> Reference {
        Reference::Exponential {
            base: base.into(),
            coefficient: coefficient.into(),
        }
    }

    /// The line's y at `x`; `None` for a vertical line.
    pub(super) fn y_at(&self, x: f64) -> Option<f64> {
        match self {
            Reference::Horizontal(y) => Some(y.get()),
            Reference::Vertical(_) => None,
            Reference::Slope { slope, intercept } => Some(slope.get() * x + intercept.get()),
            Reference::Power {
                exponent,
                coefficient,
            } => Some(coefficient.get() * x.powf(exponent.get())),
            Reference::Exponential { base, coefficient } => {
                Some(coefficient.get() * base.get().powf(x))
            }
        }
    }
}
