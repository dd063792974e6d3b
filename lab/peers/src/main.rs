//! The Rust peers of `cargo lab bench peers`.

fn main() {}
