//! Integration tests.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod chaos;
mod harness;
mod keeper;
mod leaks;
mod life;
mod misfortune;
mod outlive;
mod output;
#[path = "../../../kissops-core/tests/it/postgres.rs"]
mod postgres;
mod reload;
mod rivals;
mod server;
mod tokens;
mod tree;
mod trees;
mod vault;
