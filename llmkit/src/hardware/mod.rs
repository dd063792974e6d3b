//! The machine under the model: its limits, and what they allow.
//!
//! | module | question |
//! |---|---|
//! | [`machine`] | how fast is memory read, at which size, and how fast can registers multiply? |
//! | [`roofline`] | which of the two limits bounds an operator, and how many tokens a second follow? |
//! | [`measured`] | how many are there really, and where does the time go? |

pub mod machine;
pub mod measured;
pub mod roofline;

pub use machine::Machine;
pub use roofline::{Operator, Pass};
