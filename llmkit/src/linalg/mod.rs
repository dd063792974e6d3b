//! Linear algebra that methods need and where a plain, exact implementation says more than a dependency would.
//!
//! | file | what |
//! |---|---|
//! | [`cayley`] | steps that keep a matrix orthogonal |
//! | [`cholesky`] | factors, inverses: in f64, on the threads and instructions that it is given |
//! | [`eigen`] | the largest eigenvalues of a symmetric matrix, with their vectors |
//! | [`hadamard`] | rotations by Hadamard matrices of any order we can build, fast |
//! | [`Orthogonal`] | what they have in common with [`Dense`] ones |

pub mod cayley;
pub mod cholesky;
pub mod eigen;
pub mod hadamard;
mod orthogonal;
mod paley;

pub use hadamard::Hadamard;
pub use orthogonal::{Dense, Orthogonal};
