//! [`HealthStore`]: what the probes found, as it was and summed up.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;

use super::names::{names, words};
use crate::{Result, Timestamp};

names! {
    /// A probe: the `disk` of `[probe.disk]`.
    ProbeName
}

words! {
    /// What a probe found, from good to bad.
    pub enum ProbeStatus {
        /// All is well.
        Pass = "pass",
        /// Not for long.
        Warn = "warn",
        /// It is not.
        Fail = "fail",
        /// It could not be told: something that it depends on is down.
        Unknown = "unknown",
    }
}

/// What a probe found at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeResult {
    /// Which probe.
    pub probe: ProbeName,
    /// When. Of one probe and time there is one result.
    pub at: Timestamp,
    /// What it found.
    pub status: ProbeStatus,
    /// What it measured, in `unit`; finite.
    pub value: Option<f64>,
    /// The unit of `value`: `bytes`, `seconds`, `ratio`; may be empty.
    pub unit: String,
    /// One line for people. Free of secrets.
    pub message: String,
    /// More, by name.
    pub details: BTreeMap<String, String>,
    /// How long it took.
    pub took: Duration,
}

/// A result without its words, as history keeps it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeSample {
    /// When.
    pub at: Timestamp,
    /// What was found.
    pub status: ProbeStatus,
    /// What was measured.
    pub value: Option<f64>,
    /// How long it took.
    pub took: Duration,
}

words! {
    /// How much time a roll-up sums up.
    pub enum RollUpSpan {
        /// 60 s from a full minute, UTC.
        Minute = "minute",
        /// 3600 s from a full hour, UTC.
        Hour = "hour",
    }
}

impl RollUpSpan {
    /// Its length.
    #[must_use]
    pub fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
        })
    }
}

/// How often each status was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusCounts {
    /// Times that all was well.
    pub pass: u64,
    /// Times of warning.
    pub warn: u64,
    /// Times of failure.
    pub fail: u64,
    /// Times that it could not be told.
    pub unknown: u64,
}

impl StatusCounts {
    /// The share of passes and warnings among what could be told, 0 to 1; `None` if nothing could.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    pub fn uptime(self) -> Option<f64> {
        let up = self.pass + self.warn;
        let told = up + self.fail;
        (told > 0).then(|| up as f64 / told as f64)
    }
}

/// The results of one probe in one span.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RollUp {
    /// When the span begins.
    pub start: Timestamp,
    /// What was found.
    pub counts: StatusCounts,
    /// What was measured, if anything was.
    pub values: Option<ValueRange>,
}

/// Several measured values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueRange {
    /// How many.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All of them together.
    pub sum: f64,
}

/// Results of one probe between two times.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Which probe.
    pub probe: ProbeName,
    /// At or after this time.
    pub since: Timestamp,
    /// Before this time.
    pub until: Timestamp,
    /// At most so many, the first ones.
    pub limit: u32,
}

/// Results of probes.
#[async_trait]
pub trait HealthStore: fmt::Debug + Send + Sync + 'static {
    /// Keeps results. The same probe and time again replaces nothing.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::Error::InvalidConfig) if a value is not finite. Nothing is kept.
    async fn record_results(&self, results: Vec<ProbeResult>) -> Result<()>;
    /// The latest result of each probe, by name of the probe.
    async fn latest_results(&self) -> Result<Vec<ProbeResult>>;
    /// Single results, oldest first.
    async fn samples(&self, query: HistoryQuery) -> Result<Vec<ProbeSample>>;
    /// Sums up the results from `since` to before `until`, into minutes and hours; whole hours around both count. Can
    /// be repeated: what a span says is replaced where more results are known of it, and kept where some were pruned.
    async fn roll_up(&self, since: Timestamp, until: Timestamp) -> Result<()>;
    /// Roll-ups whose span begins in the time asked for, oldest first.
    async fn roll_ups(&self, span: RollUpSpan, query: HistoryQuery) -> Result<Vec<RollUp>>;
    /// What was found in the spans that begin from `since` to before `until`.
    async fn status_counts(
        &self,
        span: RollUpSpan,
        probe: &ProbeName,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<StatusCounts>;
    /// Forgets the latest result of a probe that is not asked any more; its history stays until it is pruned.
    async fn forget_probe(&self, probe: &ProbeName) -> Result<()>;
    /// Removes at most `limit` single results before `before`, oldest first; says how many.
    async fn prune_samples(&self, before: Timestamp, limit: u32) -> Result<u64>;
    /// Removes at most `limit` roll-ups of a length that begin before `before`, oldest first; says how many.
    async fn prune_roll_ups(&self, span: RollUpSpan, before: Timestamp, limit: u32) -> Result<u64>;
}
