//! Integration tests.
mod spawn;
