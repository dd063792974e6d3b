//! Updates in f64.

use super::{Numbers, SIZES, fast};
use crate::kernels::isa::Isa;
use crate::kernels::update::{Rows, update_at};

type Update<'a> = dyn Fn(Rows<'_>, Rows<'_>, (usize, usize, usize), &mut [f64], usize) + 'a;

/// Whether `kernel` gives the bits of the reference, on matrices inside of wider ones, and leaves the rest alone.
fn update_is_right(kernel: &Update<'_>) -> Result<(), String> {
    let mut numbers = Numbers(8);
    for (m, n, p) in SIZES {
        for wider in [0, 3] {
            let mut take = |rows: usize, columns: usize| -> Vec<f64> {
                let values = numbers.take(rows * (columns + wider));
                values.into_iter().map(f64::from).collect()
            };
            let (a, b, before) = (take(m, p), take(p, n), take(m, n));
            let a = Rows {
                values: &a,
                stride: p + wider,
            };
            let b = Rows {
                values: &b,
                stride: n + wider,
            };
            let (mut expected, mut got) = (before.clone(), before);
            update_at(Isa::Reference, a, b, (m, p, n), &mut expected, n + wider);
            kernel(a, b, (m, p, n), &mut got, n + wider);
            if got != expected {
                return Err(format!("{m} x {p} x {n}, {wider} wider"));
            }
        }
    }
    Ok(())
}

#[test]
fn updates_have_the_bits_of_the_reference() {
    for isa in fast() {
        update_is_right(&|a, b, sizes, c, stride| update_at(isa, a, b, sizes, c, stride))
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
    }
}

#[test]
fn planted_bugs_in_updates_are_caught() {
    for isa in fast() {
        let honest = |a: Rows<'_>, b: Rows<'_>, sizes, c: &mut [f64], stride| {
            update_at(isa, a, b, sizes, c, stride);
        };
        // The columns after the last whole strip are left out.
        let ragged: &Update<'_> = &|a, b, (m, p, n), c, stride| {
            honest(a, b, (m, p, n / 16 * 16), c, stride);
        };
        // The last of the rows to be summed is left out.
        let short: &Update<'_> = &|a, b, (m, p, n), c, stride| {
            honest(a, b, (m, p.saturating_sub(1), n), c, stride);
        };
        // What was there is lost.
        let forgetful: &Update<'_> = &|a, b, (m, p, n), c, stride| {
            for row in c.chunks_mut(stride.max(1)).take(m) {
                row[..n].fill(0.0);
            }
            honest(a, b, (m, p, n), c, stride);
        };
        for (name, bug) in [
            ("ragged", ragged),
            ("short", short),
            ("forgetful", forgetful),
        ] {
            assert!(update_is_right(bug).is_err(), "{isa} {name}");
        }
    }
}
