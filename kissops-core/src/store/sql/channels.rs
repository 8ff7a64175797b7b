//! Statements of [`ChannelStore`].

use async_trait::async_trait;

use super::{Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, values};
use crate::{
    Result, Timestamp,
    store::{ChannelFailure, ChannelHealth, ChannelName, ChannelRecord, ChannelStore, RateBucket},
};

fn channel(row: &mut Row) -> Result<ChannelRecord, Damage> {
    let health = match row.get::<Option<Timestamp>>(1)? {
        Some(since) => ChannelHealth::Disabled { since, why: row.get(2)?, retest_at: row.get(3)? },
        None => ChannelHealth::Working,
    };
    let failure = match row.get::<Option<Timestamp>>(5)? {
        Some(at) => Some(ChannelFailure { at, why: row.get(6)? }),
        None => None,
    };
    Ok(ChannelRecord { name: ChannelName(row.get(0)?), health, delivered_at: row.get(4)?, failure })
}

fn bucket(row: &mut Row) -> Result<RateBucket, Damage> {
    Ok(RateBucket {
        name: row.get(0)?,
        capacity: row.get(1)?,
        remaining: row.get(2)?,
        resets_at: row.get(3)?,
    })
}

#[async_trait]
impl<E: Engine> ChannelStore for E {
    async fn channels(&self) -> Result<Vec<ChannelRecord>> {
        let sql = "SELECT name, disabled_at, disabled_why, retest_at, delivered_at, failed_at, failure FROM channels ORDER BY name";
        self.fetch(Statement::new(sql, vec![]), channel).await
    }

    async fn channel_delivered(&self, name: &ChannelName, at: Timestamp) -> Result<()> {
        let sql = "INSERT INTO channels (name, delivered_at) VALUES (?1, ?2)
            ON CONFLICT (name) DO UPDATE SET disabled_at = NULL, disabled_why = NULL, retest_at = NULL,
            delivered_at = CASE WHEN channels.delivered_at > excluded.delivered_at THEN channels.delivered_at ELSE excluded.delivered_at END";
        let values = values![name.as_str(), at];
        self.run(Durability::Process, Statement::new(sql, values)).await.map(drop)
    }

    async fn channel_failed(&self, name: &ChannelName, failure: ChannelFailure) -> Result<()> {
        let sql = "INSERT INTO channels (name, failed_at, failure) VALUES (?1, ?2, ?3)
            ON CONFLICT (name) DO UPDATE SET failed_at = excluded.failed_at, failure = excluded.failure
            WHERE channels.failed_at IS NULL OR channels.failed_at <= excluded.failed_at";
        let values = values![name.as_str(), failure.at, failure.why];
        self.run(Durability::Process, Statement::new(sql, values)).await.map(drop)
    }

    async fn disable_channel(
        &self,
        name: &ChannelName,
        failure: ChannelFailure,
        retest_at: Timestamp,
    ) -> Result<()> {
        let sql = "INSERT INTO channels (name, disabled_at, disabled_why, retest_at, failed_at, failure) VALUES (?1, ?2, ?3, ?4, ?2, ?3)
            ON CONFLICT (name) DO UPDATE SET disabled_at = coalesce(channels.disabled_at, excluded.disabled_at),
            disabled_why = excluded.disabled_why, retest_at = excluded.retest_at, failed_at = excluded.failed_at, failure = excluded.failure";
        let values = values![name.as_str(), failure.at, failure.why, retest_at];
        // To ask again after a power cut may earn a ban.
        self.run(Durability::Power, Statement::new(sql, values)).await.map(drop)
    }

    async fn forget_channel(&self, name: &ChannelName) -> Result<()> {
        let batch = Batch::new(Durability::Process)
            .step(Statement::new(
                "DELETE FROM channel_buckets WHERE channel = ?1",
                values![name.as_str()],
            ))
            .step(Statement::new("DELETE FROM channels WHERE name = ?1", values![name.as_str()]));
        self.write(batch).await.map(drop)
    }

    async fn rate_buckets(&self, channel: &ChannelName) -> Result<Vec<RateBucket>> {
        let sql = "SELECT name, capacity, remaining, resets_at FROM channel_buckets WHERE channel = ?1 ORDER BY name";
        self.fetch(Statement::new(sql, values![channel.as_str()]), bucket).await
    }

    async fn note_rate_bucket(&self, channel: &ChannelName, bucket: RateBucket) -> Result<()> {
        let sql = "INSERT INTO channel_buckets (channel, name, capacity, remaining, resets_at) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (channel, name) DO UPDATE SET capacity = excluded.capacity, remaining = excluded.remaining, resets_at = excluded.resets_at
            WHERE excluded.resets_at > channel_buckets.resets_at
            OR (excluded.resets_at = channel_buckets.resets_at AND excluded.remaining < channel_buckets.remaining)";
        let values = values![
            channel.as_str(),
            bucket.name,
            bucket.capacity,
            bucket.remaining,
            bucket.resets_at
        ];
        self.run(Durability::Process, Statement::new(sql, values)).await.map(drop)
    }
}
