//! Integration tests.

mod control;
mod config;
