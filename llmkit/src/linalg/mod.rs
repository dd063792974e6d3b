//! Linear algebra in f64, on the threads and instructions that it is given.

pub mod cholesky;
