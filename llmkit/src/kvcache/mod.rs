//! Keys and values of the tokens seen so far.
//!
//! | module | question |
//! |---|---|
//! | [`store`] | how they are kept |

pub mod store;
