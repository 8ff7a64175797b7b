//! Runs chat bots in production: keeps them alive, their output kept, their state stored.
//!
//! This is the library behind `kissopsd` and `kissops`, to be embedded in a program of yours. A supervisor:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use kissops_core::{
//!     agent::shutdown_signal,
//!     store::sqlite::{SqliteOptions, SqliteStore},
//!     supervisor::{Definition, Leave, Supervisor},
//! };
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> kissops_core::Result<()> {
//!     let shutdown = shutdown_signal()?;
//!     let store = SqliteStore::open("state/bots.db", SqliteOptions::default())?;
//!     let supervisor = Supervisor::builder(Arc::new(store)).log_dir("state/logs").build()?;
//!     let web = Definition::new("web", ["python3", "web.py"])?;
//!     let mut bot = Definition::new("bot", ["node", "bot.js"])?;
//!     bot.requires.push(web.name.clone());
//!     supervisor.begin(vec![web, bot]).await?;
//!     shutdown.await;
//!     supervisor.shutdown(Leave::Stopped).await;
//!     Ok(())
//! }
//! ```
//!
//! A bot that runs under a supervisor, `kissopsd`'s or systemd's, needs no more than [`agent`]:
//!
//! ```no_run
//! # async fn bot() -> kissops_core::Result<()> {
//! let agent = kissops_core::agent::Agent::from_env()?;
//! let shutdown = kissops_core::agent::shutdown_signal()?;
//! agent.ready()?;
//! shutdown.await;
//! agent.stopping()
//! # }
//! ```
//!
//! # What it does to its host
//!
//! It runs on the caller's tokio runtime, of either kind. It installs no signal handler (but for
//! [`agent::shutdown_signal`], where you ask for it), no panic hook, no tracing subscriber and no TLS provider; it has no
//! global state and reaps no child that is not its own. Linux only: it stands on pidfds, `/proc`, `tee(2)` and, where
//! there is one, cgroup v2.
//!
//! # Features
//!
//! All are additive. `default` is `sqlite`, `supervisor`, `agent` and `vault`.
//!
//! | feature | what it adds |
//! |---|---|
//! | `sqlite` | [`store::sqlite`]: the state in one file, with a bundled `SQLite` |
//! | `postgres` | `store::postgres`: the state on a server |
//! | `supervisor` | [`supervisor`], [`logs`], [`config`], [`fleet`], [`init`], [`redact`], [`store`] |
//! | `vault` | `vault`: OAuth tokens sealed, refreshed and handed to bots; `limit`; other secrets |
//! | `agent` | [`agent`]: readiness, watchdog, heartbeat and graceful shutdown of a bot, its tokens, `limit`; no further dependency |
//! | `control` | `control`: the HTTP API over a fleet, to mount in an axum router or to serve on a unix socket |
//! | `dbcopy` | `dbcopy`: any `SQLite` file to a Postgres database, planned, loaded by COPY, and proven |
//! | `conformance` | `conformance`: the rules of each trait as tests, for a store of your own |
//!
//! # Where to look
//!
//! | module | what is there |
//! |---|---|
//! | [`supervisor`] | [`Supervisor`](supervisor::Supervisor), [`Definition`](supervisor::Definition), the [`Spawn`](supervisor::Spawn) seam and its two implementations |
//! | [`fleet`] | a supervisor together with a configuration file and the members added at run time |
//! | [`config`] | the file: layers, checks, errors with their place and what mends them |
//! | `vault` | the [`TokenVault`](vault::TokenVault) trait, [`Vault`](vault::Vault) over a store, delivery to bots, authorization |
//! | `limit` | rate limits that bots share, and cool-downs |
//! | [`store`] | the [`Store`](store::Store) trait: all that outlives the program, behind one small trait per concept |
//! | [`logs`] | capture, rotation and reading of what instances print |
//! | [`redact`] | keeps secrets out of all of it |
//! | [`init`] | proposes a configuration for a folder |
//! | [`backoff`], [`clock`], [`id`], [`size`] | values: delays, clocks, names and numbers, sizes |
//!
//! Errors are one type, [`Error`], sorted by what its receiver does next; [`Error::is_transient`] says whether a retry
//! makes sense, [`Error::chain`] shows the whole cause. The architecture, its invariants and the decisions behind it are
//! in the repository's `docs/`.

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
#[cfg(feature = "dbcopy")]
pub mod dbcopy;
mod error;
#[cfg(feature = "supervisor")]
pub mod fleet;
pub mod id;
#[cfg(feature = "supervisor")]
pub mod init;
#[cfg(any(feature = "agent", feature = "vault"))]
pub mod limit;
#[cfg(feature = "supervisor")]
pub mod logs;
#[cfg(feature = "vault")]
mod metrics;
#[cfg(any(feature = "dbcopy", all(feature = "postgres", feature = "supervisor")))]
mod pg;
#[cfg(feature = "supervisor")]
mod plain;
#[cfg(feature = "supervisor")]
pub mod redact;
pub mod size;
#[cfg(feature = "supervisor")]
pub mod store;
#[cfg(feature = "supervisor")]
pub mod supervisor;
mod time;
#[cfg(feature = "vault")]
pub mod vault;

pub use backoff::Backoff;
pub use error::{BoxError, Error, Result};
pub use size::ByteSize;
pub use time::{HumanDuration, Timestamp};
