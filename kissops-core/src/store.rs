//! [`Store`]: what must survive a restart, as typed records behind one small trait per concept.
//!
//! Every implementation keeps the rules in `conformance::store` (feature `conformance`).

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    Result, Timestamp,
    id::{InstanceName, ProcessIdentity, RecordId, RunId},
    supervisor::{ExitStatus, ResourceUse, StateName},
};

#[cfg(feature = "sqlite")]
mod migrate;
#[cfg(feature = "sqlite")]
pub mod sqlite;

/// All that outlives the daemon. Held as `Arc<dyn Store>`.
///
/// Each method is one transaction: it happened whole or not at all, and once it has answered it is there after the
/// process is killed at any later moment. Times are UTC with microseconds and come from the caller.
///
/// # Errors
/// Every method: [`Unavailable`](crate::Error::Unavailable) if the database does not answer (a full disk included),
/// [`Corrupt`](crate::Error::Corrupt) if a row cannot be what was written.
///
/// # Cancel safety
/// A dropped call may still take effect, whole.
pub trait Store: InstanceStore + MemberStore + RunStore + EventStore + CrashStore {}

impl<T: InstanceStore + MemberStore + RunStore + EventStore + CrashStore> Store for T {}

/// What the operator wants of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Keep it running, also after a restart of the daemon.
    Running,
    /// Leave it stopped, also after a restart of the daemon.
    Stopped,
}

/// What is kept of an instance between lives of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceRecord {
    /// Its name.
    pub name: InstanceName,
    /// What the operator wants.
    pub desired: Desired,
    /// How often it was restarted since it was first seen or reset.
    pub restarts: u64,
    /// Why it was given up (start limit), until an operator resets it.
    pub failed: Option<String>,
    /// When this record was last changed.
    pub updated_at: Timestamp,
}

/// Desired states and counters of instances.
#[async_trait]
pub trait InstanceStore: fmt::Debug + Send + Sync + 'static {
    /// All records, by name.
    async fn instances(&self) -> Result<Vec<InstanceRecord>>;
    /// Writes the record of `record.name`, in place of one that was there.
    async fn put_instance(&self, record: InstanceRecord) -> Result<()>;
    /// Forgets an instance. Nothing happens where there is none.
    async fn remove_instance(&self, name: &InstanceName) -> Result<()>;
}

/// A member that was added to a template at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its full name, `template@member`.
    pub name: InstanceName,
    /// What `{vars.x}` stands for in the template.
    pub vars: BTreeMap<String, String>,
    /// When it was added.
    pub added_at: Timestamp,
}

/// Template members that were added at run time.
#[async_trait]
pub trait MemberStore: fmt::Debug + Send + Sync + 'static {
    /// All members, by name.
    async fn members(&self) -> Result<Vec<MemberRecord>>;
    /// Adds a member.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if there is one of that name; it stays as it is.
    async fn add_member(&self, member: MemberRecord) -> Result<()>;
    /// Removes a member.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is none of that name.
    async fn remove_member(&self, name: &InstanceName) -> Result<()>;
}

/// One life of an instance's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// Its number.
    pub id: RunId,
    /// Whose life.
    pub instance: InstanceName,
    /// Which process.
    pub process: ProcessIdentity,
    /// When it was started.
    pub started_at: Timestamp,
    /// How it ended, once it has.
    pub end: Option<RunEnd>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEnd {
    /// When.
    pub at: Timestamp,
    /// The exit status; [`ExitStatus::Unknown`] where the kernel would not say, never a guess.
    pub status: ExitStatus,
}

/// The lives of processes.
#[async_trait]
pub trait RunStore: fmt::Debug + Send + Sync + 'static {
    /// Records that a process was started. The same run again changes nothing.
    async fn begin_run(&self, run: RunRecord) -> Result<()>;
    /// Records how a run ended. The first end stays; a run that is not there is no error.
    async fn end_run(&self, run: RunId, end: RunEnd) -> Result<()>;
    /// Runs without an end, oldest first.
    async fn open_runs(&self) -> Result<Vec<RunRecord>>;
    /// The latest `limit` runs of `instance`, newest first.
    async fn runs(&self, instance: &InstanceName, limit: u32) -> Result<Vec<RunRecord>>;
    /// Removes at most `limit` runs that ended before `before`; says how many.
    async fn prune_runs(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// When.
    pub at: Timestamp,
    /// To which instance; `None` for the fleet as a whole.
    pub instance: Option<InstanceName>,
    /// What.
    pub kind: EventKind,
    /// Why, for people. Free of secrets.
    pub reason: String,
}

/// What kind of thing happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An instance changed its state.
    Transition {
        /// From this state.
        from: StateName,
        /// To this state.
        to: StateName,
    },
    /// Anything else, named by a stable word such as `daemon.started`, `logs.dropped`, `config.reloaded`.
    Other(String),
}

/// A stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Its number; later events have larger ones.
    pub id: RecordId,
    /// What happened.
    pub event: NewEvent,
}

/// Which events to read.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Only of these instances; all when empty.
    pub instances: Vec<InstanceName>,
    /// Only at or after this time.
    pub since: Option<Timestamp>,
    /// Only before this time.
    pub until: Option<Timestamp>,
    /// Only after this id, oldest first. Without it: the latest ones.
    pub after: Option<RecordId>,
    /// At most so many.
    pub limit: u32,
}

/// What happened, in order.
#[async_trait]
pub trait EventStore: fmt::Debug + Send + Sync + 'static {
    /// Appends events; their ids grow in the order given, and are larger than any given before by this store.
    async fn append_events(&self, events: Vec<NewEvent>) -> Result<Vec<RecordId>>;
    /// Reads events in the order of their ids. Without `after`: the latest `limit`, still oldest first.
    async fn events(&self, query: EventQuery) -> Result<Vec<EventRecord>>;
    /// Removes at most `limit` events older than `before`, oldest first; says how many.
    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

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
