//! Integration tests.

#[cfg(feature = "agent")]
mod agent;
#[cfg(feature = "sqlite")]
mod store;
