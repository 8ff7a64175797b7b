//! Integration tests.

#[cfg(feature = "sqlite")]
mod store;
