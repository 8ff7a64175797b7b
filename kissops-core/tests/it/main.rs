//! Integration tests.

mod config;
mod control;
