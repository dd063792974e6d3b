//! Gates of codes, made where their products are.

use half::f16;

use super::{Numbers, fast};
use crate::kernels::dense::Into;
use crate::kernels::integer::{self, Bytes, IntPanels};
use crate::kernels::isa::Isa;
use crate::kernels::rows::Rows;
use crate::kernels::team::Team;

type Gate<'a> = dyn Fn(&Bytes, [&IntPanels; 2], usize) -> Bytes + 'a;

fn matrix(numbers: &mut Numbers, outputs: usize, columns: usize, has_mins: bool) -> IntPanels {
    let codes: Vec<u8> = (0..outputs * columns)
        .map(|_| numbers.below(16) as u8)
        .collect();
    let code = |n: usize, k: usize| codes[n * columns + k];
    let scale = |n: usize, g: usize| f16::from_f32(0.01 + (n % 7 + g) as f32 * 1e-3);
    let min = |n: usize, g: usize| f16::from_f32(-0.05 * (n % 3 + g) as f32);
    let zero_or_min: Result<u8, integer::OfGroup<'_>> = match has_mins {
        true => Err(&min),
        false => Ok(8),
    };
    IntPanels::pack((outputs, columns), 4, 32, code, &scale, zero_or_min)
}

/// Whether `kernel` gives what two products and the rounding of their gate give, to the bit.
fn gates_are_right(isa: Isa, kernel: &Gate<'_>) -> Result<(), String> {
    let mut numbers = Numbers(41);
    let team = Team::new(1);
    for (tokens, columns, outputs) in [(1, 64, 64), (3, 96, 320), (16, 64, 576), (70, 64, 384)] {
        for group in [32, 64, 128] {
            if !integer::gated::suits(isa, outputs, group) {
                continue;
            }
            let x = numbers.take(tokens * columns);
            let x = Bytes::round(isa, &x, columns, 32, &team);
            let [gate, up] =
                [false, true].map(|has_mins| matrix(&mut numbers, outputs, columns, has_mins));
            let [of_gate, of_up] = [&gate, &up].map(|it| {
                let mut out = vec![0.0; tokens * outputs];
                integer::multiply_at(isa, &x, it, Into::Replace, &mut out, &team);
                out
            });
            let rows = Rows::Gated {
                gate: &of_gate,
                up: &of_up,
                roughly: true,
            };
            let mut expected = Bytes::default();
            expected.round_from(isa, rows, outputs, group, &team);
            if kernel(&x, [&gate, &up], group) != expected {
                return Err(format!("{tokens}×{columns}×{outputs} in {group}"));
            }
        }
    }
    Ok(())
}

#[test]
fn gates_of_codes_have_the_bits_of_two_products() {
    for isa in fast() {
        for threads in [1, 2, 3] {
            let team = Team::new(threads);
            gates_are_right(isa, &|x, both, group| {
                // In what held something else before.
                let mut out = Bytes::round(isa, &[3.0; 5000], 50, 32, &team);
                integer::gated::gated(isa, x, both, group, &mut out, &team);
                out
            })
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
        }
    }
}

#[test]
fn what_does_not_suit_is_known_before() {
    for isa in fast() {
        assert!(integer::gated::suits(isa, 1536, 32) && integer::gated::suits(isa, 1536, 128));
        // Groups that end between two pieces, or beyond the row.
        assert!(!integer::gated::suits(isa, 1536, 96) && !integer::gated::suits(isa, 1536, 1536));
        assert!(!integer::gated::suits(isa, 80, 64));
    }
    assert!(!integer::gated::suits(Isa::Reference, 1536, 32));
}

#[test]
fn planted_bugs_in_gates_of_codes_are_caught() {
    let team = Team::new(2);
    for isa in fast() {
        let gated = |x: &Bytes, both: [&IntPanels; 2], group: usize| {
            let mut out = Bytes::default();
            integer::gated::gated(isa, x, both, group, &mut out, &team);
            out
        };
        let swapped: &Gate<'_> = &|x, [gate, up], group| gated(x, [up, gate], group);
        let other_groups: &Gate<'_> = &|x, both, group| gated(x, both, 96 - group.min(64));
        // As if one thread had not written its last group.
        let short: &Gate<'_> = &|x, both, group| {
            let all = gated(x, both, group);
            let mut values = all.values();
            let end = values.len();
            values[end - group..].fill(0.0);
            Bytes::round(isa, &values, all.columns(), group, &team)
        };
        for (name, bug) in [
            ("swapped", swapped),
            ("other groups", other_groups),
            ("short", short),
        ] {
            assert!(gates_are_right(isa, bug).is_err(), "{isa} {name}");
        }
    }
}
