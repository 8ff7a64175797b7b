//! [`ChannelStore`]: whether a channel works, and how much it may be asked to send.

use std::fmt;

use async_trait::async_trait;

use super::ChannelName;
use crate::{Result, Timestamp};

/// What is known of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRecord {
    /// Its name.
    pub name: ChannelName,
    /// Whether it may be used.
    pub health: ChannelHealth,
    /// When it last delivered something.
    pub delivered_at: Option<Timestamp>,
    /// Its last failure.
    pub failure: Option<ChannelFailure>,
}

/// Whether a channel may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelHealth {
    /// As far as is known.
    Working,
    /// The server said that it is gone: asking on would earn a ban.
    Disabled {
        /// Since when.
        since: Timestamp,
        /// What the server said.
        why: String,
        /// When to ask once more.
        retest_at: Timestamp,
    },
}

/// A failure of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelFailure {
    /// When.
    pub at: Timestamp,
    /// What the server said, or why it said nothing.
    pub why: String,
}

/// What a server said of one of its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateBucket {
    /// The server's name for it.
    pub name: String,
    /// Requests that it allows in a period.
    pub capacity: u32,
    /// Requests that are left of them.
    pub remaining: u32,
    /// When the period ends.
    pub resets_at: Timestamp,
}

/// Health and limits of channels.
#[async_trait]
pub trait ChannelStore: fmt::Debug + Send + Sync + 'static {
    /// All channels of which something is known, by name.
    async fn channels(&self) -> Result<Vec<ChannelRecord>>;
    /// Records that a channel delivered: it works.
    async fn channel_delivered(&self, name: &ChannelName, at: Timestamp) -> Result<()>;
    /// Records a failure that says nothing of the channel's future.
    async fn channel_failed(&self, name: &ChannelName, failure: ChannelFailure) -> Result<()>;
    /// Disables a channel until it delivers again. One that is disabled keeps the time since when it is; reason and
    /// next test are replaced.
    async fn disable_channel(
        &self,
        name: &ChannelName,
        failure: ChannelFailure,
        retest_at: Timestamp,
    ) -> Result<()>;
    /// Forgets a channel and its limits. Nothing happens where there is none.
    async fn forget_channel(&self, name: &ChannelName) -> Result<()>;
    /// What the server said of the channel's limits, by name.
    async fn rate_buckets(&self, channel: &ChannelName) -> Result<Vec<RateBucket>>;
    /// Takes in what the server said. Of two words the one on the later period counts, of the same period the one
    /// that leaves less: so answers that come out of order never allow too much.
    async fn note_rate_bucket(&self, channel: &ChannelName, bucket: RateBucket) -> Result<()>;
}
