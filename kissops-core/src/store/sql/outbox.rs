//! Statements of [`OutboxStore`].

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, Value, document,
    events::Filter, values,
};
use crate::{
    Error, Result, Timestamp,
    store::{
        AlertId, AlertKey, Backlog, ChannelName, Claimant, Delivery, DeliveryOutcome,
        DeliveryState, NotificationClaim, NotificationId, NotificationQuery, NotificationRecord,
        OutboxStore, Outgoing,
    },
};

const COLUMNS: &str = "id, alert, revision, channel, kind, body, created_at, not_before, deadline, fallback, state, attempts, last_error, claimed_by, claim_until, ended_at, remote_id, merged_into";

/// The condition of the index of what is unsent, for a planner that does not see that something else implies it.
const UNSENT: &str = "state IN ('pending', 'claimed')";

/// What of a notification `n` says that an earlier one of its alert and channel is still to be sent, if only as part of
/// a digest.
const BLOCKED: &str = "EXISTS (SELECT 1 FROM notifications e
    WHERE e.alert = n.alert AND e.channel = n.channel AND e.id < n.id
    AND (e.state IN ('pending', 'claimed') OR (e.state = 'merged' AND EXISTS (SELECT 1 FROM notifications d
        WHERE d.id = e.merged_into AND d.id <> n.id AND d.state IN ('pending', 'claimed')))))";

fn notification(row: &mut Row) -> Result<NotificationRecord, Damage> {
    let last_error: Option<String> = row.get(12)?;
    let delivery = match row.parsed::<DeliveryState>(10)? {
        DeliveryState::Pending => Delivery::Pending,
        DeliveryState::Claimed => Delivery::Claimed { by: row.get(13)?, until: row.get(14)? },
        DeliveryState::Delivered => Delivery::Delivered { at: row.get(15)?, remote: row.get(16)? },
        DeliveryState::Dead => {
            Delivery::Dead { at: row.get(15)?, why: last_error.clone().unwrap_or_default() }
        }
        DeliveryState::Merged => {
            Delivery::Merged { at: row.get(15)?, into: NotificationId(row.get(17)?) }
        }
    };
    let outgoing = Outgoing {
        channel: ChannelName(row.get(3)?),
        kind: row.parsed(4)?,
        body: row.get(5)?,
        at: row.get(6)?,
        not_before: row.get(7)?,
        deadline: row.get(8)?,
        fallback: document(row, 9)?,
    };
    Ok(NotificationRecord {
        id: NotificationId(row.get(0)?),
        alert: row.get::<Option<i64>>(1)?.map(AlertId),
        revision: row.get(2)?,
        outgoing,
        attempts: row.get(11)?,
        last_error,
        delivery,
    })
}

fn backlog(row: &mut Row) -> Result<Backlog, Damage> {
    Ok(Backlog {
        channel: ChannelName(row.get(0)?),
        unsent: row.get(1)?,
        oldest: row.get(2)?,
        dead: row.get(3)?,
    })
}

/// What a notification tells of.
#[derive(Clone, Copy)]
pub(super) enum About<'a> {
    /// The alert that this transaction opens; nothing, if it was open.
    Opened(&'a AlertKey),
    /// This alert, as it is by then.
    Alert(AlertId),
    /// What that notification tells of.
    Same(NotificationId),
    /// No alert.
    Nothing,
}

/// Puts a notification into the outbox.
pub(super) fn queued(about: About<'_>, outgoing: Outgoing) -> Statement {
    let (source, of): (_, Option<Value>) = match about {
        About::Opened(key) => (
            "a.id, a.revision FROM alerts a WHERE a.key = ?9 AND a.ended_at IS NULL AND a.occurrences = 1",
            Some(key.as_str().into()),
        ),
        About::Alert(id) => ("a.id, a.revision FROM alerts a WHERE a.id = ?9", Some(id.0.into())),
        About::Same(id) => {
            ("n.alert, n.revision FROM notifications n WHERE n.id = ?9", Some(id.0.into()))
        }
        About::Nothing => ("CAST(NULL AS BIGINT), 0", None),
    };
    // A list of texts always serializes.
    let fallback = serde_json::to_string(&outgoing.fallback).unwrap_or_default();
    let mut values = values![
        Value::NextId,
        outgoing.channel.as_str(),
        outgoing.kind.as_str(),
        outgoing.body,
        outgoing.at,
        outgoing.not_before,
        outgoing.deadline,
        fallback
    ];
    values.extend(of);
    let sql = format!(
        "INSERT INTO notifications (id, channel, kind, body, created_at, not_before, deadline, fallback, state, attempts, alert, revision)
        SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'pending', 0, {source} RETURNING id"
    );
    Statement::new(sql, values)
}

/// What is still unsent becomes one: all but the last of an alert and channel are told by that last one, which begins
/// to tell of a fire if one of them does, and keeps to the strictest of their times.
fn merged(batch: Batch, channel: &ChannelName, now: Timestamp) -> Batch {
    // By groups and joins, not by a look for each row: a storm leaves thousands of them.
    let merge = format!(
        "WITH last AS MATERIALIZED (
            SELECT alert, max(id) AS id FROM notifications
            WHERE channel = ?1 AND state = 'pending' AND {UNSENT} AND alert IS NOT NULL
            GROUP BY alert HAVING count(*) > 1)
        UPDATE notifications SET state = 'merged', ended_at = ?2, merged_into = last.id FROM last
        WHERE notifications.alert = last.alert AND notifications.channel = ?1
        AND notifications.state = 'pending' AND notifications.id < last.id"
    );
    let take_over = "WITH gone AS MATERIALIZED (
            SELECT merged_into, max(CASE kind WHEN 'fire' THEN 1 ELSE 0 END) AS fires,
                max(not_before) AS not_before, min(deadline) AS deadline
            FROM notifications WHERE ended_at = ?2 AND channel = ?1 AND state = 'merged' AND alert IS NOT NULL
            GROUP BY merged_into)
        UPDATE notifications SET
        kind = CASE
            WHEN gone.fires = 0 THEN kind
            WHEN kind = 'resolve' THEN 'passed'
            WHEN kind = 'update' THEN 'fire'
            ELSE kind END,
        not_before = CASE WHEN gone.not_before > notifications.not_before
            THEN gone.not_before ELSE notifications.not_before END,
        deadline = CASE WHEN notifications.deadline IS NULL OR gone.deadline < notifications.deadline
            THEN gone.deadline ELSE notifications.deadline END
        FROM gone WHERE notifications.id = gone.merged_into AND notifications.alert IS NOT NULL
        AND notifications.state = 'pending'";
    batch
        .step(Statement::new(merge, values![channel.as_str(), now]))
        .step(Statement::new(take_over, values![channel.as_str(), now]))
}

fn stale(claim: NotificationClaim) -> Error {
    Error::Conflict {
        what: format!("notification {}", claim.id),
        holder: "another worker, or it was answered".into(),
    }
}

fn not_found(id: NotificationId) -> Error {
    Error::NotFound { what: format!("notification {id}") }
}

fn ids(row: &mut Row) -> Result<NotificationId, Damage> {
    row.get(0).map(NotificationId)
}

#[async_trait]
impl<E: Engine> OutboxStore for E {
    async fn enqueue(
        &self,
        alert: Option<AlertId>,
        outgoing: Vec<Outgoing>,
    ) -> Result<Vec<NotificationId>> {
        let mut batch = Batch::new(Durability::Power);
        for one in outgoing {
            batch = match alert {
                Some(id) => batch.must(queued(About::Alert(id), one), move || Error::NotFound {
                    what: format!("alert {id}"),
                }),
                None => batch.step(queued(About::Nothing, one)),
            };
        }
        let rows = self.write(batch).await?.into_iter().flat_map(|answer| answer.rows).collect();
        self.decode(rows, ids)
    }

    async fn claim_notifications(
        &self,
        channel: &ChannelName,
        by: &Claimant,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<NotificationRecord>> {
        const DUE: &str = "((state = 'pending' AND not_before <= ?2) OR (state = 'claimed' AND claim_until <= {now}))";
        let sql = format!(
            "WITH due AS MATERIALIZED (
                SELECT n.id FROM notifications n
                WHERE n.channel = ?1 AND n.state IN ('pending', 'claimed') AND {DUE} AND NOT {BLOCKED}
                ORDER BY n.id LIMIT ?3 {{skip_locked}})
            UPDATE notifications SET state = 'claimed', attempts = attempts + 1, claimed_by = ?4, claim_until = {{now}} + ?5
            WHERE id IN (SELECT id FROM due) AND {DUE} RETURNING {COLUMNS}"
        );
        let values = values![channel.as_str(), now, limit, by.name.as_str(), by.ttl];
        let batch =
            merged(Batch::new(Durability::Power), channel, now).step(Statement::new(sql, values));
        let rows = self.write(batch).await?.pop().unwrap_or_default().rows;
        let mut claimed = self.decode(rows, notification)?;
        claimed.sort_by_key(|record| record.id);
        Ok(claimed)
    }

    async fn answer_notification(
        &self,
        claim: NotificationClaim,
        outcome: DeliveryOutcome,
        follow_up: Vec<Outgoing>,
    ) -> Result<()> {
        let (set, mut rest) = match outcome {
            DeliveryOutcome::Delivered { at, remote } => (
                "state = 'delivered', ended_at = ?3, remote_id = ?4, last_error = NULL",
                values![at, remote],
            ),
            DeliveryOutcome::RetryAt { at, why } => {
                ("state = 'pending', not_before = ?3, last_error = ?4", values![at, why])
            }
            DeliveryOutcome::Dead { at, why } => {
                ("state = 'dead', ended_at = ?3, last_error = ?4", values![at, why])
            }
        };
        let sql = format!(
            "UPDATE notifications SET {set}, claimed_by = NULL, claim_until = NULL
            WHERE id = ?1 AND attempts = ?2 AND state = 'claimed'"
        );
        let mut values = values![claim.id.0, claim.attempt];
        values.append(&mut rest);
        let mut batch =
            Batch::new(Durability::Power).must(Statement::new(sql, values), move || stale(claim));
        for one in follow_up {
            batch = batch.step(queued(About::Same(claim.id), one));
        }
        self.write(batch).await.map(drop)
    }

    async fn digest_notifications(
        &self,
        claims: Vec<NotificationClaim>,
        digest: Outgoing,
    ) -> Result<NotificationId> {
        // Ids are given in the order of commits, so the largest is the one that this transaction added.
        const DIGEST: &str = "(SELECT max(d.id) FROM notifications d WHERE d.channel = ?2 AND d.state IN ('pending', 'claimed') AND d.state = 'pending' AND d.kind = 'digest')";
        let (channel, at) = (digest.channel.clone(), digest.at);
        let mut batch = Batch::new(Durability::Power).step(queued(About::Nothing, digest));
        for claim in claims {
            let sql = format!(
                "UPDATE notifications SET state = 'merged', ended_at = ?3, merged_into = {DIGEST}, claimed_by = NULL, claim_until = NULL
                WHERE id = ?1 AND channel = ?2 AND attempts = ?4 AND state = 'claimed'"
            );
            let values = values![claim.id.0, channel.as_str(), at, claim.attempt];
            batch = batch.must(Statement::new(sql, values), move || stale(claim));
            // A digest may become part of a larger one.
            let sql =
                format!("UPDATE notifications SET merged_into = {DIGEST} WHERE merged_into = ?1");
            batch = batch.step(Statement::new(sql, values![claim.id.0, channel.as_str()]));
        }
        let mut answers = self.write(batch).await?;
        let rows = if answers.is_empty() { Vec::new() } else { answers.swap_remove(0).rows };
        self.decode_one(rows, ids)
    }

    async fn next_notification_at(&self, channel: &ChannelName) -> Result<Option<Timestamp>> {
        let sql = format!(
            "SELECT min(CASE WHEN n.state = 'pending' THEN n.not_before ELSE n.claim_until END) FROM notifications n
            WHERE n.channel = ?1 AND n.state IN ('pending', 'claimed') AND NOT {BLOCKED}"
        );
        let found =
            self.fetch(Statement::new(sql, values![channel.as_str()]), |row| row.get(0)).await?;
        Ok(found.into_iter().next().flatten())
    }

    async fn last_delivered(
        &self,
        alert: AlertId,
        channel: &ChannelName,
    ) -> Result<Option<NotificationRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM notifications
            WHERE alert = ?1 AND channel = ?2 AND state = 'delivered' ORDER BY id DESC LIMIT 1"
        );
        let values = values![alert.0, channel.as_str()];
        Ok(self.fetch(Statement::new(sql, values), notification).await?.into_iter().next())
    }

    async fn notifications(&self, query: NotificationQuery) -> Result<Vec<NotificationRecord>> {
        let mut filter = Filter::default();
        filter.maybe("alert =", query.alert.map(|id| id.0));
        filter.maybe("channel =", query.channel.map(|name| name.0));
        filter.among("state", query.states.iter().map(|one| one.as_str()).collect());
        filter.maybe("id <", query.before.map(|id| id.0));
        let Filter { sql, values } = filter.limit(query.limit, "id DESC");
        let sql = format!("SELECT {COLUMNS} FROM notifications{sql}");
        self.fetch(Statement::new(sql, values), notification).await
    }

    async fn backlog(&self) -> Result<Vec<Backlog>> {
        // Two parts, so that each has its index.
        let sql = "SELECT channel, CAST(sum(unsent) AS BIGINT), min(oldest), CAST(sum(dead) AS BIGINT) FROM (
                SELECT channel, count(*) AS unsent, min(created_at) AS oldest, 0 AS dead
                FROM notifications WHERE state IN ('pending', 'claimed') GROUP BY channel
                UNION ALL
                SELECT channel, 0, CAST(NULL AS BIGINT), count(*)
                FROM notifications WHERE state = 'dead' GROUP BY channel) AS waiting
            GROUP BY channel ORDER BY channel";
        self.fetch(Statement::new(sql, vec![]), backlog).await
    }

    async fn revive_notification(&self, id: NotificationId, at: Timestamp) -> Result<()> {
        let there = Statement::new("SELECT 1 FROM notifications WHERE id = ?1", values![id.0]);
        // Its deadline is over: with it, it would go to the next channel at once.
        let sql = "UPDATE notifications SET state = 'pending', not_before = ?2, deadline = NULL, ended_at = NULL
            WHERE id = ?1 AND state = 'dead'";
        let batch = Batch::new(Durability::Power).must(there, move || not_found(id)).must(
            Statement::new(sql, values![id.0, at]),
            move || Error::Conflict {
                what: format!("notification {id}"),
                holder: "the outbox: it is not dead".into(),
            },
        );
        self.write(batch).await.map(drop)
    }

    async fn prune_notifications(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM notifications WHERE id IN (
            SELECT id FROM notifications WHERE ended_at < ?1 ORDER BY ended_at, id LIMIT ?2)";
        Ok(self
            .run(Durability::Process, Statement::new(sql, values![before, limit]))
            .await?
            .changed)
    }
}
