//! Integration tests.

mod capture;
