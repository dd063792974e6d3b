//! The arithmetic that everything else waits for, and the only unsafe code of the crate.
//!
//! | file | what |
//! |---|---|
//! | [`dense`] | x · Wᵀ with f32 or bf16 elements |
//! | [`windowed`] | the same with bf16 elements that are kept in 12 bits |
//! | [`integer`] | x · Wᵀ with 8-bit inputs and 1- to 8-bit codes in groups, and gates made of such |
//! | [`product`] | several of these at once |
//! | [`tiled`] | inputs as matrix units read them, and gates made of them |
//! | [`gram`] | Xᵀ · X of an activation |
//! | [`quadratic`] | x · G · xᵀ |
//! | [`update`] | C += A · B in f64 |
//! | [`trellis`] | what the best way into each class of a trellis' states costs |
//! | [`attention`] | softmax(q·kᵀ)·v over blocks of keys and values |
//! | [`activation`] | RMSNorm, SwiGLU, softmax: what is done to each element |
//! | [`rope`] | rotary positions |
//! | [`likelihood`], [`divergence`] | what rows of logits say |
//! | [`panel`] | how matrices are laid out |
//! | `amx` | bf16 products on matrix units, and the unit itself |
//! | [`limits`] | what the machine can do at most |
//! | [`isa`], [`team`], [`scattered`] | which instructions, which threads, which rows of theirs |
//! | [`mapped`], [`pages`], [`fetch`](mod@fetch) | weight files in memory; memory for weights; what is wanted soon |
//!
//! A kernel file has, in order: the public function, the same on a given [`Isa`], the reference (obvious, f64, never
//! optimised), one function for each instruction set, tests of each of these against the reference.
//!
//! Results depend on the instruction set (in the last bits of floating sums) and on nothing else: not on the number of tokens
//! at once, not on threads, not on where a sequence was cut into chunks.

pub mod activation;
pub mod aligned;
#[cfg(target_arch = "x86_64")]
pub mod amx;
pub mod attention;
pub mod dense;
pub mod divergence;
pub mod fetch;
pub mod gram;
mod halves;
pub mod integer;
pub mod isa;
pub mod keep;
pub mod likelihood;
pub mod limits;
pub mod mapped;
pub mod pages;
pub mod panel;
pub mod product;
pub mod quadratic;
pub mod rope;
pub mod rows;
pub mod scattered;
pub mod team;
#[cfg(test)]
mod tests;
pub mod tiled;
pub mod trellis;
pub mod update;
pub mod windowed;

pub use isa::Isa;
pub use panel::Panels;
pub use team::Team;
