//! Integration tests.

mod control;
