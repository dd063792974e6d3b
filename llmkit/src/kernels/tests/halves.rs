//! Gates that are rounded to bf16.

use super::{Numbers, fast};
use crate::kernels::halves;
use crate::kernels::panel::Element;

type Gate<'a> = dyn Fn(&[f32], &[f32], &mut [u32]) + 'a;

/// Whether each is silu(gate) · up to half a unit of its last of 8 places, 6·10⁻⁶ of it, and what lies below 10⁻³⁶.
fn gates_are_right(kernel: &Gate<'_>) -> Result<(), String> {
    let mut numbers = Numbers(21);
    for count in [1, 2, 16, 31, 32, 33, 100, 576] {
        for scale in [1.0, 4.0, 30.0] {
            let mut gate = numbers.take(count);
            gate.iter_mut().for_each(|it| *it *= scale);
            let up = numbers.take(count);
            let mut out = vec![u32::MAX; count.div_ceil(2)];
            kernel(&gate, &up, &mut out);
            for (i, (&gate, &up)) in gate.iter().zip(&up).enumerate() {
                let got = f64::from(Element::Bf16.of_word(out[i / 2], i % 2));
                let (x, up) = (f64::from(gate), f64::from(up));
                let expected = x / (1.0 + (-x).exp()) * up;
                let bound = expected.abs() * (1.001 / 256.0 + 6e-6) + 1e-36;
                if got.is_nan() || (got - expected).abs() > bound {
                    return Err(format!("{count} {i}: {got} for {expected} of {gate}"));
                }
            }
            if !count.is_multiple_of(2) && out[count / 2] >> 16 != 0 {
                return Err(format!("{count}: an odd end is not zero"));
            }
        }
    }
    Ok(())
}

#[test]
fn gates_are_as_good_as_their_rounding() {
    for isa in fast() {
        gates_are_right(&|gate, up, out| halves::round_gated(isa, gate, up, out))
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
    }
}

/// Where a hook sees a gate that is rounded afterwards, it sees what is rounded.
#[test]
fn a_gate_that_is_not_rounded_rounds_to_the_one_that_is() {
    let mut numbers = Numbers(22);
    for isa in fast() {
        for count in [1, 16, 33, 100] {
            let [gate, up] = [(); 2].map(|()| numbers.take(count));
            let mut values = vec![f32::NAN; count];
            halves::gate(isa, &gate, &up, &mut values);
            let [mut got, mut expected] = [(); 2].map(|()| vec![0; count.div_ceil(2)]);
            halves::round(isa, &values, &mut got);
            halves::round_gated(isa, &gate, &up, &mut expected);
            assert_eq!(got, expected, "{isa} {count}");
        }
    }
}

#[test]
fn planted_bugs_in_gates_are_caught() {
    for isa in fast() {
        let honest = |gate: &[f32], up: &[f32], out: &mut [u32]| {
            halves::round_gated(isa, gate, up, out);
        };
        // Gate and what it is for have changed places.
        let exchanged: &Gate<'_> = &|gate, up, out| honest(up, gate, out);
        // e to the gate, not to minus the gate.
        let turned: &Gate<'_> = &|gate, up, out| {
            let [gate, up] = [gate, up].map(|it| it.iter().map(|it| -it).collect::<Vec<_>>());
            honest(&gate, &up, out);
        };
        // 2 to the gate.
        let of_two: &Gate<'_> = &|gate, up, out| {
            let gate: Vec<f32> = gate.iter().map(|it| it * std::f32::consts::LN_2).collect();
            let up: Vec<f32> = up.iter().map(|it| it / std::f32::consts::LN_2).collect();
            honest(&gate, &up, out);
        };
        // Cut, not rounded: twice the error that is allowed.
        let cut: &Gate<'_> = &|gate, up, out| {
            let up: Vec<f32> = up.iter().map(|it| it * (1.0 - 1.0 / 256.0)).collect();
            honest(gate, &up, out);
        };
        for (name, bug) in [
            ("exchanged", exchanged),
            ("turned", turned),
            ("of two", of_two),
            ("cut", cut),
        ] {
            assert!(gates_are_right(bug).is_err(), "{isa} {name}");
        }
    }
}

#[test]
fn a_gate_of_no_number_is_none_and_large_ones_end_at_zero_or_themselves() {
    for isa in fast() {
        let gate = [f32::NAN, 1000.0, -1000.0, f32::INFINITY, 0.0, -0.0];
        let mut out = [0; 3];
        halves::round_gated(isa, &gate, &[2.0; 6], &mut out);
        let of = |i: usize| Element::Bf16.of_word(out[i / 2], i % 2);
        assert!(of(0).is_nan(), "{isa}");
        assert_eq!(
            [of(1), of(2).abs(), of(3), of(4)],
            [2000.0, 0.0, f32::INFINITY, 0.0],
            "{isa}"
        );
    }
}
