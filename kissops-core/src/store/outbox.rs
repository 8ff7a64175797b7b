//! [`OutboxStore`]: notifications from the moment they are decided to the moment somebody has them.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::{
    AlertId,
    names::{names, numbers, words},
};
use crate::{Result, Timestamp};

numbers! {
    /// One notification. Later ones have larger numbers.
    NotificationId
}

names! {
    /// A way to reach somebody: the `ops` of `[notify.ops]`.
    ChannelName
}

words! {
    /// What a notification tells.
    pub enum NotificationKind {
        /// An alert fires.
        Fire = "fire",
        /// It says something else, or still fires.
        Update = "update",
        /// It is over.
        Resolve = "resolve",
        /// It fired and was over before anybody was told: a [`Fire`](Self::Fire) and a [`Resolve`](Self::Resolve) in
        /// one ("was down for 3 min").
        Passed = "passed",
        /// Several notifications in one.
        Digest = "digest",
    }
}

/// A notification to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// By which channel.
    pub channel: ChannelName,
    /// What it tells.
    pub kind: NotificationKind,
    /// What the channel renders it from; opaque to the store. Free of secrets.
    pub body: String,
    /// When it was decided.
    pub at: Timestamp,
    /// Not to be sent before this.
    pub not_before: Timestamp,
    /// When the first of `fallback` shall be told instead.
    pub deadline: Option<Timestamp>,
    /// The channels to try when this one fails, in order.
    pub fallback: Vec<ChannelName>,
}

/// A stored notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationRecord {
    /// Its number.
    pub id: NotificationId,
    /// The alert that it tells of, if it is one.
    pub alert: Option<AlertId>,
    /// Which revision of that alert it was decided on; 0 without an alert. With `alert` it makes a repetition visible.
    pub revision: u32,
    /// What is to be sent. Its kind, times and deadline change when others are merged into it.
    pub outgoing: Outgoing,
    /// How often it was claimed, or what was merged into it.
    pub attempts: u32,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
    /// How far it is.
    pub delivery: Delivery,
}

impl NotificationRecord {
    /// The claim that this record was returned with, to answer it.
    #[must_use]
    pub fn claim(&self) -> NotificationClaim {
        NotificationClaim { id: self.id, attempt: self.attempts }
    }
}

/// How far a notification is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To be sent.
    Pending,
    /// A worker is sending it.
    Claimed {
        /// Which worker.
        by: String,
        /// From then on, by the database's clock, another worker may claim it.
        until: Timestamp,
    },
    /// Somebody has it.
    Delivered {
        /// Since when.
        at: Timestamp,
        /// What the channel calls it, to edit it later.
        remote: Option<String>,
    },
    /// It will not be sent by this channel.
    Dead {
        /// When that was decided.
        at: Timestamp,
        /// Why.
        why: String,
    },
    /// Another notification tells it too.
    Merged {
        /// When that was decided.
        at: Timestamp,
        /// Which one.
        into: NotificationId,
    },
}

words! {
    /// [`Delivery`] without its data.
    pub enum DeliveryState {
        /// To be sent.
        Pending = "pending",
        /// Being sent.
        Claimed = "claimed",
        /// Sent.
        Delivered = "delivered",
        /// Given up.
        Dead = "dead",
        /// Told by another one.
        Merged = "merged",
    }
}

/// The right to send one notification. A later claim of the same one has a larger attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationClaim {
    /// Which notification.
    pub id: NotificationId,
    /// Which claim of it.
    pub attempt: u32,
}

/// Who claims, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// Names the worker for people: host and process.
    pub name: String,
    /// After this, measured by the database's clock, others may claim the same. From 1 µs to 366 days, else
    /// [`InvalidConfig`](crate::Error::InvalidConfig).
    pub ttl: Duration,
}

/// What came of sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// Somebody has it.
    Delivered {
        /// Since when.
        at: Timestamp,
        /// What the channel calls it.
        remote: Option<String>,
    },
    /// Not now.
    RetryAt {
        /// When to try again.
        at: Timestamp,
        /// Why it failed.
        why: String,
    },
    /// Not by this channel.
    Dead {
        /// When that was decided.
        at: Timestamp,
        /// Why.
        why: String,
    },
}

/// Which notifications to read.
#[derive(Clone, Debug, Default)]
pub struct NotificationQuery {
    /// Only of this alert.
    pub alert: Option<AlertId>,
    /// Only of this channel.
    pub channel: Option<ChannelName>,
    /// Only in these states; all when empty.
    pub states: Vec<DeliveryState>,
    /// Only those with a smaller number: the next page.
    pub before: Option<NotificationId>,
    /// At most so many.
    pub limit: u32,
}

/// What waits at one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Which channel.
    pub channel: ChannelName,
    /// How many are to be sent or being sent.
    pub unsent: u64,
    /// When the oldest of them was decided.
    pub oldest: Option<Timestamp>,
    /// How many are dead.
    pub dead: u64,
}

/// The outbox: at least once, in order per alert and channel.
///
/// Of one alert and channel only the oldest unsent notification can be claimed, and whatever is still unsent when a
/// worker comes for what is due becomes one: an update takes the place of what it updates, a
/// [`Fire`](NotificationKind::Fire) and a [`Resolve`](NotificationKind::Resolve) become a
/// [`Passed`](NotificationKind::Passed). One that is dated later holds up none that is due; one that was put off by
/// [`RetryAt`](DeliveryOutcome::RetryAt) does, since its channel said so.
#[async_trait]
pub trait OutboxStore: fmt::Debug + Send + Sync + 'static {
    /// Puts notifications into the outbox that no change of an alert goes with: reminders, notices without an alert.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if there is no such alert.
    async fn enqueue(
        &self,
        alert: Option<AlertId>,
        outgoing: Vec<Outgoing>,
    ) -> Result<Vec<NotificationId>>;
    /// Claims at most `limit` notifications of `channel` that are due at `now`, oldest first. Two claims never hold
    /// the same one at once; a claim that has run out can be taken by another worker.
    ///
    /// # Cancel safety
    /// A dropped call may have claimed: what it did becomes free when `ttl` is over.
    async fn claim_notifications(
        &self,
        channel: &ChannelName,
        by: &Claimant,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<NotificationRecord>>;
    /// Records what came of sending, and puts `follow_up` (for the same alert, by another channel) into the outbox.
    /// A claim that has run out is still good as long as nobody else has claimed.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if the claim is not the last one, or was answered. Nothing is changed.
    async fn answer_notification(
        &self,
        claim: NotificationClaim,
        outcome: DeliveryOutcome,
        follow_up: Vec<Outgoing>,
    ) -> Result<()>;
    /// Replaces claimed notifications by one. What comes later of their alerts waits until it is sent.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict) if one of the claims is not the last one. Nothing is changed.
    async fn digest_notifications(
        &self,
        claims: Vec<NotificationClaim>,
        digest: Outgoing,
    ) -> Result<NotificationId>;
    /// When it is worth claiming again: the earliest time at which something is due or a claim runs out.
    async fn next_notification_at(&self, channel: &ChannelName) -> Result<Option<Timestamp>>;
    /// What was last delivered of an alert by a channel: what a later one may edit.
    async fn last_delivered(
        &self,
        alert: AlertId,
        channel: &ChannelName,
    ) -> Result<Option<NotificationRecord>>;
    /// Notifications that match, newest first.
    async fn notifications(&self, query: NotificationQuery) -> Result<Vec<NotificationRecord>>;
    /// What waits, by channel. A channel without anything unsent or dead is left out.
    async fn backlog(&self) -> Result<Vec<Backlog>>;
    /// Sends a dead notification again, from `at` on.
    ///
    /// # Errors
    /// - [`NotFound`](crate::Error::NotFound) if there is no such notification.
    /// - [`Conflict`](crate::Error::Conflict) if it is not dead.
    async fn revive_notification(&self, id: NotificationId, at: Timestamp) -> Result<()>;
    /// Removes at most `limit` notifications that were delivered, given up or merged before `before`, those first that
    /// ended first; says how many.
    async fn prune_notifications(&self, before: Timestamp, limit: u32) -> Result<u64>;
}
