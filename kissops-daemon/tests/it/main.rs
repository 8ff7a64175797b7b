//! Integration tests.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod harness;
mod keeper;
mod life;
mod outlive;
mod output;
mod reload;
mod tree;
mod trees;
