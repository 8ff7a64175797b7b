//! Reports of abnormal exits.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::{
    Result, Timestamp,
    id::{InstanceName, RecordId, RunId},
    supervisor::{ExitStatus, ResourceUse},
};

/// What is known of an abnormal exit.
#[derive(Clone, Debug, PartialEq)]
pub struct CrashReport {
    /// Whose.
    pub instance: InstanceName,
    /// Which run.
    pub run: RunId,
    /// When it died.
    pub at: Timestamp,
    /// How it died.
    pub status: ExitStatus,
    /// Why the supervisor thinks so: "exit code 1", "killed by SIGKILL (out of memory)", "liveness: heartbeat is 95s old".
    pub reason: String,
    /// The kernel killed it, or one of its cgroup, for want of memory.
    pub out_of_memory: bool,
    /// How long it had run.
    pub uptime: Duration,
    /// What it had used, where the kernel said.
    pub usage: Option<ResourceUse>,
    /// How often the instance had been restarted before.
    pub restarts: u64,
    /// Its last lines of output, oldest first, redacted.
    pub last_lines: Vec<String>,
}

/// A stored crash report.
#[derive(Clone, Debug, PartialEq)]
pub struct CrashRecord {
    /// Its number; later crashes have larger ones.
    pub id: RecordId,
    /// The report.
    pub report: CrashReport,
}

/// Which crash reports to read.
#[derive(Clone, Debug, Default)]
pub struct CrashQuery {
    /// Only of these instances; all when empty.
    pub instances: Vec<InstanceName>,
    /// Only at or after this time.
    pub since: Option<Timestamp>,
    /// At most so many.
    pub limit: u32,
}

/// Reports of abnormal exits.
#[async_trait]
pub trait CrashStore: fmt::Debug + Send + Sync + 'static {
    /// Keeps a report.
    async fn add_crash(&self, report: CrashReport) -> Result<RecordId>;
    /// The latest reports that match, newest first.
    async fn crashes(&self, query: CrashQuery) -> Result<Vec<CrashRecord>>;
    /// Removes at most `limit` reports older than `before`; says how many.
    async fn prune_crashes(&self, before: Timestamp, limit: u32) -> Result<u64>;
}
