//! Tables and figures: shown in notebooks, exported to papers.
//!
//! * [`Show`] — what a cell's last expression does; [`display`] does the same in mid-cell.
//! * [`Latex`] — a `DataFrame` as a booktabs table.
//! * [`Figure`] — one typed specification, drawn once as SVG, from which PDF and PNG are made.
//!
//! ```
//! use llmkit::report::{Axis, Figure, Reference};
//! let bits = [2.0, 3.0, 4.0, 5.0, 6.0];
//! let sqnr = [8.1, 14.9, 21.2, 27.1, 33.3];
//! let figure = Figure::new("Round-to-nearest")
//!     .x(Axis::linear("bits per weight"))
//!     .y(Axis::linear("SQNR (dB)"))
//!     .line("group 64", &bits, &sqnr)
//!     .reference_line(Reference::slope(6.02, -4.0), "6.02 dB per bit");
//! assert!(figure.to_svg()?.contains("6.02 dB per bit"));
//! # Ok::<(), llmkit::Error>(())
//! ```

mod emit;
mod figure;
mod latex;
mod number;
mod show;
mod table;
mod tensor;

pub use emit::{Content, emit};
pub use figure::{
    Axis, Colours, ExportOptions, Figure, Layer, Legend, Mark, Num, Panel, Reference, Rendered,
    Saved, Scale, Stat, Values, Venue, export, stems,
};
pub use latex::Latex;
pub use show::{Show, display};
pub use table::{table_html, table_text};
pub use tensor::TensorSummary;
