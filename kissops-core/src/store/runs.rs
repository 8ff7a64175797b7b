//! The lives of processes.

use std::fmt;

use async_trait::async_trait;

use crate::{
    Result, Timestamp,
    id::{InstanceName, ProcessIdentity, RunId},
    supervisor::ExitStatus,
};

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
