//! Walks through trellises: the same bits as the reference, which is checked against all ways there are.

use super::Numbers;
use crate::kernels::isa::Isa;
use crate::kernels::trellis::{States, least_costs};

type Walk<'a> = dyn Fn(&States, &[f32], &mut [f32]) + 'a;

/// L and k: lanes full, in part, and fewer classes than codes.
const SHAPES: [(u32, u32); 9] = [
    (2, 1),
    (3, 2),
    (5, 1),
    (6, 2),
    (8, 2),
    (9, 3),
    (10, 4),
    (11, 1),
    (12, 2),
];

fn states(numbers: &mut Numbers, (state_bits, code_bits): (u32, u32)) -> States {
    States::new(&numbers.take(1 << state_bits), code_bits)
}

/// Rows of costs that begin with zeros, or with all but one class forbidden.
fn costs(count: usize, classes: usize, only: Option<usize>) -> Vec<f32> {
    let mut costs = vec![f32::NAN; (count + 1) * classes];
    for (class, cost) in costs[..classes].iter_mut().enumerate() {
        *cost = match only {
            Some(only) if only != class => f32::INFINITY,
            _ => 0.0,
        };
    }
    costs
}

fn walk_is_right(walk: &Walk<'_>) -> Result<(), String> {
    let mut numbers = Numbers(11);
    for shape in SHAPES {
        let states = states(&mut numbers, shape);
        let weights = numbers.take(9);
        for only in [None, Some(states.classes() - 1)] {
            let mut expected = costs(weights.len(), states.classes(), only);
            let mut got = expected.clone();
            least_costs(Isa::Reference, &states, &weights, &mut expected);
            walk(&states, &weights, &mut got);
            let differ = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
            if let Some(at) = got.iter().zip(&expected).position(differ) {
                let (t, class) = (at / states.classes(), at % states.classes());
                let (got, expected) = (got[at], expected[at]);
                return Err(format!(
                    "{shape:?}, weight {t}, class {class}: {got} for {expected}"
                ));
            }
        }
    }
    Ok(())
}

#[test]
fn walks_have_the_same_bits_on_every_instruction_set() {
    for isa in Isa::here() {
        walk_is_right(&|states, weights, costs| least_costs(isa, states, weights, costs))
            .unwrap_or_else(|wrong| panic!("{isa}: {wrong}"));
    }
}

/// From every state through every sequence of codes, the values written down from the definition.
#[test]
fn the_reference_finds_the_best_of_all_ways() {
    let mut numbers = Numbers(12);
    for (state_bits, code_bits, count) in [(3, 2, 2), (4, 1, 5), (5, 2, 3)] {
        let values = numbers.take(1 << state_bits);
        let states = States::new(&values, code_bits);
        let weights = numbers.take(count);
        let mut costs = costs(count, states.classes(), None);
        least_costs(Isa::Reference, &states, &weights, &mut costs);
        let mut best = vec![f32::INFINITY; states.classes()];
        for first in 0..values.len() {
            for codes in 0..1usize << (code_bits as usize * count) {
                let (mut state, mut cost) = (first, 0.0);
                for (t, weight) in weights.iter().enumerate() {
                    let code = codes >> (code_bits as usize * t) & ((1 << code_bits) - 1);
                    state = (state << code_bits | code) % values.len();
                    cost += (weight - values[state]) * (weight - values[state]);
                    assert_eq!(states.value(state), values[state]);
                }
                let best = &mut best[state % states.classes()];
                *best = best.min(cost);
            }
        }
        assert_eq!(costs[count * states.classes()..], best);
    }
}

#[test]
fn planted_bugs_in_walks_are_caught() {
    let stale = |states: &States, weights: &[f32], costs: &mut [f32]| {
        // The first way only.
        let classes = states.classes();
        for (t, weight) in weights.iter().enumerate() {
            for class in 0..classes {
                let state = states.best_into(&vec![0.0; classes], *weight, class);
                let value = states.value(state);
                costs[(t + 1) * classes + class] =
                    costs[t * classes + class] + (weight - value) * (weight - value);
            }
        }
    };
    let unsorted = |states: &States, weights: &[f32], costs: &mut [f32]| {
        // Classes by code first, as they are found.
        let classes = states.classes();
        least_costs(Isa::Reference, states, weights, costs);
        for row in costs.chunks_exact_mut(classes).skip(1) {
            let half = row.iter().step_by(2).chain(row.iter().skip(1).step_by(2));
            let turned: Vec<f32> = half.copied().collect();
            row.copy_from_slice(&turned);
        }
    };
    let bugs: [(&str, &Walk<'_>); 2] = [
        ("costs of the class, not of the state's", &stale),
        ("classes in another order", &unsorted),
    ];
    for (bug, walk) in bugs {
        assert!(walk_is_right(walk).is_err(), "{bug}");
    }
}
