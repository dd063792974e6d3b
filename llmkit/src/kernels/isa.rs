//! Which instruction set a kernel runs on: chosen at run time, always an argument, never a global.

use std::fmt;
use std::sync::OnceLock;

/// An instruction set that kernels are written for, slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust on any processor: obvious, in f64 where it matters, never optimised. What the others are checked against.
    Reference,
    /// x86-64 with AVX2, FMA and F16C (2013 and later).
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL, VBMI, VNNI and BF16 (AMD Zen 4, Intel Sapphire Rapids and later). A processor with only a part of
    /// these runs [`Avx2`](Isa::Avx2).
    Avx512,
    /// [`Avx512`](Isa::Avx512), and products of bf16 and of bytes on matrix units (Intel Sapphire Rapids and later), where the system lends them.
    Amx,
}

impl Isa {
    /// All of them.
    pub const ALL: [Isa; 4] = [Isa::Reference, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// Whether this machine can run it.
    pub fn is_here(self) -> bool {
        // Asked for each row of an activation: looked up once.
        static HERE: OnceLock<[bool; Isa::ALL.len()]> = OnceLock::new();
        HERE.get_or_init(|| Isa::ALL.map(Isa::is_found))[self as usize]
    }

    fn is_found(self) -> bool {
        match self {
            Isa::Reference => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_found()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512.is_found() && super::amx::is_here(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Those this machine can run, slowest first.
    pub fn here() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_here()).collect()
    }

    /// The fastest that this machine can run.
    pub fn best() -> Isa {
        let mut fastest_first = Isa::ALL.into_iter().rev();
        (fastest_first.find(|isa| isa.is_here())).unwrap_or(Isa::Reference)
    }

    /// Stops a caller who names an instruction set that the machine lacks: running it would be undefined behaviour.
    pub(super) fn checked(self) -> Isa {
        assert!(self.is_here(), "this machine has no {self}");
        self
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Isa::Reference => "reference",
            Isa::Avx2 => "AVX2",
            Isa::Avx512 => "AVX-512",
            Isa::Amx => "AMX",
        })
    }
}

/// A loop in plain Rust that the compiler vectorizes, where no intrinsics are needed.
pub(super) trait Loop<Input> {
    /// What comes of it.
    type Output;
    /// Does it. Must be `#[inline(always)]`: what is not inlined is compiled without the instructions, silently. A closure cannot be marked
    /// so, and neither can what calls a function through `FnOnce`; hence this trait. [`vectorizable`] implements it.
    fn run(input: Input) -> Self::Output;
}

/// Makes a [`Loop`] of a function that is `#[inline(always)]`: `vectorizable!(Name<'a>: function, Input -> Output)`.
macro_rules! vectorizable {
    ($vis:vis $name:ident<$life:lifetime>: $function:ident, $input:ty => $output:ty) => {
        $vis struct $name;
        impl<$life> $crate::kernels::isa::Loop<$input> for $name {
            type Output = $output;
            #[inline(always)]
            fn run(input: $input) -> $output {
                $function(input)
            }
        }
    };
}
pub(super) use vectorizable;

/// Runs a loop, compiled for `isa`. The arithmetic is the same on each, so the results are too.
#[inline(always)]
#[allow(unsafe_code)]
pub(super) fn vectorized<Input, L: Loop<Input>>(isa: Isa, _: L, input: Input) -> L::Output {
    match isa.checked() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `checked` has seen the features on this machine.
        Isa::Avx512 | Isa::Amx => unsafe { on_avx512::<Input, L>(input) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { on_avx2::<Input, L>(input) },
        _ => L::run(input),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn on_avx512<Input, L: Loop<Input>>(input: Input) -> L::Output {
    L::run(input)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn on_avx2<Input, L: Loop<Input>>(input: Input) -> L::Output {
    L::run(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_runs_anywhere_and_the_best_runs_here() {
        assert_eq!(Isa::here()[0], Isa::Reference);
        assert!(Isa::best().is_here());
        assert!(Isa::here().is_sorted());
    }
}
