//! Integration tests.

mod capture;
mod log_read;
mod redact;
