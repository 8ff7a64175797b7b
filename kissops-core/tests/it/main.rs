//! Integration tests, one module per part.

#[cfg(feature = "agent")]
mod agent;
mod capture;
mod config;
#[cfg(feature = "control")]
mod control;
#[cfg(all(feature = "control", feature = "vault", feature = "sqlite"))]
mod control_vault;
#[cfg(feature = "dbcopy")]
mod dbcopy;
#[cfg(feature = "vault")]
mod deliver;
mod init;
mod log_read;
#[cfg(feature = "postgres")]
mod postgres;
mod redact;
mod spawn;
#[cfg(feature = "sqlite")]
mod store;
mod supervisor;
mod tree;
