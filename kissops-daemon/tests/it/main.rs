//! Integration tests.
mod keeper;
