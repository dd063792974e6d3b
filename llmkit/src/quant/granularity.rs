//! Which weights share parameters.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Range;

use crate::{Error, Result};

/// Which weights of a matrix `[N, K]` share one grid.
///
/// ```
/// use llmkit::quant::Granularity;
/// // K = 5 in groups of 2: the last group of each row is ragged.
/// let blocks: Vec<_> = Granularity::Group(2).blocks(2, 5).collect();
/// assert_eq!(blocks, [0..2, 2..4, 4..5, 5..7, 7..9, 9..10]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// The whole matrix.
    Tensor,
    /// Each row, i.e. each output channel.
    Channel,
    /// Each run of this many weights within a row; the last group of a row may be shorter.
    Group(usize),
}

impl Granularity {
    /// Refuses a group of no weights.
    ///
    /// # Errors
    /// [`Error::Argument`] for `Group(0)`.
    pub fn check(self) -> Result<Granularity> {
        match self {
            Granularity::Group(0) => Err(Error::argument("group", "at least one weight", 0)),
            granularity => Ok(granularity),
        }
    }

    /// The granularity of a name: `tensor`, `channel`, `g64`.
    pub fn named(name: &str) -> Option<Granularity> {
        match name {
            "tensor" => Some(Granularity::Tensor),
            "channel" => Some(Granularity::Channel),
            _ => Some(Granularity::Group(name.strip_prefix('g')?.parse().ok()?)),
        }
    }

    /// The blocks of an `[N, K] = [rows, cols]` matrix as ranges of its row-major data, in order.
    pub fn blocks(self, rows: usize, cols: usize) -> Blocks {
        let (rows, cols, step) = match self {
            Granularity::Tensor => (1, rows.saturating_mul(cols), usize::MAX),
            Granularity::Channel => (rows, cols, usize::MAX),
            Granularity::Group(group) => (rows, cols, group.max(1)),
        };
        let step = step.min(cols).max(1);
        let left = rows * cols.div_ceil(step);
        Blocks {
            cols,
            step,
            at: 0,
            left,
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Granularity::Tensor => f.write_str("tensor"),
            Granularity::Channel => f.write_str("channel"),
            Granularity::Group(group) => write!(f, "g{group}"),
        }
    }
}

/// The blocks of a matrix, see [`Granularity::blocks`].
#[derive(Debug, Clone)]
pub struct Blocks {
    cols: usize,
    step: usize,
    at: usize,
    left: usize,
}

impl Iterator for Blocks {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        self.left = self.left.checked_sub(1)?;
        let start = self.at;
        let row_end = (start / self.cols + 1) * self.cols;
        self.at = (start + self.step).min(row_end);
        Some(start..self.at)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Blocks {}
impl FusedIterator for Blocks {}

/// Width and granularity of a name like `int4-affine-g64`, with `kind` between the two.
pub(super) fn width_and_granularity(
    name: &str,
    prefix: &str,
    kind: &str,
) -> Option<(u32, Granularity)> {
    let (width, granularity) = name.strip_prefix(prefix)?.split_once('-')?;
    let granularity = match kind {
        "" => granularity,
        kind => granularity.strip_prefix(kind)?.strip_prefix('-')?,
    };
    Some((width.parse().ok()?, Granularity::named(granularity)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_tile_the_matrix_and_never_cross_a_row() {
        for (rows, cols) in [(1, 1), (3, 7), (4, 64), (2, 65), (0, 3), (3, 0)] {
            for granularity in [
                Granularity::Tensor,
                Granularity::Channel,
                Granularity::Group(1),
                Granularity::Group(3),
                Granularity::Group(64),
                Granularity::Group(usize::MAX),
            ] {
                let blocks: Vec<_> = granularity.blocks(rows, cols).collect();
                assert_eq!(blocks.len(), granularity.blocks(rows, cols).len());
                let mut at = 0;
                for block in blocks {
                    assert_eq!(block.start, at);
                    assert!(!block.is_empty());
                    if granularity != Granularity::Tensor {
                        assert_eq!(block.start / cols, (block.end - 1) / cols);
                    }
                    at = block.end;
                }
                assert_eq!(at, rows * cols, "{granularity} of [{rows}, {cols}]");
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for granularity in [
            Granularity::Tensor,
            Granularity::Channel,
            Granularity::Group(7),
        ] {
            assert_eq!(
                Granularity::named(&granularity.to_string()),
                Some(granularity)
            );
        }
        for odd in ["", "g", "g-1", "64", "channels"] {
            assert_eq!(Granularity::named(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_group_of_none_is_refused() {
        assert!(Granularity::Group(0).check().is_err());
        assert!(Granularity::Group(1).check().is_ok());
    }
}
