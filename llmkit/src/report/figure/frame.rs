//! One panel's maps, ticks and words, and the room they need around the plot.

use super::super::number::superscript;
use super::canvas::{INCH, POINT};
use super::colour::Rgb;
use super::extent::extents;
use super::fonts::{fit, width, wrap};
use super::layout::Theme;
use super::scale::{Extent, Map};
use super::shapes::{Area, Point};
use super::spec::{Axis, Colours, Layer, Panel, Scale};
use super::ticks::Ticks;
use crate::Result;

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

/// Room each panel needs outside its plot.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Margins {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
}

impl Frame {
    /// Maps, ticks and words of one panel, for a cell of about this size; its place is settled later.
    pub fn measure(
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
        // Also for inner panels, which have no labels: panels that share axes then share their ticks.
        let left_room = step + y_room + label_room(y_label.len());
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
    pub fn margins(&self, panel: &Panel, theme: &Theme) -> Margins {
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
