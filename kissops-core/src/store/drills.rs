//! [`DrillStore`]: restores for practice, and what they showed.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{BackupId, Claimant, PlanName, names::numbers};
use crate::{Result, Timestamp};

numbers! {
    /// One drill. Later ones have larger numbers.
    DrillId
}

/// A drill that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDrill {
    /// Of which plan.
    pub plan: PlanName,
    /// Which backup is restored.
    pub backup: BackupId,
    /// When it was begun.
    pub started_at: Timestamp,
}

/// A stored drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillRecord {
    /// Its number.
    pub id: DrillId,
    /// What was begun. The backup may be forgotten since.
    pub drill: NewDrill,
    /// How it stands.
    pub state: DrillState,
}

/// How a drill stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrillState {
    /// It is under way.
    Running {
        /// From then on, by the database's clock, whoever made it has vanished.
        until: Timestamp,
    },
    /// It is over.
    Ended(DrillEnd),
}

/// How a drill ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillEnd {
    /// When.
    pub at: Timestamp,
    /// What came of it.
    pub outcome: DrillOutcome,
    /// What would have been lost: the age of the backup when the drill began.
    pub rpo: Option<Duration>,
    /// How long the restore took.
    pub rto: Option<Duration>,
    /// What was looked at, in order.
    pub checks: Vec<DrillCheck>,
}

/// What came of a drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrillOutcome {
    /// The backup can be restored.
    Passed,
    /// It cannot, or not with what is expected of it.
    Failed {
        /// Why.
        why: String,
    },
}

/// One thing that a drill looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCheck {
    /// What: `integrity`, or the plan's own query.
    pub name: String,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// Which drills to read.
#[derive(Clone, Debug, Default)]
pub struct DrillQuery {
    /// Only of this plan.
    pub plan: Option<PlanName>,
    /// Only those with a smaller number: the next page.
    pub before: Option<DrillId>,
    /// At most so many.
    pub limit: u32,
}

/// Restores for practice.
#[async_trait]
pub trait DrillStore: fmt::Debug + Send + Sync + 'static {
    /// Records that a drill begins.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if the backup is not one of the plan's.
    async fn begin_drill(&self, drill: NewDrill, by: &Claimant) -> Result<DrillId>;
    /// Holds a drill for another `ttl` from now.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if it is over: stop.
    async fn renew_drill(&self, id: DrillId, ttl: Duration) -> Result<()>;
    /// Records how a drill ended; that its backup was drilled if it passed.
    ///
    /// # Errors
    /// - [`NotFound`](crate::Error::NotFound) if there is no such drill.
    /// - [`Conflict`](crate::Error::Conflict) if it has ended. The first end stays.
    async fn end_drill(&self, id: DrillId, end: DrillEnd) -> Result<()>;
    /// Ends at most `limit` drills whose makers vanished as [`Failed`](DrillOutcome::Failed), oldest first; gives them.
    async fn end_lost_drills(&self, at: Timestamp, limit: u32) -> Result<Vec<DrillRecord>>;
    /// Drills that match, newest first.
    async fn drills(&self, query: DrillQuery) -> Result<Vec<DrillRecord>>;
    /// The newest of a plan that passed.
    async fn last_passed_drill(&self, plan: &PlanName) -> Result<Option<DrillRecord>>;
    /// Removes at most `limit` drills that ended before `before`, those first that ended first; says how many. Of each
    /// plan the newest that passed stays.
    async fn prune_drills(&self, before: Timestamp, limit: u32) -> Result<u64>;
}
