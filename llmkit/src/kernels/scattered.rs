//! Rows of a matrix that threads write, each some rows that need not be neighbours.
//!
//! A head's answers lie a token apart, between those of other heads, so no slice is a task's own. Which rows are whose is told before, and seen to be
//! told once for each row: then nobody has to trust anybody.

#![allow(unsafe_code)]

use std::marker::PhantomData;

/// Some rows of a matrix, in an order of their own; nobody else has them.
#[derive(Debug)]
pub struct Part<'a> {
    matrix: *mut f32,
    width: usize,
    rows: &'a [usize],
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is like a mutable slice, of rows that no other part has.
unsafe impl Send for Part<'_> {}

impl Part<'_> {
    /// Writes the part's `index`-th row.
    ///
    /// # Panics
    /// If there is no such row, or it has not as many values.
    pub fn write(&mut self, index: usize, values: &[f32]) {
        assert_eq!(values.len(), self.width, "values of a row");
        let at = self.rows[index] * self.width;
        // SAFETY: `parts` has seen that the row is there, and in no other part.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.matrix.add(at), self.width) };
    }
}

/// Parts of `matrix` (R, `width`): the i-th has the rows of `rows` up to `ends[i]`, from where the one before ends.
///
/// # Panics
/// If a row is not there or named twice, or ends are not in order.
pub fn parts<'a>(
    matrix: &'a mut [f32],
    width: usize,
    rows: &'a [usize],
    ends: &[usize],
) -> Vec<Part<'a>> {
    let mut is_taken = vec![false; matrix.len().checked_div(width).unwrap_or(0)];
    for &row in rows {
        let is_twice = std::mem::replace(&mut is_taken[row], true);
        assert!(!is_twice, "row {row} is in two places");
    }
    let matrix = matrix.as_mut_ptr();
    let part = |start: &mut usize, &end: &usize| {
        let rows = &rows[std::mem::replace(start, end)..end];
        Some(Part {
            matrix,
            width,
            rows,
            of: PhantomData,
        })
    };
    ends.iter().scan(0, part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::team::Team;

    #[test]
    fn each_row_is_written_by_its_owner() {
        let (rows, width) = (101, 3);
        // 7 is prime to 101: all rows, far from each other.
        let order: Vec<usize> = (0..rows).map(|i| i * 7 % rows).collect();
        let ends: Vec<usize> = (1..=10).map(|i| i * 10).chain([rows]).collect();
        let mut matrix = vec![f32::NAN; rows * width];
        let parts = parts(&mut matrix, width, &order, &ends);
        Team::new(3).each(parts, &|owner, mut part| {
            for index in 0..part.rows.len() {
                part.write(index, &[owner as f32, index as f32, 5.0]);
            }
        });
        for (place, &row) in order.iter().enumerate() {
            let expected = [(place / 10) as f32, (place % 10) as f32, 5.0];
            assert_eq!(matrix[row * width..][..width], expected, "{row}");
        }
    }

    #[test]
    fn rows_that_are_not_there_or_anothers_are_refused() {
        let refuses = |rows: &[usize], ends: &[usize]| {
            let made = std::panic::catch_unwind(|| {
                parts(&mut [0.0; 8], 2, rows, ends);
            });
            made.is_err()
        };
        assert!(!refuses(&[3, 0, 2], &[2, 3]));
        assert!(refuses(&[3, 0, 3], &[2, 3]), "twice");
        assert!(refuses(&[3, 4], &[2]), "not there");
        assert!(refuses(&[3, 0, 2], &[2, 1]), "ends out of order");
        assert!(refuses(&[3, 0], &[3]), "more than there are");
        let write = |index, values: &[f32]| {
            let values = values.to_vec();
            std::panic::catch_unwind(move || {
                parts(&mut [0.0; 8], 2, &[3, 1], &[2])[0].write(index, &values);
            })
        };
        assert!(write(1, &[1.0, 2.0]).is_ok());
        assert!(write(2, &[1.0, 2.0]).is_err(), "a row of nobody");
        assert!(write(1, &[1.0]).is_err(), "a row too short");
    }
}
