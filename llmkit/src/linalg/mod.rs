//! Linear algebra that methods need and where a plain, exact implementation says more than a dependency would.
//!
//! | file | what |
//! |---|---|
//! | [`cholesky`] | factors, inverses: in f64, on the threads and instructions that it is given |
//! | [`eigen`] | the largest eigenvalues of a symmetric matrix, with their vectors |
//! | [`hadamard`] | rotations by Hadamard matrices of any order we can build, fast |

pub mod cholesky;
pub mod eigen;
pub mod hadamard;
mod paley;

pub use hadamard::Hadamard;
