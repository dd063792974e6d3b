//! The forward half of Viterbi's algorithm on a bitshift trellis: what the best way into each class of states costs.
//!
//! State s of L bits is followed by (s·2ᵏ + code) mod 2ᴸ; states that share their last L − k bits, a class, have the same followers.
//!
//! ```text
//! M₀ given,   Mₜ[p] = min over j of Mₜ₋₁[s >> k] + (wₜ − g(s))²,   s = j·2^(L−k) + p,   j = 0 … 2ᵏ − 1
//! ```
//! All rows of M are kept: the way back looks at 2ᵏ costs a weight and needs no notes of where each came from.
//!
//! Values lie sorted by the state's last code, so that for one code everything is contiguous: with c = s >> k = j·2^(L−2k) + c′, p is
//! c′·2ᵏ + code. Plain Rust that the compiler vectorizes; a subtraction, a product, a sum and a minimum a state, in f32, the same bits on every
//! instruction set.
//!
//! Source: A. Viterbi (IEEE Trans. Inf. Theory 13, 1967); A. Tseng et al., *QTIP* (arXiv 2406.11235), section 3.1, for the trellis.
//!
//! Cost: 4·2ᴸ operations and 4·2^(L−k) bytes written a weight.

use super::isa::{Isa, vectorizable, vectorized};

/// Values of all states, sorted by the last code.
#[derive(Debug, Clone, PartialEq)]
pub struct States {
    code_bits: u32,
    /// (2ᵏ, 2^(L−k)): g(c·2ᵏ + code) at \[code, c\].
    planes: Vec<f32>,
}

impl States {
    /// Of the `values` g(0) … g(2ᴸ − 1); k = `code_bits`.
    ///
    /// # Panics
    /// If there are no such values, or not a power of two above 2ᵏ, or k is not 1 … 4.
    pub fn new(values: &[f32], code_bits: u32) -> States {
        assert!((1..=4).contains(&code_bits), "1 … 4 bits");
        let ways = 1 << code_bits;
        assert!(
            values.len().is_power_of_two() && values.len() > ways,
            "2ᴸ values"
        );
        let planes = (0..ways)
            .flat_map(|code| values.iter().skip(code).step_by(ways).copied())
            .collect();
        States { code_bits, planes }
    }

    /// 2^(L−k).
    pub fn classes(&self) -> usize {
        self.planes.len() >> self.code_bits
    }

    /// g(`state`).
    ///
    /// # Panics
    /// If there is no such state.
    pub fn value(&self, state: usize) -> f32 {
        let code = state & ((1 << self.code_bits) - 1);
        self.planes[code * self.classes() + (state >> self.code_bits)]
    }

    /// The cost of coming to `weight` by `state`, with the costs of all classes `before` it.
    #[inline(always)]
    fn cost(&self, before: &[f32], weight: f32, state: usize) -> f32 {
        before[state >> self.code_bits] + square(weight - self.value(state))
    }

    /// The state of least cost, and the first of these, that comes to class `class` at `weight`.
    pub fn best_into(&self, before: &[f32], weight: f32, class: usize) -> usize {
        let states = (0..1usize << self.code_bits).map(|way| way * self.classes() + class);
        let cost = |state: usize| self.cost(before, weight, state);
        let less = |best: usize, state: usize| match cost(state) < cost(best) {
            true => state,
            false => best,
        };
        states.reduce(less).unwrap_or(class)
    }
}

#[inline(always)]
fn square(x: f32) -> f32 {
    x * x
}

/// Fills rows 1 … T of `costs` (T + 1, classes) for T `weights`, from row 0.
///
/// # Panics
/// If `costs` has another size, or the machine lacks `isa`.
pub fn least_costs(isa: Isa, states: &States, weights: &[f32], costs: &mut [f32]) {
    let classes = states.classes();
    assert_eq!(costs.len(), (weights.len() + 1) * classes, "T + 1 rows");
    // Fewer classes than codes: not worth a loop of its own.
    if isa.checked() == Isa::Reference || !classes.is_multiple_of(1 << states.code_bits) {
        return reference(states, weights, costs);
    }
    vectorized(isa, Walk, (states, weights, costs));
}

fn reference(states: &States, weights: &[f32], costs: &mut [f32]) {
    let classes = states.classes();
    for (t, &weight) in weights.iter().enumerate() {
        let (before, after) = costs[t * classes..].split_at_mut(classes);
        for (class, best) in after[..classes].iter_mut().enumerate() {
            let state = states.best_into(before, weight, class);
            *best = states.cost(before, weight, state);
        }
    }
}

vectorizable!(Walk<'a>: walk, (&'a States, &'a [f32], &'a mut [f32]) => ());

#[inline(always)]
fn walk((states, weights, costs): (&States, &[f32], &mut [f32])) {
    match states.code_bits {
        1 => steps::<2>(states, weights, costs),
        2 => steps::<4>(states, weights, costs),
        3 => steps::<8>(states, weights, costs),
        _ => steps::<16>(states, weights, costs),
    }
}

/// With 2ᵏ = `WAYS`.
#[inline(always)]
fn steps<const WAYS: usize>(states: &States, weights: &[f32], costs: &mut [f32]) {
    let classes = states.classes();
    let inner = classes / WAYS;
    // By code, as they are found; then by class, codes last.
    let mut sorted = vec![0f32; classes];
    for (t, &weight) in weights.iter().enumerate() {
        let (before, after) = costs[t * classes..].split_at_mut(classes);
        let planes = states.planes.chunks_exact(classes);
        for (values, least) in planes.zip(sorted.chunks_exact_mut(inner)) {
            cheapest::<WAYS>(split(before), split(values), weight, least);
        }
        let (out, _) = after[..classes].as_chunks_mut::<WAYS>();
        for (at, out) in out.iter_mut().enumerate() {
            *out = std::array::from_fn(|code| sorted[code * inner + at]);
        }
    }
}

/// The parts of each way, which lie one after the other.
#[inline(always)]
fn split<const WAYS: usize>(all: &[f32]) -> [&[f32]; WAYS] {
    let inner = all.len() / WAYS;
    std::array::from_fn(|way| &all[way * inner..][..inner])
}

/// The least costs over all ways.
#[inline(always)]
fn cheapest<const WAYS: usize>(
    before: [&[f32]; WAYS],
    values: [&[f32]; WAYS],
    weight: f32,
    least: &mut [f32],
) {
    for at in 0..least.len() {
        let mut best = f32::INFINITY;
        for way in 0..WAYS {
            let cost = before[way][at] + square(weight - values[way][at]);
            best = if cost < best { cost } else { best };
        }
        least[at] = best;
    }
}
