//! Readiness: finding out when an instance may take work (SUP-8).

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use tokio::{net::TcpStream, sync::oneshot, time::Instant};

use super::ReadyCheck;
use crate::plain;

/// Between tries; the time that a ready bot waits to be seen as such.
const POLL: Duration = Duration::from_millis(200);
/// The longest that one try may take.
const TRY: Duration = Duration::from_secs(5);

/// Resolves when the check passes; never for [`ReadyCheck::Notify`], which arrives by itself.
pub(super) async fn reached(
    check: &ReadyCheck,
    launched: SystemTime,
    line: Option<oneshot::Receiver<()>>,
) {
    match check {
        ReadyCheck::Notify => std::future::pending().await,
        ReadyCheck::Delay(delay) => tokio::time::sleep(*delay).await,
        ReadyCheck::Http(url) => poll(|| http(url, TRY)).await,
        ReadyCheck::Tcp(address) => poll(|| tcp(address, TRY)).await,
        ReadyCheck::Heartbeat(path) => poll(async || written_since(path, launched)).await,
        ReadyCheck::Log(_) => {
            let found = match line {
                Some(line) => line.await.is_ok(),
                None => false,
            };
            if !found {
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn poll<F: Future<Output = Result<(), String>>>(check: impl Fn() -> F) {
    while check().await.is_err() {
        tokio::time::sleep(POLL).await;
    }
}

/// A GET answers 200 to 399 within `limit`.
pub(super) async fn http(url: &str, limit: Duration) -> Result<(), String> {
    // One client for all: it keeps no connection open between probes, so a bot sees each probe as a new one.
    static CLIENT: std::sync::OnceLock<Option<reqwest::Client>> = std::sync::OnceLock::new();
    let client = CLIENT.get_or_init(|| {
        let builder =
            plain::client().pool_max_idle_per_host(0).redirect(reqwest::redirect::Policy::none());
        builder.user_agent(concat!("kissops/", env!("CARGO_PKG_VERSION"))).build().ok()
    });
    let Some(client) = client else { return Err("no HTTP client could be made".to_owned()) };
    match client.get(url).timeout(limit).send().await {
        Ok(answer) if (200..400).contains(&answer.status().as_u16()) => Ok(()),
        Ok(answer) => Err(format!("{url} answered {}", answer.status())),
        Err(error) if error.is_timeout() => Err(format!("{url} did not answer within {limit:?}")),
        Err(error) => Err(format!("{url}: {}", root_cause(&error))),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// A TCP connection is accepted within `limit`.
pub(super) async fn tcp(address: &str, limit: Duration) -> Result<(), String> {
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Err(_) => Err(format!("{address} did not accept a connection within {limit:?}")),
    }
}

fn written_since(path: &Path, launched: SystemTime) -> Result<(), String> {
    let written = std::fs::metadata(path)
        .and_then(|file| file.modified())
        .map_err(|error| error.to_string())?;
    // File systems keep times more coarsely than the clock: a file of the same tick counts.
    if written + Duration::from_millis(20) >= launched {
        Ok(())
    } else {
        Err("older than the process".to_owned())
    }
}

/// Sleeps until then, or for ever.
pub(super) async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
