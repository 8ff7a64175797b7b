//! The rules of each trait, as tests that any implementation can run.

#[cfg(feature = "supervisor")]
pub mod store;
