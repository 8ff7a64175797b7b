//! Integration tests.

mod config;
mod init;
