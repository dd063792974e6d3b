//! Sharing out the paper: title, legend, panels, and around each panel its labels.

use super::super::number::superscript;
use super::canvas::{INCH, POINT};
use super::check::extents;
use super::colour::Rgb;
use super::fonts::{fit, width, wrap};
use super::legend::{self, Entry};
use super::scale::{Extent, Map};
use super::shapes::{Area, Point};
use super::spec::{Axis, Colours, Figure, Layer, Legend, Panel, Scale};
use super::ticks::Ticks;
use crate::{Error, Result};

/// Sizes in twips.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    /// Axis labels and titles.
    pub font: f64,
    /// Tick labels, legends, annotations.
    pub small: f64,
    /// Data lines.
    pub line: f64,
    /// Spines and ticks.
    pub spine: f64,
    /// Length of a labelled tick.
    pub tick: f64,
    /// Between a tick and its label, a label and its neighbour.
    pub gap: f64,
    /// Radius of a marker.
    pub marker: f64,
}

/// Where everything goes.
#[derive(Debug)]
pub(super) struct Layout {
    pub theme: Theme,
    pub width: f64,
    pub height: f64,
    /// Lines of the title, the first one's baseline.
    pub title: (Vec<String>, f64),
    pub frames: Vec<Frame>,
    pub entries: Vec<Entry>,
    /// Where the legend's rows start, if it is not inside a panel.
    pub legend: Option<Area>,
    /// Names of all series, in order of first appearance: the index chooses colour, marker and dash.
    pub names: Vec<String>,
}

/// One panel's place.
#[derive(Debug)]
pub(super) struct Frame {
    pub plot: Area,
    pub x: Map,
    pub y: Map,
    pub x_ticks: Ticks,
    pub y_ticks: Ticks,
    pub x_words: Words,
    /// Size of the words under the axis.
    pub x_size: f64,
    /// Axis labels, in lines.
    pub x_label: Vec<String>,
    pub y_label: Vec<String>,
    /// Whether tick labels and axis label are written (inner panels with shared axes have none).
    pub is_labelled: [bool; 2],
    /// Whether y grows downwards: lanes and matrices are read from the top.
    pub is_top_down: bool,
    /// Room for y tick labels.
    pub y_room: f64,
    pub bar: Option<ColourBar>,
}

/// How labels under the x axis are set.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Words {
    /// Each in these lines.
    Lines(Vec<Vec<String>>),
    /// Each upwards, since they are too long.
    Upwards(Vec<String>),
}

/// A heat map's scale of colours.
#[derive(Debug, Clone)]
pub(super) struct ColourBar {
    pub map: Map,
    pub ticks: Ticks,
    pub label: String,
    pub is_diverging: bool,
    /// Room for its tick labels.
    pub room: f64,
}

impl ColourBar {
    /// The colour of a cell.
    pub fn colour(&self, value: f64) -> Rgb {
        super::colour::mapped(self.is_diverging, self.map.share(value))
    }
}

impl Frame {
    /// Where (x, y) lies on paper; NaN where a scale has no place for it.
    pub fn point(&self, x: f64, y: f64) -> Point {
        let down = if self.is_top_down {
            self.y.share(y)
        } else {
            1.0 - self.y.share(y)
        };
        (
            self.plot.left + self.x.share(x) * self.plot.width(),
            self.plot.top + down * self.plot.height(),
        )
    }
}

impl Theme {
    pub fn of(figure: &Figure) -> Theme {
        let font = figure.venue.font_points() * POINT;
        Theme {
            font,
            small: (font - POINT).max(6.5 * POINT),
            line: figure.venue.line_points() * POINT,
            spine: 0.5 * POINT,
            tick: 2.5 * POINT,
            gap: 2.0 * POINT,
            marker: 1.8 * POINT,
        }
    }
}

/// Room each panel needs outside its plot.
#[derive(Debug, Clone, Copy, Default)]
struct Margins {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Layout {
    /// Lays out a checked figure with its legend at `legend`.
    pub fn of(figure: &Figure, legend: Legend) -> Result<Layout> {
        let theme = Theme::of(figure);
        let columns = figure.columns.min(figure.panels.len());
        let rows = figure.panels.len().div_ceil(columns);
        let paper_width = figure.venue.width_inches(figure.full_width) * INCH;
        let default_aspect = if figure.panels.len() == 1 {
            if figure.full_width { 0.42 } else { 0.64 }
        } else {
            (0.9 * rows as f64 / columns as f64).clamp(0.25, 1.3)
        };
        let aspect = figure.aspect.map_or(default_aspect, |aspect| aspect.get());
        let paper_height = (paper_width * aspect).round();
        let edge = 1.5 * POINT;
        let mut inner = Area {
            left: edge,
            top: edge,
            right: paper_width - edge,
            bottom: paper_height - edge,
        };

        let lines = wrap(&figure.title, theme.font, true, inner.width(), 2);
        let title = (lines, inner.top + 0.85 * theme.font);
        if !title.0.is_empty() {
            inner.top += theme.font * (1.2 * title.0.len() as f64 + 0.25);
        }

        let names = legend::names(figure);
        let entries = legend::entries(figure, &names);
        let mut legend_area = None;
        if !entries.is_empty() {
            let place = legend::reserve(&entries, legend, &mut inner, &theme);
            legend_area = place;
        }

        let shared = figure.shared_axes.then(|| {
            figure.panels.iter().map(extents).fold(
                (Extent::EMPTY, Extent::EMPTY),
                |(mut x, mut y), (panel_x, panel_y)| {
                    x.join(panel_x);
                    y.join(panel_y);
                    (x, y)
                },
            )
        });
        let cell = (inner.width() / columns as f64, inner.height() / rows as f64);
        let mut frames = Vec::with_capacity(figure.panels.len());
        for (i, panel) in figure.panels.iter().enumerate() {
            let is_labelled = [
                !figure.shared_axes || i + columns >= figure.panels.len(),
                !figure.shared_axes || i % columns == 0,
            ];
            let frame = measure(panel, shared, is_labelled, cell, &theme).map_err(|error| {
                Error::Figure {
                    figure: figure.name(),
                    reason: error.to_string(),
                }
            })?;
            frames.push(frame);
        }

        // Plots of one size: each column and row takes the largest margin its panels need.
        let margins: Vec<Margins> = figure
            .panels
            .iter()
            .zip(&frames)
            .map(|(panel, frame)| frame.margins(panel, &theme))
            .collect();
        let most = |of: &dyn Fn(&Margins) -> f64, keep: &dyn Fn(usize) -> bool| {
            margins
                .iter()
                .enumerate()
                .filter(|(i, _)| keep(*i))
                .map(|(_, margin)| of(margin))
                .fold(0.0, f64::max)
        };
        let column_margins: Vec<(f64, f64)> = (0..columns)
            .map(|column| {
                let keep = |i: usize| i % columns == column;
                (most(&|m| m.left, &keep), most(&|m| m.right, &keep))
            })
            .collect();
        let row_margins: Vec<(f64, f64)> = (0..rows)
            .map(|row| {
                let keep = |i: usize| i / columns == row;
                (most(&|m| m.top, &keep), most(&|m| m.bottom, &keep))
            })
            .collect();
        let across = 5.0 * POINT;
        let taken_x: f64 = column_margins
            .iter()
            .map(|(left, right)| left + right)
            .sum();
        let taken_y: f64 = row_margins.iter().map(|(top, bottom)| top + bottom).sum();
        let plot_width = (inner.width() - taken_x - across * (columns - 1) as f64) / columns as f64;
        let plot_height = (inner.height() - taken_y - across * (rows - 1) as f64) / rows as f64;
        if plot_width < 0.25 * INCH || plot_height < 0.2 * INCH {
            return Err(Error::Figure {
                figure: figure.name(),
                reason: format!(
                    "labels leave {:.2} × {:.2} in for each plot; expected a larger aspect, the full width, fewer panels or shorter labels",
                    plot_width / INCH,
                    plot_height / INCH
                ),
            });
        }
        for (i, frame) in frames.iter_mut().enumerate() {
            let (column, row) = (i % columns, i / columns);
            let before =
                |margins: &[(f64, f64)]| -> f64 { margins.iter().map(|(a, b)| a + b).sum() };
            let left = inner.left
                + before(&column_margins[..column])
                + column_margins[column].0
                + (plot_width + across) * column as f64;
            let top = inner.top
                + before(&row_margins[..row])
                + row_margins[row].0
                + (plot_height + across) * row as f64;
            frame.plot = Area {
                left: left.round(),
                top: top.round(),
                right: (left + plot_width).round(),
                bottom: (top + plot_height).round(),
            };
        }
        Ok(Layout {
            theme,
            width: paper_width,
            height: paper_height,
            title,
            frames,
            entries,
            legend: legend_area,
            names,
        })
    }
}

/// Maps, ticks and words of one panel, for a cell of about this size.
fn measure(
    panel: &Panel,
    shared: Option<(Extent, Extent)>,
    is_labelled: [bool; 2],
    cell: (f64, f64),
    theme: &Theme,
) -> Result<Frame> {
    let (x_extent, y_extent) = shared.unwrap_or_else(|| extents(panel));
    let x = Map::new(&panel.x, x_extent, "x axis")?;
    let y = Map::new(&panel.y, y_extent, "y axis")?;
    let heat = panel.layers.iter().find_map(|layer| match layer {
        Layer::HeatMap {
            label,
            values,
            colours,
            ..
        } => Some((label, values, *colours)),
        _ => None,
    });
    let bar = heat
        .map(|(label, values, colours)| {
            let values: Vec<f64> = values.iter().map(|value| value.get()).collect();
            colour_bar(label, &values, colours, cell.1, theme)
        })
        .transpose()?;
    let y_ticks = Ticks::of(&panel.y, &y, (cell.1 * 0.75 / (2.7 * theme.small)) as usize);
    let y_room = y_ticks
        .major
        .iter()
        .map(|(_, label)| width(label, theme.small, false))
        .fold(0.0, f64::max)
        .min(0.35 * cell.0);
    let y_label = wrap(&panel.y.label, theme.font, false, 0.9 * cell.1, 2);
    // What will stand left and right of the plot, as in `Frame::margins`.
    let step = theme.tick + theme.gap;
    let label_room = |lines: usize| {
        if lines > 0 {
            theme.gap + 1.15 * theme.font * lines as f64
        } else {
            0.0
        }
    };
    let bar_room = bar.as_ref().map_or(theme.gap, |bar| {
        5.0 * theme.gap + step + bar.room + label_room(usize::from(!bar.label.is_empty()))
    });
    let left_room = if is_labelled[1] {
        step + y_room + label_room(y_label.len())
    } else {
        theme.tick
    };
    let plot_width = (cell.0 - left_room - bar_room).max(0.3 * cell.0);
    let (x_ticks, x_words, x_size) = horizontal(&panel.x, &x, plot_width, 0.35 * cell.1, theme);
    let x_label = wrap(
        &with_factor(&panel.x.label, x_ticks.exponent),
        theme.font,
        false,
        1.12 * plot_width,
        2,
    );
    Ok(Frame {
        plot: Area {
            left: 0.0,
            top: 0.0,
            right: 0.0,
            bottom: 0.0,
        },
        x,
        y,
        x_ticks,
        y_ticks,
        x_words,
        x_size,
        x_label,
        y_label,
        is_labelled,
        is_top_down: heat.is_some() || matches!(panel.y.scale, Scale::Categories(_)),
        y_room,
        bar,
    })
}

/// As many ticks as their labels have room for; categories wrap, and stand upright if that is not enough.
fn horizontal(axis: &Axis, map: &Map, room: f64, high: f64, theme: &Theme) -> (Ticks, Words, f64) {
    if let Scale::Categories(names) = &axis.scale {
        let ticks = Ticks::of(axis, map, names.len());
        let each = room / names.len().max(1) as f64 - theme.gap;
        // Rather a little smaller (never under 6 points) than turned.
        for size in [
            theme.small,
            (0.92 * theme.small).max(6.0 * POINT),
            6.0 * POINT,
        ] {
            let fits = |word: &str| width(word, size, false) <= each;
            if names.iter().all(|name| name.split_whitespace().all(fits)) {
                let lines: Vec<_> = names
                    .iter()
                    .map(|name| wrap(name, size, false, each, 3))
                    .collect();
                if !lines.iter().flatten().any(|line| line.ends_with('…')) {
                    return (ticks, Words::Lines(lines), size);
                }
            }
        }
        let names = names
            .iter()
            .map(|name| fit(name, theme.small, false, high))
            .collect();
        return (ticks, Words::Upwards(names), theme.small);
    }
    let mut count = ((room / (4.0 * theme.small)) as usize).clamp(2, 9);
    loop {
        let ticks = Ticks::of(axis, map, count);
        let labels = || ticks.major.iter().map(|(_, label)| label);
        let needed: f64 = labels()
            .map(|label| width(label, theme.small, false) + theme.small)
            .sum();
        if needed <= room || count == 2 {
            let words = labels().map(|label| vec![label.clone()]).collect();
            return (ticks, Words::Lines(words), theme.small);
        }
        count -= 1;
    }
}

fn with_factor(label: &str, exponent: i32) -> String {
    match (exponent, label.is_empty()) {
        (0, _) => label.to_owned(),
        (_, true) => format!("×10{}", superscript(exponent)),
        // A space that does not break: the factor stays with the last word.
        _ => format!("{label} ×10{}", superscript(exponent)),
    }
}

fn colour_bar(
    label: &str,
    values: &[f64],
    colours: Colours,
    high: f64,
    theme: &Theme,
) -> Result<ColourBar> {
    let mut extent = Extent::EMPTY;
    values.iter().for_each(|&value| extent.add(value));
    extent.exact = [true, true];
    if colours == Colours::Diverging && !extent.is_empty() {
        let largest = extent.low.abs().max(extent.high.abs());
        (extent.low, extent.high) = (-largest, largest);
    }
    let axis = match colours {
        Colours::SequentialLog => Axis::log(label),
        _ => Axis::linear(label),
    };
    let map = Map::new(&axis, extent, "colours")?;
    let ticks = Ticks::of(&axis, &map, (high * 0.7 / (2.7 * theme.small)) as usize);
    let room = ticks
        .major
        .iter()
        .map(|(_, label)| width(label, theme.small, false))
        .fold(0.0, f64::max);
    Ok(ColourBar {
        map,
        ticks,
        label: label.to_owned(),
        is_diverging: colours == Colours::Diverging,
        room,
    })
}

impl Frame {
    /// Room around the plot for ticks, labels, titles and colour bar.
    fn margins(&self, panel: &Panel, theme: &Theme) -> Margins {
        let [shows_x, shows_y] = self.is_labelled;
        let mut margins = Margins::default();
        let step = theme.tick + theme.gap;
        margins.left = if shows_y {
            step + self.y_room
        } else {
            theme.tick
        };
        if shows_y && !self.y_label.is_empty() {
            margins.left += theme.gap + 1.15 * theme.font * self.y_label.len() as f64;
        }
        margins.bottom = theme.tick;
        if shows_x {
            margins.bottom = step
                + match &self.x_words {
                    Words::Lines(lines) => {
                        let most = lines.iter().map(Vec::len).max().unwrap_or(0);
                        most as f64 * 1.1 * theme.small
                    }
                    Words::Upwards(names) => names
                        .iter()
                        .map(|name| width(name, theme.small, false))
                        .fold(0.0, f64::max),
                };
            if !self.x_label.is_empty() {
                margins.bottom += theme.gap + 1.1 * theme.font * self.x_label.len() as f64;
            }
        }
        margins.top = 0.5 * theme.small;
        if !panel.title.is_empty() {
            margins.top += 1.25 * theme.font;
        }
        let bar_exponent = self.bar.as_ref().map_or(0, |bar| bar.ticks.exponent);
        if shows_y && self.y_ticks.exponent != 0 || bar_exponent != 0 {
            margins.top += 1.1 * theme.small;
        }
        // The last label under the axis may stick out by half its width.
        let last = match (&self.x_words, self.x_ticks.major.last()) {
            (Words::Lines(lines), Some((value, _))) if shows_x => {
                let widest = lines
                    .last()
                    .into_iter()
                    .flatten()
                    .map(|line| width(line, theme.small, false))
                    .fold(0.0, f64::max);
                // How far the tick is from the end is not known in twips yet; two inches is typical.
                widest / 2.0 - (1.0 - self.x.share(*value)) * 2.0 * INCH
            }
            _ => 0.0,
        };
        margins.right = last.max(theme.gap);
        if let Some(bar) = &self.bar {
            margins.right += 5.0 * theme.gap + step + bar.room;
            if !bar.label.is_empty() {
                margins.right += theme.gap + 1.15 * theme.font;
            }
        }
        margins
    }
}
