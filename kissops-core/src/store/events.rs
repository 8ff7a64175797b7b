//! What happened, in order.

use std::fmt;

use async_trait::async_trait;

use crate::{
    Result, Timestamp,
    id::{InstanceName, RecordId},
    supervisor::StateName,
};

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
