//! The one binary, `ampoule`.
fn main() {}
