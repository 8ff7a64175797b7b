//! Integration tests.
mod spawn;
mod tree;
