//! Several products of one input — queries, keys and values; gate and up — in one parallel region.
//!
//! One token of a small model is hundreds of products of some microseconds each, and every region ends with a wait for the slowest
//! thread. Products that do not need each other's results share a region. Threads take pieces of columns one by one, so that a thread
//! that was held up does not hold up the others.

#![allow(unsafe_code)]

use std::ops::Range;

use super::dense::{self, Element, Into, Out, Part};
use super::integer::{self, Bytes, IntPanels};
use super::isa::Isa;
use super::panel::{LANES, Panels};
use super::team::Team;
use super::tiled::{self, Weights};
use super::windowed::{self, Windowed};

/// Rows from which a product is bound by arithmetic, and pieces are as large as the widest tile.
pub(super) const MANY_ROWS: usize = 32;
/// Panels in such a piece: a multiple of all tiles' widths.
pub(super) const PIECE: usize = 8;
/// Rows in such a piece, at most, but for what makes whole tiles: with all rows in one, a matrix of few panels would be few pieces, and
/// a thread would wait for another's last.
const PIECE_ROWS: usize = 256;
/// A multiple of the rows of all tiles, and of those of a matrix unit's.
pub(super) const TILE_ROWS: usize = 96;
const UNIT_ROWS: usize = 32;
/// Pieces for each thread where there are few rows: memory likes long pieces, a thread that is held up short ones.
const SHARES: usize = 2;

/// A matrix and its input, in the form that its kernel wants.
#[derive(Debug, Clone, Copy)]
pub enum Matrix<'a> {
    /// See [`dense`].
    Dense {
        /// Of input and matrix.
        element: Element,
        /// (T, words).
        x: &'a [u32],
        /// (N, words).
        matrix: &'a Panels,
    },
    /// See [`windowed`].
    Windowed {
        /// (T, words) of bf16.
        x: &'a [u32],
        /// (N, words).
        matrix: &'a Windowed,
    },
    /// See [`tiled`]; only on matrix units.
    Tiled {
        /// (T, K) in tiles.
        x: &'a [u32],
        /// (N, K).
        matrix: Weights<'a>,
    },
    /// See [`integer`].
    Integer {
        /// (T, K).
        x: &'a Bytes,
        /// (N, K).
        matrix: &'a IntPanels,
    },
}

/// out (T, N) = x · Wᵀ, or that added to it.
#[derive(Debug)]
pub struct Product<'a> {
    /// x and W.
    pub matrix: Matrix<'a>,
    /// What becomes of what is in `out`.
    pub into: Into,
    /// Row-major.
    pub out: &'a mut [f32],
}

impl Product<'_> {
    /// N.
    fn outputs(&self) -> usize {
        self.matrix.outputs()
    }

    /// T.
    fn tokens(&self) -> usize {
        self.out.len().checked_div(self.outputs()).unwrap_or(0)
    }

    fn check(&self) {
        let (tokens, outputs) = (self.tokens(), self.outputs());
        assert_eq!(self.out.len(), tokens * outputs, "output rows of {outputs}");
        self.matrix.check(tokens);
    }
}

impl Matrix<'_> {
    /// N.
    fn outputs(self) -> usize {
        match self {
            Matrix::Dense { matrix, .. } => matrix.rows(),
            Matrix::Windowed { matrix, .. } => matrix.rows(),
            Matrix::Tiled { matrix, .. } => matrix.outputs(),
            Matrix::Integer { matrix, .. } => matrix.rows(),
        }
    }

    fn is_tiled(self) -> bool {
        matches!(self, Matrix::Tiled { .. })
    }

    /// Whether the input is that of `tokens` rows.
    fn check(self, tokens: usize) {
        let check_words = |x: &[u32], words: usize| {
            let got = x.len();
            assert_eq!(got, tokens * words, "{tokens} input rows of {words} words");
        };
        match self {
            Matrix::Dense { x, matrix, .. } => check_words(x, matrix.words()),
            Matrix::Windowed { x, matrix } => check_words(x, matrix.words()),
            Matrix::Tiled { x, matrix } => {
                let own = tiled::words(tokens, 2 * matrix.words());
                assert_eq!(x.len(), own, "{tokens} input rows in tiles");
            }
            Matrix::Integer { x, matrix } => {
                let (got, own) = ((x.columns(), x.group()), (matrix.columns(), matrix.group()));
                assert_eq!(got, own, "columns and group");
                assert_eq!(x.tokens(), tokens, "input rows");
            }
        }
    }

    fn reference(self, into: Into, out: &mut [f32]) {
        match self {
            Matrix::Dense { element, x, matrix } => {
                dense::reference(element, x, matrix, into, out);
            }
            Matrix::Windowed { x, matrix } => windowed::reference(x, matrix, into, out),
            Matrix::Tiled { .. } => unreachable!("tiles are of matrix units"),
            Matrix::Integer { x, matrix } => integer::reference(x, matrix, into, out),
        }
    }
}

/// Does all `products`, in one region of `team`.
///
/// # Panics
/// If the sizes of one do not fit, or the machine lacks `isa`.
pub fn multiply_all(isa: Isa, products: &mut [Product<'_>], team: &Team) {
    let isa = isa.checked();
    products.iter().for_each(Product::check);
    let is_on_unit = |it: &Product<'_>| isa == Isa::Amx || !it.matrix.is_tiled();
    assert!(products.iter().all(is_on_unit), "tiles on {isa}");
    if isa == Isa::Reference {
        for it in products {
            it.matrix.reference(it.into, it.out);
        }
        return;
    }
    let jobs: Vec<Job<'_>> = products.iter_mut().map(Job::of).collect();
    run_all(isa, &jobs, team);
}

/// out (T, columns) = those columns of x · Wᵀ, of which the first is a multiple of 16: for results too large to be held at once.
///
/// # Panics
/// If the sizes do not fit, or the machine lacks `isa`.
pub fn multiply_columns(
    isa: Isa,
    matrix: Matrix<'_>,
    columns: Range<usize>,
    out: &mut [f32],
    team: &Team,
) {
    let outputs = matrix.outputs();
    let tokens = out.len().checked_div(columns.len()).unwrap_or(0);
    assert!(
        columns.start.is_multiple_of(LANES) && columns.end <= outputs,
        "columns {columns:?} of {outputs}"
    );
    assert_eq!(out.len(), tokens * columns.len(), "rows of {columns:?}");
    matrix.check(tokens);
    assert!(isa == Isa::Amx || !matrix.is_tiled(), "tiles on {isa}");
    if isa.checked() == Isa::Reference {
        let mut all = vec![0.0; tokens * outputs];
        matrix.reference(Into::Replace, &mut all);
        let rows = all.chunks_exact(outputs.max(1));
        for (out, row) in out.chunks_exact_mut(columns.len().max(1)).zip(rows) {
            out.copy_from_slice(&row[columns.clone()]);
        }
        return;
    }
    let job = Job {
        tokens,
        first: columns.start / LANES,
        panels: columns.end.div_ceil(LANES) - columns.start / LANES,
        matrix,
        into: Into::Replace,
        out: Out {
            streams: false,
            at: out.as_mut_ptr().wrapping_sub(columns.start),
            stride: columns.len(),
            end: columns.end,
        },
    };
    run_all(isa, &[job], team);
}

/// Panels and rows of a piece, at most, of a product of `rows` rows and `panels` panels in tiles of `tile` rows.
pub(super) fn piece(rows: usize, panels: usize, tile: usize, team: &Team) -> (usize, usize) {
    match rows < MANY_ROWS {
        true => (panels.div_ceil(team.threads() * SHARES).max(1), rows.max(1)),
        false => (
            PIECE,
            (rows.div_ceil(rows.div_ceil(PIECE_ROWS))).next_multiple_of(tile),
        ),
    }
}

fn run_all(isa: Isa, jobs: &[Job<'_>], team: &Team) {
    let rows = jobs.iter().map(|it| it.tokens).max().unwrap_or(0);
    let panels: usize = jobs.iter().map(|it| it.panels).sum();
    // A matrix unit is so fast that a thread has to stay near what it has in its cache: the same rows, panel after panel.
    let is_on_unit = isa == Isa::Amx && jobs.iter().all(Job::is_bf16);
    let tiles = match is_on_unit {
        true => UNIT_ROWS,
        false => TILE_ROWS,
    };
    let (piece, height) = piece(rows, panels, tiles, team);
    let heights = rows.div_ceil(height);
    // Panels of all products are numbered through: a piece may end in another product than it begins in. Pieces of the same panels come
    // one after the other, so that these come from memory once, or pieces of the same rows.
    let pieces = panels.div_ceil(piece);
    let count = pieces * heights;
    let task = |index: usize| {
        let (index, part) = match is_on_unit {
            true => (index % pieces, index / pieces),
            false => (index / heights, index % heights),
        };
        let tokens = part * height..(part + 1) * height;
        let mut first = 0;
        let wanted = index * piece..(index + 1) * piece;
        for job in jobs {
            let own = wanted.start.max(first)..wanted.end.min(first + job.panels);
            if !own.is_empty() {
                let panels = own.start - first..own.end - first;
                job.run(
                    isa,
                    tokens.clone(),
                    panels.start + job.first..panels.end + job.first,
                );
            }
            first += job.panels;
        }
    };
    // Few rows fetch what lies behind their panels while they pass by.
    match rows < MANY_ROWS || is_on_unit {
        true => team.neighbours(count, &task),
        false => team.tasks(count, &task),
    }
}

/// A product whose output may be written from several threads.
struct Job<'a> {
    matrix: Matrix<'a>,
    into: Into,
    out: Out,
    tokens: usize,
    /// Its first panel, and how many there are.
    first: usize,
    panels: usize,
}

// SAFETY: threads write columns of their own.
unsafe impl Sync for Job<'_> {}

impl Job<'_> {
    fn of<'a>(product: &'a mut Product<'_>) -> Job<'a> {
        Job {
            tokens: product.tokens(),
            first: 0,
            panels: product.outputs().div_ceil(LANES),
            matrix: product.matrix,
            into: product.into,
            out: Out {
                streams: Out::outgrows_caches(product.out, product.outputs()),
                at: product.out.as_mut_ptr(),
                stride: product.outputs(),
                end: product.outputs(),
            },
        }
    }

    fn is_bf16(&self) -> bool {
        match self.matrix {
            Matrix::Dense { element, .. } => element == Element::Bf16,
            Matrix::Windowed { .. } | Matrix::Tiled { .. } => true,
            Matrix::Integer { .. } => false,
        }
    }

    /// The columns of `panels` of those of `tokens` that are there, which no other thread has.
    fn run(&self, isa: Isa, tokens: Range<usize>, panels: Range<usize>) {
        let tokens = tokens.start..tokens.end.min(self.tokens);
        if panels.is_empty() || tokens.is_empty() {
            return;
        }
        // SAFETY: `multiply_all` has checked the sizes and the instruction set, which is not the reference, and hands out each row of each
        // panel once.
        unsafe {
            match self.matrix {
                Matrix::Dense { element, x, matrix } => {
                    let words = matrix.words();
                    let part = Part {
                        element,
                        x,
                        words,
                        lines: &matrix.lines()[panels.start * words..],
                        next: std::ptr::null(),
                    };
                    dense::some_panels(isa, &part, self.into, self.out, tokens, panels);
                }
                Matrix::Windowed { x, matrix } => {
                    windowed::some_panels(isa, (x, matrix), self.into, self.out, tokens, panels);
                }
                #[cfg(target_arch = "x86_64")]
                Matrix::Tiled { x, matrix } => {
                    tiled::unit::some_panels((x, matrix), self.into, self.out, tokens, panels);
                }
                #[cfg(not(target_arch = "x86_64"))]
                Matrix::Tiled { .. } => unreachable!("tiles are of matrix units"),
                Matrix::Integer { x, matrix } => {
                    integer::some_panels(isa, (x, matrix), self.into, self.out, tokens, panels);
                }
            }
        }
    }
}
