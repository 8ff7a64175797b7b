//! The system's clocks. The wall clock may jump and dates records; the boot clock never does and measures spans.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};

use crate::{Timestamp, id::BootId};

/// The wall clock. For records and display only: it may jump.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// Time since the machine's boot, suspend included: comparable between processes of one boot.
#[must_use]
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The kernel's random name of this boot, from `/proc/sys/kernel/random/boot_id`; empty where there is none.
#[must_use]
pub fn boot_id() -> &'static BootId {
    static ID: OnceLock<BootId> = OnceLock::new();
    ID.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        BootId(text.trim().to_owned())
    })
}
