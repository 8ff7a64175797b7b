//! The vault's clocks, to be replaced where hours have to pass in a moment.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::{Timestamp, clock};

/// What time it is, and waiting for another.
#[async_trait]
pub trait VaultTime: fmt::Debug + Send + Sync + 'static {
    /// The wall clock: dates records, and what a provider says. It may jump.
    fn now(&self) -> Timestamp;

    /// The boot clock: measures spans, suspend included. It never jumps.
    fn elapsed(&self) -> Duration;

    /// Returns once [`elapsed`](Self::elapsed) has reached `until`.
    ///
    /// # Cancel safety
    /// Nothing happens when it is dropped.
    async fn sleep_until(&self, until: Duration);
}

/// The system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemTime;

#[async_trait]
impl VaultTime for SystemTime {
    fn now(&self) -> Timestamp {
        clock::now()
    }

    fn elapsed(&self) -> Duration {
        clock::since_boot()
    }

    async fn sleep_until(&self, until: Duration) {
        // In steps: tokio's clock stands still while the machine is suspended, this one does not.
        loop {
            let left = until.saturating_sub(self.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(Duration::from_secs(30))).await;
        }
    }
}
