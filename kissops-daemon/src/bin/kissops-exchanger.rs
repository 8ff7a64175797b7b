//! `kissops-exchanger`: sends the token requests of `kissopsd`, and outlives it. Started by `kissopsd` only.

use std::sync::Arc;

use kissops_core::vault::{Http, HttpExchanger, detached, harden_process};

fn main() -> std::process::ExitCode {
    detached::run(|| {
        harden_process()?;
        Ok(Arc::new(HttpExchanger::new(Http::new()?)) as _)
    })
}
