//! [`SilenceStore`]: alerts that nobody wants to hear of for a while.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::names::{numbers, words};
use crate::{Result, Timestamp};

numbers! {
    /// One silence. Later ones have larger numbers.
    SilenceId
}

words! {
    /// How a matcher compares.
    pub enum MatchKind {
        /// The label has this value; an empty value also matches a label that is not there.
        Equal = "equal",
        /// It has another one.
        NotEqual = "not_equal",
        /// The regular expression matches the whole value.
        Matches = "matches",
        /// It does not.
        NotMatches = "not_matches",
    }
}

/// One condition on the labels of an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matcher {
    /// Which label.
    pub label: String,
    /// How to compare.
    pub kind: MatchKind,
    /// With what.
    pub value: String,
}

/// A silence to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSilence {
    /// All of them have to match; at least one.
    pub matchers: Vec<Matcher>,
    /// Who wants it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When it was made.
    pub at: Timestamp,
    /// From when on it holds.
    pub starts_at: Timestamp,
    /// From when on it does not hold any more.
    pub ends_at: Timestamp,
}

/// A stored silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilenceRecord {
    /// Its number.
    pub id: SilenceId,
    /// What was made. `ends_at` is earlier if it was ended.
    pub silence: NewSilence,
    /// Who ended it early, if anybody.
    pub ended_by: Option<String>,
}

/// Silences.
#[async_trait]
pub trait SilenceStore: fmt::Debug + Send + Sync + 'static {
    /// Makes a silence.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::Error::InvalidConfig) if it has no matcher (it would silence everything) or does not
    /// end after its start.
    async fn add_silence(&self, silence: NewSilence) -> Result<SilenceId>;
    /// Those that hold at `at`, oldest first.
    async fn silences_at(&self, at: Timestamp) -> Result<Vec<SilenceRecord>>;
    /// The latest `limit` with a number below `before`, newest first, past and future ones too.
    async fn silences(&self, before: Option<SilenceId>, limit: u32) -> Result<Vec<SilenceRecord>>;
    /// Ends a silence at `at`; one that has not begun never will.
    ///
    /// # Errors
    /// - [`NotFound`](crate::Error::NotFound) if there is no such silence.
    /// - [`Conflict`](crate::Error::Conflict) if it is over at `at`.
    async fn end_silence(&self, id: SilenceId, at: Timestamp, by: &str) -> Result<()>;
    /// Removes at most `limit` silences that ended before `before`, those first that ended first; says how many.
    async fn prune_silences(&self, before: Timestamp, limit: u32) -> Result<u64>;
}
