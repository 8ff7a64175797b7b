//! [`AlertStore`]: what is wrong, since when, and who knows of it.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;

use super::{
    Outgoing,
    names::{names, numbers, words},
};
use crate::{Result, Timestamp};

numbers! {
    /// One incident: an alert from its first firing to its end. Later ones have larger numbers.
    AlertId
}

names! {
    /// What makes two firings the same alert: `instance/web/down`. The same on every host and after every restart.
    AlertKey
}

words! {
    /// How bad it is.
    pub enum Severity {
        /// Good to know.
        Info = "info",
        /// Somebody should look in working hours.
        Warning = "warning",
        /// Somebody should get up.
        Critical = "critical",
    }
}

/// An alert as its source raises it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAlert {
    /// What makes it the same alert when it fires again.
    pub key: AlertKey,
    /// When it began to fire, or fired again.
    pub at: Timestamp,
    /// What it says.
    pub content: AlertContent,
}

/// What an alert says; may change while it is open. Free of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertContent {
    /// How bad it is.
    pub severity: Severity,
    /// Which part raised it: `probe.disk`, `supervisor`.
    pub source: String,
    /// One line.
    pub summary: String,
    /// The rest.
    pub details: String,
    /// What routes and silences match.
    pub labels: BTreeMap<String, String>,
    /// Where it is written what to do.
    pub runbook: Option<String>,
}

/// A stored alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRecord {
    /// Its number.
    pub id: AlertId,
    /// What makes it the same alert.
    pub key: AlertKey,
    /// 1 at first; grows by one with each [`AlertChange`].
    pub revision: u32,
    /// What it says now.
    pub content: AlertContent,
    /// When it first fired.
    pub started_at: Timestamp,
    /// When it last fired.
    pub last_at: Timestamp,
    /// How often it fired while open.
    pub occurrences: u64,
    /// How it stands.
    pub state: AlertState,
}

/// How an alert stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertState {
    /// Nobody has said that they know.
    Firing,
    /// Somebody takes care of it.
    Acknowledged(Acknowledgement),
    /// It is over.
    Resolved {
        /// When.
        at: Timestamp,
        /// Why, for people.
        why: String,
        /// Who had taken care of it, if anybody.
        acknowledged: Option<Acknowledgement>,
    },
}

/// Who said that they take care of an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// What they had to say; may be empty.
    pub note: String,
}

/// What becomes of an open alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertChange {
    /// It says something else now.
    Update(AlertContent),
    /// Somebody takes care of it, in place of whoever did before.
    Acknowledge(Acknowledgement),
    /// It is over.
    Resolve {
        /// When.
        at: Timestamp,
        /// Why, for people.
        why: String,
    },
}

/// What [`AlertStore::open_alert`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It opened an incident, and its notifications are in the outbox.
    New(AlertRecord),
    /// The alert was open. It was counted; nothing was put into the outbox.
    Again(AlertRecord),
}

/// Which alerts to read.
#[derive(Clone, Debug, Default)]
pub struct AlertQuery {
    /// Only of this key.
    pub key: Option<AlertKey>,
    /// Only of these severities; all when empty.
    pub severities: Vec<Severity>,
    /// Only those that began at or after this time.
    pub since: Option<Timestamp>,
    /// Only those that began before this time.
    pub until: Option<Timestamp>,
    /// Only those with a smaller number: the next page.
    pub before: Option<AlertId>,
    /// At most so many.
    pub limit: u32,
}

/// Alerts and their history. Of one key at most one is open.
///
/// A change of an alert and the notifications that tell of it are one transaction: neither is there without the other.
#[async_trait]
pub trait AlertStore: fmt::Debug + Send + Sync + 'static {
    /// Opens an incident of `alert.key` and puts `outgoing` into the outbox, unless one is open already: then that
    /// one is counted, `last_at` moves on, what it says stays, and nothing is put into the outbox.
    async fn open_alert(&self, alert: NewAlert, outgoing: Vec<Outgoing>) -> Result<Opening>;
    /// Changes an open alert and puts `outgoing` into the outbox. `revision` is the one that the decision was made on.
    ///
    /// # Errors
    /// - [`NotFound`](crate::Error::NotFound) if there is no such alert.
    /// - [`Conflict`](crate::Error::Conflict) if it was changed since, or is resolved. Nothing goes into the outbox.
    async fn change_alert(
        &self,
        id: AlertId,
        revision: u32,
        change: AlertChange,
        outgoing: Vec<Outgoing>,
    ) -> Result<AlertRecord>;
    /// One alert.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is no such alert.
    async fn alert(&self, id: AlertId) -> Result<AlertRecord>;
    /// All open alerts, oldest first.
    async fn open_alerts(&self) -> Result<Vec<AlertRecord>>;
    /// Alerts that match, open and resolved, newest first.
    async fn alerts(&self, query: AlertQuery) -> Result<Vec<AlertRecord>>;
    /// Open alerts that nobody was told of and nobody will be: each of their notifications is dead. Oldest first.
    async fn unheard_alerts(&self, limit: u32) -> Result<Vec<AlertRecord>>;
    /// Removes at most `limit` alerts that were resolved before `before`, with their notifications, those first that
    /// ended first; says how many. One with a notification that is still to be sent stays.
    async fn prune_alerts(&self, before: Timestamp, limit: u32) -> Result<u64>;
}
