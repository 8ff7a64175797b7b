//! Runs chat bots in production: keeps them alive, their output kept, their state stored.

#[cfg(feature = "agent")]
pub mod agent;
pub mod backoff;
pub mod clock;
#[cfg(feature = "supervisor")]
pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "control")]
pub mod control;
mod error;
#[cfg(feature = "supervisor")]
pub mod fleet;
pub mod id;
#[cfg(feature = "supervisor")]
pub mod init;
#[cfg(feature = "supervisor")]
pub mod logs;
#[cfg(feature = "supervisor")]
pub mod redact;
pub mod size;
#[cfg(feature = "supervisor")]
pub mod store;
#[cfg(feature = "supervisor")]
pub mod supervisor;
mod time;

pub use backoff::Backoff;
pub use error::{BoxError, Error, Result};
pub use size::ByteSize;
pub use time::{HumanDuration, Timestamp};
