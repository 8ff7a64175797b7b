//! Integration tests.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod harness;
mod keeper;
mod outlive;
mod tree;
