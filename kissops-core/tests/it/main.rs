//! Integration tests.

mod config;
#[cfg(feature = "agent")]
mod agent;
#[cfg(feature = "sqlite")]
mod store;
mod capture;
mod spawn;
mod control;
mod init;
