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
mod reload;
mod rivals;
mod tree;
mod trees;
