//! `kissops-exchanger`: sends the token requests of `kissopsd`, and outlives it. Started by `kissopsd` only.

use std::sync::Arc;

use kissops_core::vault::{Http, HttpExchanger, detached};

fn main() -> std::process::ExitCode {
    detached::run(|| Ok(Arc::new(HttpExchanger::new(Http::new()?)) as _))
}
