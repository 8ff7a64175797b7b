//! Integration tests.

mod config;
mod control;
mod init;
mod capture;
