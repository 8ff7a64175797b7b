//! [`BackupStore`]: the catalog of backups. It can be lost: the sinks hold what it is rebuilt from.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;

use super::{
    Claimant,
    names::{names, numbers, words},
};
use crate::{Result, Timestamp};

numbers! {
    /// One backup in this catalog. Later ones have larger numbers.
    BackupId
}

names! {
    /// A backup plan: the `nightly` of `[backup.nightly]`.
    PlanName
    /// A place where backups are kept.
    SinkName
    /// What a backup is called in its sinks and in its manifest, in every catalog the same.
    ArchiveName
}

words! {
    /// How much a backup holds.
    pub enum BackupKind {
        /// Everything.
        Full = "full",
        /// What changed since its parent.
        Incremental = "incremental",
        /// The configuration.
        ConfigOnly = "config_only",
        /// What a restore is about to replace.
        PreRestore = "pre_restore",
    }
}

/// A backup to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBackup {
    /// What it is called in its sinks.
    pub name: ArchiveName,
    /// Of which plan.
    pub plan: PlanName,
    /// How much it holds.
    pub kind: BackupKind,
    /// The backup that it is based on, without which it cannot be restored.
    pub parent: Option<BackupId>,
    /// The host whose data it holds.
    pub host: String,
    /// The program that makes it, with its version.
    pub program: String,
    /// When it was begun.
    pub started_at: Timestamp,
}

/// A backup in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupRecord {
    /// Its number in this catalog.
    pub id: BackupId,
    /// What was begun.
    pub backup: NewBackup,
    /// How it stands.
    pub state: BackupState,
    /// Its copies, by sink.
    pub copies: Vec<BackupCopy>,
    /// When it was last read back and found whole.
    pub verified_at: Option<Timestamp>,
    /// When it was last restored for practice.
    pub drilled_at: Option<Timestamp>,
}

/// How a backup stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupState {
    /// It is being made.
    Running {
        /// From then on, by the database's clock, its maker counts as vanished.
        until: Timestamp,
    },
    /// It is made, or failed.
    Ended(BackupEnd),
}

/// What came of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupEnd {
    /// It is in every sink.
    Ok(Archive),
    /// It is in some sinks.
    Partial {
        /// What was made.
        archive: Archive,
        /// What is missing.
        why: String,
    },
    /// It is there, but something is odd: it freezes retention.
    Suspect {
        /// What was made.
        archive: Archive,
        /// What is odd.
        why: String,
    },
    /// There is nothing to restore.
    Failed {
        /// When it failed.
        at: Timestamp,
        /// Why.
        why: String,
    },
}

words! {
    /// [`BackupState`] without its data.
    pub enum BackupStateName {
        /// Being made.
        Running = "running",
        /// In every sink.
        Ok = "ok",
        /// In some sinks.
        Partial = "partial",
        /// Odd.
        Suspect = "suspect",
        /// Nothing.
        Failed = "failed",
    }
}

/// What a backup is, once it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// When it was whole.
    pub ended_at: Timestamp,
    /// Size of what it holds.
    pub plain_bytes: u64,
    /// Size of one copy.
    pub stored_bytes: u64,
    /// Hash of one copy, as text with its algorithm.
    pub hash: String,
    /// Which key opens it.
    pub key_id: Option<String>,
    /// Rows by table, of those that the plan counts.
    pub counts: BTreeMap<String, u64>,
    /// What would have been lost had it been needed a moment before: the age of the one before it.
    pub rpo: Option<Duration>,
}

/// A backup in one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupCopy {
    /// Which sink.
    pub sink: SinkName,
    /// How it stands there.
    pub state: BackupCopyState,
}

/// How a copy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupCopyState {
    /// To be put there.
    Pending,
    /// It is there.
    Stored {
        /// Since when.
        at: Timestamp,
        /// Size, as the sink says.
        bytes: u64,
        /// Path or key, as the sink names it. Free of secrets.
        location: String,
    },
    /// It could not be put there.
    Failed {
        /// When.
        at: Timestamp,
        /// Why.
        why: String,
    },
    /// Retention took it away.
    Removed {
        /// When.
        at: Timestamp,
    },
}

/// Which backups to read.
#[derive(Clone, Debug, Default)]
pub struct BackupQuery {
    /// Only of this plan.
    pub plan: Option<PlanName>,
    /// Only in these states; all when empty.
    pub states: Vec<BackupStateName>,
    /// Only those that were begun before this time, or at it with a smaller number: the next page.
    pub before: Option<(Timestamp, BackupId)>,
    /// At most so many.
    pub limit: u32,
}

/// The catalog of backups. Of one plan at most one is being made.
#[async_trait]
pub trait BackupStore: fmt::Debug + Send + Sync + 'static {
    /// Begins a backup. One of the same plan whose maker let its claim run out has failed with that.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) while another one of the plan is being made, or if the name is taken.
    /// - [`NotFound`](crate::Error::NotFound) if the parent is not there, or is nothing to build on: running or failed.
    async fn begin_backup(&self, backup: NewBackup, by: &Claimant) -> Result<BackupId>;
    /// Holds the right to make a backup for another `ttl` from now.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if it is not being made any more: stop.
    async fn renew_backup(&self, id: BackupId, ttl: Duration) -> Result<()>;
    /// Ends a backup: its state, its manifest and its copies at once.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if it is not being made any more. What is recorded of it stays.
    async fn end_backup(
        &self,
        id: BackupId,
        end: BackupEnd,
        manifest: Option<String>,
        copies: Vec<BackupCopy>,
    ) -> Result<()>;
    /// Ends at most `limit` backups whose makers vanished as [`Failed`](BackupEnd::Failed), oldest first; gives them.
    async fn end_lost_backups(&self, at: Timestamp, limit: u32) -> Result<Vec<BackupRecord>>;
    /// Takes in a backup that was found in a sink.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict) if one of that name is there.
    /// - [`NotFound`](crate::Error::NotFound) if the parent is not there: take it in first.
    async fn import_backup(
        &self,
        backup: NewBackup,
        end: BackupEnd,
        manifest: Option<String>,
        copies: Vec<BackupCopy>,
    ) -> Result<BackupId>;
    /// One backup.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is no such backup.
    async fn backup(&self, id: BackupId) -> Result<BackupRecord>;
    /// One backup by what it is called in its sinks.
    async fn backup_named(&self, name: &ArchiveName) -> Result<Option<BackupRecord>>;
    /// The manifest of a backup that has one.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is no such backup.
    async fn backup_manifest(&self, id: BackupId) -> Result<Option<String>>;
    /// Backups that match, newest first: by when they were begun, then by their numbers.
    async fn backups(&self, query: BackupQuery) -> Result<Vec<BackupRecord>>;
    /// The one of a plan that was begun last and can be relied on: [`Ok`](BackupEnd::Ok) or [`Partial`](BackupEnd::Partial).
    async fn last_good_backup(&self, plan: &PlanName) -> Result<Option<BackupRecord>>;
    /// What is needed to restore `id`: from the one that needs no other to `id` itself.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is no such backup.
    async fn backup_chain(&self, id: BackupId) -> Result<Vec<BackupId>>;
    /// All that could not be restored without `id`, oldest first.
    async fn backup_dependants(&self, id: BackupId) -> Result<Vec<BackupId>>;
    /// Records how a backup stands in one sink, in place of what was recorded.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is no such backup.
    async fn put_backup_copy(&self, id: BackupId, copy: BackupCopy) -> Result<()>;
    /// Records that a backup was read back and found whole. An earlier time than the recorded one changes nothing.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is no such backup, or nothing to verify: running or failed.
    async fn backup_verified(&self, id: BackupId, at: Timestamp) -> Result<()>;
    /// Records that a backup is not to be relied on.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is no such backup, or nothing to suspect: running or failed.
    async fn suspect_backup(&self, id: BackupId, why: &str) -> Result<()>;
    /// Forgets a backup, after its copies are gone.
    ///
    /// # Errors
    /// - [`NotFound`](crate::Error::NotFound) if there is no such backup.
    /// - [`Conflict`](crate::Error::Conflict) while another names it as its parent, or while it is being made.
    async fn remove_backup(&self, id: BackupId) -> Result<()>;
}
