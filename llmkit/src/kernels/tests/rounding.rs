//! The rounding of inputs to 8 bits.

use super::Numbers;
use crate::kernels::integer::{Bytes, Scale};
use crate::kernels::isa::Isa;
use crate::kernels::team::Team;

type Round<'a> = dyn Fn(&[f32], usize, usize) -> Bytes + 'a;

/// Whether each element is within half a step of its group, the largest magnitude of each being 127 steps.
fn rounding_is_right(kernel: &Round<'_>) -> Result<(), String> {
    let mut numbers = Numbers(3);
    for (tokens, columns, group) in [
        (1, 1, 32),
        (3, 70, 32),
        (5, 33, 64),
        (9, 576, 64),
        (2, 100, 4096),
        // Groups of 32 go four at a time: whole fours, and what is left.
        (5, 576, 32),
        (2, 128, 32),
        (3, 96, 32),
    ] {
        let mut x = numbers.take(tokens * columns);
        x[0] = 0.0;
        let got = kernel(&x, columns, group);
        for t in 0..tokens {
            let row = &x[t * columns..][..columns];
            for (k, &value) in row.iter().enumerate() {
                let start = k / group * group;
                let top = row[start..columns.min(start + group)]
                    .iter()
                    .fold(0f32, |a, b| a.max(b.abs()));
                let step = f64::from(top) / 127.0;
                let error = (got.value(t, k) - f64::from(value)).abs();
                if error.is_nan() || error > step * 0.5001 + 1e-30 {
                    return Err(format!(
                        "{tokens}×{columns} by {group} [{t}, {k}]: {value} is off by {error} of {step}"
                    ));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn inputs_are_rounded_alike_everywhere_and_to_nearest() {
    for isa in Isa::here() {
        for threads in [1, 2] {
            let team = Team::new(threads);
            rounding_is_right(&|x, columns, group| {
                let got = Bytes::round(isa, x, columns, group, &team);
                let reference = Bytes::round(Isa::Reference, x, columns, group, &Team::new(1));
                assert_eq!(got, reference, "{isa}");
                got
            })
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
        }
    }
    let tiny = Bytes::round(Isa::best(), &[1e-44, -1e-44], 2, 32, &Team::new(1));
    assert!(tiny.value(0, 0).abs() < 1e-38);
}

/// Numbers that are none, zeros, and those so small that their steps are none: in each place among four groups, with the reference's codes, sums and
/// scales to the bit.
#[test]
fn groups_that_are_not_like_others_are_rounded_alike() {
    let team = Team::new(1);
    let mut numbers = Numbers(11);
    for strange in [
        f32::NAN,
        f32::INFINITY,
        -f32::INFINITY,
        0.0,
        1e-44,
        1e-37,
        f32::MAX,
    ] {
        for place in 0..6 {
            let mut x = numbers.take(6 * 32);
            x[32 * place..32 * (place + 1)].fill(0.0);
            x[32 * place + 7] = strange;
            let bits = |isa| {
                let got = Bytes::round(isa, &x, x.len(), 32, &team);
                let of_column = |k: usize| (got.code(0, k), got.value(0, k).to_bits());
                let columns: Vec<_> = (0..x.len()).map(of_column).collect();
                (columns, got.sums_of_groups())
            };
            let expected = bits(Isa::Reference);
            for isa in Isa::here() {
                assert!(bits(isa) == expected, "{isa}: {strange} in group {place}");
            }
        }
    }
}

#[test]
fn planted_bugs_in_the_rounding_of_inputs_are_caught() {
    let team = Team::new(1);
    for isa in Isa::here() {
        let with = |change: &dyn Fn(usize, f32, f32) -> f32, x: &[f32], columns, group| {
            let row = |row: &[f32]| -> Vec<f32> {
                let top = row.iter().fold(0f32, |a, b| a.max(b.abs()));
                let each = |(k, it): (usize, &f32)| change(k, *it, top / 127.0);
                row.iter().enumerate().map(each).collect()
            };
            let x: Vec<f32> = x.chunks(columns).flat_map(row).collect();
            Bytes::round(isa, &x, columns, group, &team)
        };
        // Towards zero.
        let cut: &Round<'_> = &|x, columns, group| {
            let change = |_, it: f32, step: f32| it - it.signum() * (it.abs() % step.max(1e-30));
            with(&change, x, columns, group)
        };
        // The sign is lost.
        let bare: &Round<'_> =
            &|x, columns, group| with(&|_, it: f32, _| it.abs(), x, columns, group);
        // The last element of an odd word is lost.
        let short: &Round<'_> = &|x, columns, group| {
            let change = |k: usize, it, _| {
                if k + 1 == columns && k.is_multiple_of(4) {
                    0.0
                } else {
                    it
                }
            };
            with(&change, x, columns, group)
        };
        for (name, bug) in [("cut", cut), ("bare", bare), ("short", short)] {
            assert!(rounding_is_right(bug).is_err(), "{isa} {name}");
        }
    }
}

#[test]
fn scales_of_rows_and_fixed_ones_are_kept_by_all_groups() {
    let mut numbers = Numbers(5);
    let (columns, group) = (70, 32);
    let mut x = numbers.take(3 * columns);
    x[columns + 3] = f32::NAN;
    let team = Team::new(1);
    for isa in Isa::here() {
        for most in [127u8, 31, 7, 1] {
            for rule in [Scale::OfRow, Scale::Fixed(0.01)] {
                let got = Bytes::round_by(isa, (&x, columns), group, (most, rule), &team);
                let values = got.values();
                for (t, row) in x.chunks(columns).enumerate() {
                    let top = row.iter().fold(0f32, |a, b| a.max(b.abs()));
                    let step = match rule {
                        Scale::Fixed(step) => step,
                        _ => top / f32::from(most),
                    };
                    for (k, &value) in row.iter().enumerate() {
                        let found = values[t * columns + k];
                        if t == 1 {
                            assert!(found.is_nan(), "a row with a number that is none");
                            continue;
                        }
                        let end = step * f32::from(most);
                        let expected = value.clamp(-end, end);
                        assert!(
                            (found - expected).abs() <= step * 0.5001,
                            "{isa} [{t}, {k}]"
                        );
                        assert_eq!(found, got.value(t, k) as f32);
                        // Twice the same: what is rounded stays.
                        let codes = found / step;
                        assert!((codes - codes.round()).abs() < 1e-3);
                    }
                }
            }
        }
    }
}
