//! Integration tests.

mod capture;
mod config;
mod control;
mod init;
