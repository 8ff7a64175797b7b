//! The refresher against a scripted provider, over hours that pass in a moment.

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

mod crash;
mod doubts;
mod full;
mod outage;
mod pace;
mod race;
mod recall;
mod restraint;
mod usual;
mod world;

/// Until when each part has nothing to do; nanoseconds of the boot clock, 0 while it works.
#[derive(Debug, Default)]
pub(crate) struct Rests {
    refresher: AtomicU64,
    upkeep: AtomicU64,
    changed: tokio::sync::Notify,
}

impl Rests {
    pub(crate) fn refresher_works(&self) {
        self.refresher.store(0, SeqCst);
    }

    pub(crate) fn refresher(&self, until: Option<Duration>) {
        self.refresher.store(until.map_or(u64::MAX, nanos), SeqCst);
        self.changed.notify_waiters();
    }

    pub(crate) fn upkeep(&self, until: Duration) {
        self.upkeep.store(nanos(until), SeqCst);
        self.changed.notify_waiters();
    }

    fn until(&self) -> Duration {
        Duration::from_nanos(self.refresher.load(SeqCst).min(self.upkeep.load(SeqCst)))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
