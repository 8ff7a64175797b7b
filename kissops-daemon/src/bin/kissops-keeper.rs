//! kissops.
fn main() {}
