//! [`JobStore`]: what was due when, and what came of it.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::{
    Claimant,
    names::{names, numbers, words},
};
use crate::{Result, Timestamp};

numbers! {
    /// One run of a job. Later ones have larger numbers.
    JobRunId
}

names! {
    /// A job: the `old-scans` of `[job.old-scans]`.
    JobName
}

/// What is kept of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// Its name.
    pub name: JobName,
    /// Tells one schedule from another: the stable hash of its expression, zone and policies.
    pub fingerprint: u64,
    /// Due times up to this one were dealt with: run, skipped or given up. At first, when the schedule was first seen.
    pub last_due: Timestamp,
}

words! {
    /// Why a job runs.
    pub enum JobCause {
        /// Its time has come.
        Schedule = "schedule",
        /// Its time came while nobody was there.
        CatchUp = "catch_up",
        /// The daemon started.
        Start = "start",
        /// It failed before.
        Retry = "retry",
        /// Somebody asked for it; its due time is that moment, and [`JobRecord::last_due`] stays.
        Manual = "manual",
    }
}

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobDue {
    /// Which job.
    pub job: JobName,
    /// When it was due. With the job it names the run.
    pub due: Timestamp,
    /// Why it runs.
    pub cause: JobCause,
}

/// Whether a run may begin while another one of its job goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// It may.
    Allow,
    /// It may not, on whichever host the other one is.
    Forbid,
}

/// One run of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRun {
    /// Its number.
    pub id: JobRunId,
    /// What it was for.
    pub due: JobDue,
    /// Who runs it.
    pub host: String,
    /// When that one began.
    pub started_at: Timestamp,
    /// 1, and one more each time that somebody took over from one who had vanished.
    pub attempt: u32,
    /// How it stands.
    pub state: JobRunState,
}

impl JobRun {
    /// The right to end it, as long as nobody has taken over.
    #[must_use]
    pub fn claim(&self) -> JobClaim {
        JobClaim { run: self.id, attempt: self.attempt }
    }
}

/// How a run of a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobRunState {
    /// It is running.
    Running {
        /// From then on, by the database's clock, another host may take over.
        until: Timestamp,
    },
    /// It is over.
    Ended(JobEnd),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEnd {
    /// When.
    pub at: Timestamp,
    /// What came of it.
    pub outcome: JobOutcome,
    /// The last of what it printed, redacted.
    pub output: String,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// It did what it was to do.
    Succeeded,
    /// It did not.
    Failed {
        /// Why.
        why: String,
    },
    /// It took too long and was ended.
    TimedOut,
    /// It was ended for the next one's sake.
    Replaced,
    /// It was not begun.
    Skipped {
        /// Why.
        why: String,
    },
    /// Its host vanished.
    Lost,
}

/// The right to end one run. A later claim of the same run has a larger attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobClaim {
    /// Which run.
    pub run: JobRunId,
    /// Which claim of it.
    pub attempt: u32,
}

/// Which runs to read.
#[derive(Clone, Debug, Default)]
pub struct JobRunQuery {
    /// Only of this job.
    pub job: Option<JobName>,
    /// Only those with a smaller number: the next page.
    pub before: Option<JobRunId>,
    /// At most so many.
    pub limit: u32,
}

/// Jobs and their runs. Of one job and due time there is one run, whoever asks for it.
#[async_trait]
pub trait JobStore: fmt::Debug + Send + Sync + 'static {
    /// All jobs, by name.
    async fn jobs(&self) -> Result<Vec<JobRecord>>;
    /// Makes a job known. One with another schedule than before, or a new one, begins at `now`: nothing earlier is due.
    async fn put_job(&self, name: &JobName, fingerprint: u64, now: Timestamp) -> Result<JobRecord>;
    /// Forgets a job; its history stays until it is pruned. Nothing happens where there is none.
    async fn remove_job(&self, name: &JobName) -> Result<()>;
    /// Begins a run, or takes over one whose host let its claim run out. [`JobRecord::last_due`] moves on with it. Where
    /// `overlap` forbids another run, one whose host let its claim run out is [`Lost`](JobOutcome::Lost) by that.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if it runs elsewhere or is over, or if another run forbids it.
    /// - [`NotFound`](crate::Error::NotFound) if others are forbidden and the job is not known.
    ///
    /// # Cancel safety
    /// A dropped call may have begun the run: it can be taken over when `ttl` is over.
    async fn claim_job(
        &self,
        due: JobDue,
        overlap: Overlap,
        by: &Claimant,
        now: Timestamp,
    ) -> Result<JobRun>;
    /// Holds a run for another `ttl` from now.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if somebody has taken over, or it is over: stop.
    async fn renew_job(&self, claim: JobClaim, ttl: Duration) -> Result<()>;
    /// Ends a run.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if somebody has taken over, or it is over. The other's word stays.
    async fn end_job(&self, claim: JobClaim, end: JobEnd) -> Result<()>;
    /// Records that a due time passes without a run. Nothing happens where there is a run.
    async fn skip_job(&self, due: JobDue, host: &str, at: Timestamp, why: &str) -> Result<()>;
    /// Ends at most `limit` runs whose hosts vanished as [`Lost`](JobOutcome::Lost), oldest first; gives them.
    async fn end_lost_jobs(&self, at: Timestamp, limit: u32) -> Result<Vec<JobRun>>;
    /// Runs that have not ended, oldest first.
    async fn running_jobs(&self) -> Result<Vec<JobRun>>;
    /// Runs that match, newest first.
    async fn job_runs(&self, query: JobRunQuery) -> Result<Vec<JobRun>>;
    /// Removes at most `limit` runs that ended before `before`, those first that ended first; says how many.
    async fn prune_job_runs(&self, before: Timestamp, limit: u32) -> Result<u64>;
}
