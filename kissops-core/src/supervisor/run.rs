//! One life of an instance's process, as its task holds it.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use super::{Cgroup, Definition, Exited, Signal, SignalTo, Stop, Tree, notify::NotifySocket};
use crate::{
    Timestamp,
    id::{InstanceName, ProcessIdentity, RunId},
};

/// A process and what belongs to it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: RunId,
    /// Under which number the spawner knows the main process: `id`, unless the bot has named another process.
    pub(super) main: RunId,
    /// The main process.
    pub(super) pid: i32,
    /// The same, named for good.
    pub(super) process: Option<ProcessIdentity>,
    pub(super) exit: oneshot::Receiver<Exited>,
    /// All that it has started.
    pub(super) tree: Tree,
    /// Out-of-memory kills of its cgroup before it began.
    pub(super) oom_before: u64,
    pub(super) notify: Option<NotifySocket>,
    pub(super) times: Times,
    /// Resolves when a line of its output matches the readiness pattern.
    pub(super) line: Option<oneshot::Receiver<()>>,
    /// Its place among those that start; given back when it is ready or gone.
    pub(super) turn: Option<OwnedSemaphorePermit>,
    /// What a successor gets to know.
    pub(super) note: Note,
}

impl Run {
    /// Whether the kernel has killed one of its processes for want of memory, as far as that can be known: before its
    /// cgroup is gone.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.tree.cgroup().and_then(Cgroup::oom_kills).unwrap_or(0) > self.oom_before
    }
}

impl Run {
    /// How long it had run by `at`, as a sign of its health: one that was never ready has not run well for a moment.
    pub(super) fn stable_uptime(&self, at: Duration) -> Duration {
        if self.note.ready { at.saturating_sub(self.times.boot) } else { Duration::ZERO }
    }
}

/// When a run began, on every clock that somebody needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// For records.
    pub(super) at: Timestamp,
    /// For uptimes that outlive the daemon, on [`clock::since_boot`](crate::clock::since_boot).
    pub(super) boot: Duration,
    /// For comparisons with the times of files.
    pub(super) wall: SystemTime,
    /// For deadlines.
    pub(super) instant: Instant,
}

impl Times {
    pub(super) fn now() -> Self {
        let wall = SystemTime::now();
        Self { at: wall.into(), boot: crate::clock::since_boot(), wall, instant: Instant::now() }
    }

    /// The times of a run that began `boot` after the machine did.
    pub(super) fn of(at: Timestamp, boot: Duration) -> Self {
        let age = crate::clock::since_boot().saturating_sub(boot);
        let now = Self::now();
        Self {
            at,
            boot,
            wall: now.wall.checked_sub(age).unwrap_or(now.wall),
            instant: now.instant.checked_sub(age).unwrap_or(now.instant),
        }
    }
}

/// What a successor has to know of a run, kept with it by the spawner. New fields need a default: an older daemon may
/// have written it.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, in a format on disk")]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) instance: InstanceName,
    pub(super) started_at: Timestamp,
    pub(super) started_boot_us: u64,
    /// Of the definition that it was started with; 0 where nobody knows.
    pub(super) fingerprint: u64,
    pub(super) restarts: u64,
    pub(super) attempt: u32,
    pub(super) ready: bool,
    /// It is not the process that was started for this run, but one that took its place.
    #[serde(default)]
    pub(super) follows: Option<RunId>,
    /// A hook's process, not an instance's.
    #[serde(default)]
    pub(super) hook: bool,
    /// It has a pipe of its own for standard error: the second kept descriptor.
    #[serde(default)]
    pub(super) stderr: bool,
    /// It has a notify socket: the last kept descriptor.
    #[serde(default)]
    pub(super) notify: bool,
    /// The user who may speak on that socket, where it is not ours.
    #[serde(default)]
    pub(super) speaker: Option<u32>,
    /// How to stop it when its definition is gone.
    pub(super) stop: StopNote,
}

/// [`Stop`] as it is kept.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct StopNote {
    signal: Signal,
    grace_us: u64,
    to: SignalTo,
}

impl From<Stop> for StopNote {
    fn from(stop: Stop) -> Self {
        Self {
            signal: stop.signal,
            grace_us: u64::try_from(stop.grace.as_micros()).unwrap_or(u64::MAX),
            to: stop.to,
        }
    }
}

impl From<StopNote> for Stop {
    fn from(note: StopNote) -> Self {
        Self { signal: note.signal, grace: Duration::from_micros(note.grace_us), to: note.to }
    }
}

impl Note {
    pub(super) fn new(definition: &Definition, times: &Times, restarts: u64, attempt: u32) -> Self {
        Self {
            instance: definition.name.clone(),
            started_at: times.at,
            started_boot_us: u64::try_from(times.boot.as_micros()).unwrap_or(u64::MAX),
            fingerprint: definition.fingerprint(),
            restarts,
            attempt,
            ready: false,
            follows: None,
            hook: false,
            stderr: false,
            notify: false,
            speaker: None,
            stop: definition.stop.into(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn times(&self) -> Times {
        Times::of(self.started_at, Duration::from_micros(self.started_boot_us))
    }
}
