//! Adding data to a figure: one method for each kind.

use candle_core::Tensor;

use super::spec::{Axis, Colours, Figure, Layer, Scale, Stat};
use super::statistics::{MAX_POINTS, block_means, boxed, every_nth, histogram, outline};
use super::values::{Num, Values};

impl Figure {
    /// Points joined by a line, with markers if they are few. `xs` and `ys` have one length.
    pub fn line(
        self,
        name: impl Into<String>,
        xs: &(impl Values + ?Sized),
        ys: &(impl Values + ?Sized),
    ) -> Figure {
        self.joined(name.into(), xs.values(), ys.values(), true)
    }

    /// A line without markers: a computed law rather than measured points.
    pub fn curve(
        self,
        name: impl Into<String>,
        xs: &(impl Values + ?Sized),
        ys: &(impl Values + ?Sized),
    ) -> Figure {
        self.joined(name.into(), xs.values(), ys.values(), false)
    }

    fn joined(
        mut self,
        name: String,
        x: crate::Result<Vec<f64>>,
        y: crate::Result<Vec<f64>>,
        markers: bool,
    ) -> Figure {
        let (mut x, mut y) = (self.take(&name, x), self.take(&name, y));
        if y.len() > MAX_POINTS && x.len() == y.len() {
            let kept = outline(&y, MAX_POINTS);
            self.thinned(&name, y.len(), kept.len());
            x = kept.iter().map(|&i| x[i]).collect();
            y = kept.iter().map(|&i| y[i]).collect();
        }
        self.with(Layer::Line {
            name,
            x: nums(x),
            y: nums(y),
            markers,
        })
    }

    /// Points. `xs` and `ys` have one length.
    pub fn scatter(
        mut self,
        name: impl Into<String>,
        xs: &(impl Values + ?Sized),
        ys: &(impl Values + ?Sized),
    ) -> Figure {
        let name = name.into();
        let (mut x, mut y) = (self.take(&name, xs.values()), self.take(&name, ys.values()));
        if y.len() > MAX_POINTS && x.len() == y.len() {
            let kept: Vec<usize> = every_nth(y.len(), MAX_POINTS).collect();
            self.thinned(&name, y.len(), kept.len());
            x = kept.iter().map(|&i| x[i]).collect();
            y = kept.iter().map(|&i| y[i]).collect();
        }
        self.with(Layer::Scatter {
            name,
            x: nums(x),
            y: nums(y),
        })
    }

    /// One bar for each category of the x axis; bars of several names stand side by side.
    pub fn bar(mut self, name: impl Into<String>, heights: &(impl Values + ?Sized)) -> Figure {
        let name = name.into();
        let y = nums(self.take(&name, heights.values()));
        self.with(Layer::Bars {
            name,
            y,
            error: None,
        })
    }

    /// Bars with an error of ± `errors`.
    pub fn bar_with_errors(
        mut self,
        name: impl Into<String>,
        heights: &(impl Values + ?Sized),
        errors: &(impl Values + ?Sized),
    ) -> Figure {
        let name = name.into();
        let y = nums(self.take(&name, heights.values()));
        let error = Some(nums(self.take(&name, errors.values())));
        self.with(Layer::Bars { name, y, error })
    }

    /// Points with intervals from `low` to `high` (absolute values, not distances).
    pub fn error_bars(
        mut self,
        name: impl Into<String>,
        xs: &(impl Values + ?Sized),
        ys: &(impl Values + ?Sized),
        low: &(impl Values + ?Sized),
        high: &(impl Values + ?Sized),
    ) -> Figure {
        let name = name.into();
        let [x, y, low, high] = [xs.values(), ys.values(), low.values(), high.values()]
            .map(|values| nums(self.take(&name, values)));
        self.with(Layer::ErrorBars {
            name,
            x,
            y,
            low,
            high,
        })
    }

    /// The region between the curves `low` and `high`; give it the name of its line to share the colour.
    pub fn band(
        mut self,
        name: impl Into<String>,
        xs: &(impl Values + ?Sized),
        low: &(impl Values + ?Sized),
        high: &(impl Values + ?Sized),
    ) -> Figure {
        let name = name.into();
        let [x, low, high] =
            [xs.values(), low.values(), high.values()].map(|values| nums(self.take(&name, values)));
        self.with(Layer::Band { name, x, low, high })
    }

    /// How many values fall into each of `bins` equal bins (equal in decades if the x axis, given before, is
    /// logarithmic).
    pub fn histogram(
        self,
        name: impl Into<String>,
        values: &(impl Values + ?Sized),
        bins: usize,
    ) -> Figure {
        self.binned(name.into(), values.values(), bins, false)
    }

    /// A histogram whose area is one, to lay a density over or to compare samples of different sizes.
    pub fn density(
        self,
        name: impl Into<String>,
        values: &(impl Values + ?Sized),
        bins: usize,
    ) -> Figure {
        self.binned(name.into(), values.values(), bins, true)
    }

    fn binned(
        mut self,
        name: String,
        values: crate::Result<Vec<f64>>,
        bins: usize,
        is_density: bool,
    ) -> Figure {
        if !(1..=1000).contains(&bins) {
            self.mistake(format!(
                "series {name:?}: expected 1 to 1000 bins, got {bins}"
            ));
        }
        let values = self.take(&name, values);
        let (edges, mut heights) = histogram(&values, bins.min(1000), &self.last().x.scale);
        let counted: f64 = heights.iter().sum();
        let left_out = values.len() - counted as usize;
        if left_out > 0 {
            self.notes.push(format!(
                "{name}: {left_out} of {} values are not finite (or not positive on a log axis) and are in no bin",
                values.len()
            ));
        }
        if is_density {
            for (height, edge) in heights.iter_mut().zip(edges.windows(2)) {
                *height /= counted * (edge[1] - edge[0]);
            }
        }
        self.with(Layer::Histogram {
            name,
            edges: nums(edges),
            heights: nums(heights),
        })
    }

    /// A matrix of `columns` columns, row by row, first row on top. `label` (with unit) names its colour bar.
    /// Axes may be categories (one name a row or column) or linear (cells at 0, 1, 2 …).
    pub fn heat_map(
        mut self,
        label: impl Into<String>,
        columns: usize,
        values: &(impl Values + ?Sized),
        colours: Colours,
    ) -> Figure {
        let label = label.into();
        let values = self.take(&label, values.values());
        if columns == 0 || values.is_empty() || !values.len().is_multiple_of(columns) {
            self.mistake(format!(
                "heat map {label:?}: expected whole rows of {columns} columns, got {} values",
                values.len()
            ));
            return self;
        }
        let rows = values.len() / columns;
        let (kept_columns, kept) = block_means(&values, columns);
        if kept.len() < values.len() {
            self.notes.push(format!(
                "{label}: {rows} × {columns} cells, drawn as means over {} × {kept_columns} blocks",
                kept.len() / kept_columns
            ));
        }
        self.with(Layer::HeatMap {
            label,
            shape: [rows, columns],
            columns: kept_columns,
            values: nums(kept),
            colours,
        })
    }

    /// The heat map of a 2-D tensor.
    pub fn heat_map_of(
        self,
        label: impl Into<String>,
        matrix: &Tensor,
        colours: Colours,
    ) -> Figure {
        let columns = match matrix.dims() {
            [_, columns] => *columns,
            _ => 0,
        };
        self.heat_map(label, columns, matrix, colours)
    }

    /// The heat map of `sample`, evenly spread rows and columns of a matrix of `shape` [rows, columns].
    pub(in crate::report) fn heat_map_sampled(
        self,
        sample: &Tensor,
        shape: [usize; 2],
        colours: Colours,
    ) -> Figure {
        let mut figure = self.heat_map_of("", sample, colours);
        if let Some(Layer::HeatMap { shape: counted, .. }) = figure.last().layers.last_mut() {
            *counted = shape;
        }
        figure.notes.clear();
        figure
    }

    /// A box of the sample `values` in a new category `category` of the x axis.
    pub fn box_plot(
        mut self,
        category: impl Into<String>,
        values: &(impl Values + ?Sized),
    ) -> Figure {
        self.add_box(String::new(), category.into(), values.values());
        self
    }

    /// A box of `values` in `category` for the series `name`: boxes of several names stand side by side.
    pub fn box_plot_of(
        mut self,
        name: impl Into<String>,
        category: impl Into<String>,
        values: &(impl Values + ?Sized),
    ) -> Figure {
        self.add_box(name.into(), category.into(), values.values());
        self
    }

    fn add_box(&mut self, name: String, category: String, values: crate::Result<Vec<f64>>) {
        let values = self.take(&category, values);
        let finite = values.iter().filter(|value| value.is_finite()).count();
        if finite < values.len() {
            self.notes.push(format!(
                "{category}: {} of {} values are not finite and are left out",
                values.len() - finite,
                values.len()
            ));
        }
        let panel = self.last();
        let place = place_of(&mut panel.x, &category);
        let stat: Option<Stat> = boxed(&values, place);
        let existing = panel.layers.iter_mut().find_map(|layer| match layer {
            Layer::Boxes { name: other, boxes } if *other == name => Some(boxes),
            _ => None,
        });
        match existing {
            Some(boxes) => boxes.extend(stat),
            None => panel.layers.push(Layer::Boxes {
                name,
                boxes: stat.into_iter().collect(),
            }),
        }
    }

    /// An interval from `start` to `end` in `lane` (a category of the y axis, added if new); tasks of one name share
    /// a colour.
    pub fn task(
        mut self,
        lane: impl Into<String>,
        name: impl Into<String>,
        start: f64,
        end: f64,
    ) -> Figure {
        let name = name.into();
        let panel = self.last();
        let place = place_of(&mut panel.y, &lane.into());
        let existing = panel.layers.iter_mut().find_map(|layer| match layer {
            Layer::Tasks {
                name: other,
                lane,
                start,
                end,
            } if *other == name => Some((lane, start, end)),
            _ => None,
        });
        match existing {
            Some((lanes, starts, ends)) => {
                lanes.push(place);
                starts.push(start.into());
                ends.push(end.into());
            }
            None => panel.layers.push(Layer::Tasks {
                name,
                lane: vec![place],
                start: vec![start.into()],
                end: vec![end.into()],
            }),
        }
        self
    }

    fn with(mut self, layer: Layer) -> Figure {
        self.last().layers.push(layer);
        self
    }

    fn take(&mut self, name: &str, values: crate::Result<Vec<f64>>) -> Vec<f64> {
        values.unwrap_or_else(|error| {
            self.mistake(format!("series {name:?}: {error}"));
            Vec::new()
        })
    }

    fn mistake(&mut self, what: String) {
        self.problem.get_or_insert(what);
    }

    fn thinned(&mut self, name: &str, all: usize, kept: usize) {
        self.notes
            .push(format!("{name}: {kept} of {all} points kept"));
    }
}

fn nums(values: Vec<f64>) -> Vec<Num> {
    values.into_iter().map(Num::new).collect()
}

/// The place of `name` on a category axis, which the axis becomes if it was not, and gains if it had not.
fn place_of(axis: &mut Axis, name: &str) -> usize {
    if !matches!(axis.scale, Scale::Categories(_)) {
        axis.scale = Scale::Categories(Vec::new());
    }
    let Scale::Categories(names) = &mut axis.scale else {
        return 0;
    };
    names
        .iter()
        .position(|other| other == name)
        .unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        })
}
