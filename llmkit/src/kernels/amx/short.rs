//! Jobs of one tile of rows and a step or two of K, as attention has them.

use super::unit::{SIDE, Unit};
use crate::kernels::dense::{Into, Job};
use crate::kernels::panel::LANES;

/// A job of up to 16 rows, one or two whole steps of K and whole pairs of panels, on a unit that is configured for its rows. What is added to is
/// where sums begin. Four panels at a time: the tiles of A stay, and while one panel's sums are stored others are computed.
///
/// # Safety
/// As of a [`Unit`], configured for the job's rows; all that the job's pointers, sizes and strides reach is valid, and nobody else touches the
/// output meanwhile.
#[inline(always)]
pub(in crate::kernels) unsafe fn short<U: Unit>(unit: &mut U, job: &Job) {
    macro_rules! panels {
        ($column:expr, $two_steps:literal: $($c:literal $b:literal),*) => {{
            let out: *mut u32 = job.out.wrapping_add($column).cast();
            let lines = job.lines.wrapping_add($column / LANES * job.line_stride);
            $(
                let (to, b) = (out.wrapping_add($c * LANES), lines.wrapping_add($c * job.line_stride));
                match job.into {
                    Into::Replace => unit.zero::<$c>(),
                    Into::Add => unit.load::<$c>(to, job.out_stride),
                }
                unit.load::<$b>(b.cast(), LANES);
                unit.dot::<$c, 4, $b>();
                if $two_steps {
                    unit.load::<$b>(b.wrapping_add(SIDE).cast(), LANES);
                    unit.dot::<$c, 5, $b>();
                }
            )*
            $(unit.store::<$c>(out.wrapping_add($c * LANES), job.out_stride);)*
        }};
    }
    // SAFETY: the caller's rows, columns and words.
    unsafe {
        unit.load::<4>(job.x, job.x_stride);
        let two_steps = job.words > SIDE;
        if two_steps {
            unit.load::<5>(job.x.wrapping_add(SIDE), job.x_stride);
        }
        let whole = job.columns / (4 * LANES) * 4 * LANES;
        for column in (0..whole).step_by(4 * LANES) {
            match two_steps {
                true => panels!(column, true: 0 6, 1 7, 2 6, 3 7),
                false => panels!(column, false: 0 6, 1 7, 2 6, 3 7),
            }
        }
        if whole < job.columns {
            match two_steps {
                true => panels!(whole, true: 0 6, 1 7),
                false => panels!(whole, false: 0 6, 1 7),
            }
        }
    }
}
