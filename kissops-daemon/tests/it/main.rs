//! Integration tests.
mod keeper;
mod tree;
