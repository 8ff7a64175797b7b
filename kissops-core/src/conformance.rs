//! The rules of each trait, as tests that any implementation can run.

pub mod store;
