//! What damaged files allocate, to the byte: `cargo test --manifest-path fuzz/Cargo.toml --release -- --nocapture`.
//!
//! The same inputs as llmkit's own `hostile` test, one after the other on one thread, under an allocator that counts.
//! `LLMKIT_HOSTILE_INPUTS` says how many.

#[allow(dead_code)]
#[path = "../../llmkit/tests/hostile/entry.rs"]
mod entry;
#[path = "../../llmkit/tests/hostile/mutate.rs"]
mod mutate;
#[allow(dead_code)]
#[path = "../../llmkit/tests/hostile/seeds/mod.rs"]
mod seeds;

use peak_alloc::PeakAlloc;

#[global_allocator]
static COUNTED: PeakAlloc = PeakAlloc;

/// What anything costs: regular expressions, tables of angles, buffers of readers.
const FIXED_BYTES: usize = 8 << 20;
/// What a byte of a file may cost.
const FACTOR: usize = 64;

#[test]
fn damaged_files_allocate_a_small_multiple_of_their_size() {
    let inputs: u64 = match std::env::var("LLMKIT_HOSTILE_INPUTS") {
        Ok(text) => text.parse().expect("LLMKIT_HOSTILE_INPUTS: a number"),
        Err(_) => 20_000,
    };
    for (target, run) in entry::ALL {
        let seeds = seeds::of(target);
        seeds.iter().for_each(|seed| drop(run(seed)));
        let (mut refused, mut largest, mut most) = (0, 0, 0f64);
        let share = inputs.div_ceil(entry::ALL.len() as u64);
        for index in 0..share {
            let bytes = mutate::mutated(&seeds, index);
            let before = COUNTED.current_usage();
            COUNTED.reset_peak_usage();
            refused += u64::from(run(&bytes).is_err());
            let peak = COUNTED.peak_usage().saturating_sub(before);
            assert!(
                peak <= FIXED_BYTES + FACTOR * bytes.len(),
                "{target}:{index}:1 allocated {peak} bytes for {}",
                bytes.len()
            );
            largest = largest.max(peak);
            if bytes.len() >= 1000 {
                most = most.max(peak as f64 / bytes.len() as f64);
            }
        }
        println!(
            "{target}: {share} inputs, {refused} refused, at most {largest} bytes allocated, at most {most:.1} a byte of input"
        );
    }
}
