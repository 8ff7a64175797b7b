//! What is known of an instance at one moment, as it is shown and sent.

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    id::InstanceName,
    store::Desired,
    supervisor::{Signal, StateName},
};

/// One instance at one moment. Its JSON is the interface of `kissops status --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct InstanceStatus {
    /// Its name.
    #[cfg_attr(feature = "control", schema(value_type = String))]
    pub name: InstanceName,
    /// Its state.
    pub state: StateName,
    /// It may take work.
    pub ready: bool,
    /// What the operator wants.
    #[cfg_attr(feature = "control", schema(value_type = String))]
    pub desired: Desired,
    /// Since when it is in this state.
    #[cfg_attr(feature = "control", schema(value_type = String))]
    pub since: Timestamp,
    /// Why it is in this state.
    pub reason: String,
    /// The main process.
    pub pid: Option<i32>,
    /// How long the process has run.
    pub uptime_seconds: Option<f64>,
    /// Restarts since the instance was first seen or last reset.
    pub restarts: u64,
    /// When the next start is due, in `backoff`.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub next_start_at: Option<Timestamp>,
    /// Resident memory of the process tree at the last sample.
    pub rss_bytes: Option<u64>,
    /// CPU of the process tree between the last two samples, in percent of one core.
    pub cpu_percent: Option<f64>,
    /// Threads of the tree at the last sample.
    pub threads: Option<u32>,
    /// Processes of the tree at the last sample.
    pub processes: Option<u32>,
    /// Its memory limit.
    pub memory_max_bytes: Option<u64>,
    /// What it last said of itself (`STATUS=`).
    pub status_text: Option<String>,
    /// How its last run ended.
    pub last_exit: Option<LastExit>,
    /// For people.
    pub description: String,
    /// Its tags.
    pub tags: Vec<String>,
}

/// How a run ended, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(utoipa::ToSchema))]
pub struct LastExit {
    /// The exit code, unless a signal killed it or nobody knows.
    pub code: Option<i32>,
    /// The signal that killed it.
    #[cfg_attr(feature = "control", schema(value_type = Option<String>))]
    pub signal: Option<Signal>,
    /// When.
    #[cfg_attr(feature = "control", schema(value_type = String))]
    pub at: Timestamp,
    /// For people: "exit code 1", "killed by SIGKILL (out of memory)".
    pub reason: String,
}
