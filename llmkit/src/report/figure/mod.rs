//! Figures: one typed specification, drawn once as SVG, from which PDF and PNG are made.
//!
//! `spec` says what a figure is, `build` how it is written down in a cell, `check` what is refused; `scale` maps
//! values to paper, `layout` shares out the paper, `layers` and `marks` draw on `canvas`; `render` turns the SVG
//! into PDF and PNG; `save` and `export` write files.

mod areas;
mod axes;
mod build;
mod canvas;
mod check;
mod colour;
mod export;
mod extent;
mod fonts;
mod frame;
mod heat;
mod layers;
mod layout;
mod legend;
mod manifest;
mod marks;
mod obstacles;
mod points;
mod render;
mod save;
mod scale;
mod series;
mod shapes;
mod spec;
mod statistics;
mod ticks;
mod values;
mod venue;

pub use export::{ExportOptions, export, stems};
pub use render::Rendered;
pub use save::Saved;
pub use spec::{Axis, Colours, Figure, Layer, Legend, Mark, Panel, Reference, Scale, Stat};
pub use values::{Num, Values};
pub use venue::Venue;
