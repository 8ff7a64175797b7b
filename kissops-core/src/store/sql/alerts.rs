//! Statements of [`AlertStore`].

use async_trait::async_trait;

use super::{
    Answer, Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, Value, document,
    events::Filter,
    outbox::{About, queued},
    values,
};
use crate::{
    Error, Result, Timestamp,
    store::{
        Acknowledgement, AlertChange, AlertContent, AlertId, AlertKey, AlertQuery, AlertRecord,
        AlertState, AlertStore, NewAlert, Opening, Outgoing,
    },
};

const COLUMNS: &str = "id, key, revision, severity, source, summary, details, labels, runbook, started_at, last_at, occurrences, acked_at, acked_by, ack_note, ended_at, end_reason";

fn alert(row: &mut Row) -> Result<AlertRecord, Damage> {
    let acknowledged = match row.get::<Option<Timestamp>>(12)? {
        Some(at) => Some(Acknowledgement { at, by: row.get(13)?, note: row.get(14)? }),
        None => None,
    };
    let state = match (row.get::<Option<Timestamp>>(15)?, acknowledged) {
        (Some(at), acknowledged) => AlertState::Resolved { at, why: row.get(16)?, acknowledged },
        (None, Some(acknowledged)) => AlertState::Acknowledged(acknowledged),
        (None, None) => AlertState::Firing,
    };
    let content = AlertContent {
        severity: row.parsed(3)?,
        source: row.get(4)?,
        summary: row.get(5)?,
        details: row.get(6)?,
        labels: document(row, 7)?,
        runbook: row.get(8)?,
    };
    Ok(AlertRecord {
        id: AlertId(row.get(0)?),
        key: AlertKey(row.get(1)?),
        revision: row.get(2)?,
        content,
        started_at: row.get(9)?,
        last_at: row.get(10)?,
        occurrences: row.get(11)?,
        state,
    })
}

/// In the order of their columns.
fn content_values(content: AlertContent) -> Vec<Value> {
    // A map of texts always serializes.
    let labels = serde_json::to_string(&content.labels).unwrap_or_default();
    values![
        content.severity.as_str(),
        content.source,
        content.summary,
        content.details,
        labels,
        content.runbook
    ]
}

/// What the change sets, from parameter 3 on.
fn changed(change: AlertChange) -> (&'static str, Vec<Value>) {
    match change {
        AlertChange::Update(content) => (
            "severity = ?3, source = ?4, summary = ?5, details = ?6, labels = ?7, runbook = ?8",
            content_values(content),
        ),
        AlertChange::Acknowledge(Acknowledgement { at, by, note }) => {
            ("acked_at = ?3, acked_by = ?4, ack_note = ?5", values![at, by, note])
        }
        AlertChange::Resolve { at, why } => ("ended_at = ?3, end_reason = ?4", values![at, why]),
    }
}

fn not_found(id: AlertId) -> Error {
    Error::NotFound { what: format!("alert {id}") }
}

/// The alert that the step at `step` returned.
fn returned<E: Engine>(engine: &E, answers: Vec<Answer>, step: usize) -> Result<AlertRecord> {
    let rows = answers.into_iter().nth(step).unwrap_or_default().rows;
    engine.decode_one(rows, alert)
}

#[async_trait]
impl<E: Engine> AlertStore for E {
    async fn open_alert(&self, new: NewAlert, outgoing: Vec<Outgoing>) -> Result<Opening> {
        let sql = format!(
            "INSERT INTO alerts (id, key, started_at, last_at, severity, source, summary, details, labels, runbook, revision, occurrences)
            VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, 1)
            ON CONFLICT (key) WHERE ended_at IS NULL DO UPDATE SET occurrences = alerts.occurrences + 1,
            last_at = CASE WHEN excluded.last_at > alerts.last_at THEN excluded.last_at ELSE alerts.last_at END
            RETURNING {COLUMNS}"
        );
        let mut values = values![Value::NextId, new.key.as_str(), new.at];
        values.extend(content_values(new.content));
        let mut batch = Batch::new(Durability::Power).step(Statement::new(sql, values));
        for one in outgoing {
            batch = batch.step(queued(About::Opened(&new.key), one));
        }
        let record = returned(self, self.write(batch).await?, 0)?;
        Ok(if record.occurrences == 1 { Opening::New(record) } else { Opening::Again(record) })
    }

    async fn change_alert(
        &self,
        id: AlertId,
        revision: u32,
        change: AlertChange,
        outgoing: Vec<Outgoing>,
    ) -> Result<AlertRecord> {
        let there = Statement::new("SELECT 1 FROM alerts WHERE id = ?1", values![id.0]);
        let (set, set_values) = changed(change);
        let sql = format!(
            "UPDATE alerts SET revision = revision + 1, {set}
            WHERE id = ?1 AND revision = ?2 AND ended_at IS NULL RETURNING {COLUMNS}"
        );
        let mut values = values![id.0, revision];
        values.extend(set_values);
        let mut batch = Batch::new(Durability::Power).must(there, move || not_found(id)).must(
            Statement::new(sql, values),
            move || Error::Conflict {
                what: format!("alert {id}"),
                holder: "a change that was made meanwhile: read it again".into(),
            },
        );
        for one in outgoing {
            batch = batch.step(queued(About::Alert(id), one));
        }
        returned(self, self.write(batch).await?, 1)
    }

    async fn alert(&self, id: AlertId) -> Result<AlertRecord> {
        let sql = format!("SELECT {COLUMNS} FROM alerts WHERE id = ?1");
        let found = self.fetch(Statement::new(sql, values![id.0]), alert).await?;
        found.into_iter().next().ok_or_else(|| not_found(id))
    }

    async fn open_alerts(&self) -> Result<Vec<AlertRecord>> {
        let sql = format!("SELECT {COLUMNS} FROM alerts WHERE ended_at IS NULL ORDER BY id");
        self.fetch(Statement::new(sql, vec![]), alert).await
    }

    async fn alerts(&self, query: AlertQuery) -> Result<Vec<AlertRecord>> {
        let mut filter = Filter::default();
        filter.maybe("key =", query.key.map(|key| key.0));
        filter.among("severity", query.severities.iter().map(|one| one.as_str()).collect());
        filter.maybe("started_at >=", query.since);
        filter.maybe("started_at <", query.until);
        filter.maybe("id <", query.before.map(|id| id.0));
        let Filter { sql, values } = filter.limit(query.limit, "id DESC");
        let sql = format!("SELECT {COLUMNS} FROM alerts{sql}");
        self.fetch(Statement::new(sql, values), alert).await
    }

    async fn unheard_alerts(&self, limit: u32) -> Result<Vec<AlertRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM alerts WHERE ended_at IS NULL
            AND EXISTS (SELECT 1 FROM notifications n WHERE n.alert = alerts.id AND n.state IN ('dead', 'merged'))
            AND NOT EXISTS (SELECT 1 FROM notifications n WHERE n.alert = alerts.id
                AND n.state IN ('pending', 'claimed', 'delivered'))
            AND NOT EXISTS (SELECT 1 FROM notifications n JOIN notifications d ON d.id = n.merged_into
                WHERE n.alert = alerts.id AND d.kind = 'digest' AND d.state <> 'dead')
            ORDER BY id LIMIT ?1"
        );
        self.fetch(Statement::new(sql, values![limit]), alert).await
    }

    async fn prune_alerts(&self, before: Timestamp, limit: u32) -> Result<u64> {
        const OVER: &str = "ended_at < ?1 AND NOT EXISTS (
            SELECT 1 FROM notifications n WHERE n.alert = alerts.id AND n.state IN ('pending', 'claimed'))";
        let sql = format!("SELECT id FROM alerts WHERE {OVER} ORDER BY ended_at, id LIMIT ?2");
        let chosen = self.fetch(Statement::new(sql, values![before, limit]), |row| row.get(0));
        let chosen: Vec<i64> = chosen.await?;
        if chosen.is_empty() {
            return Ok(0);
        }
        // Whoever queues a notification holds its alert. So once these are locked, what is queued for them is seen.
        let lock = "SELECT id FROM alerts WHERE id IN {list ?1} ORDER BY id {update}";
        let delete = format!("DELETE FROM alerts WHERE {OVER} AND id IN {{list ?2}}");
        let batch = Batch::new(Durability::Process)
            .step(Statement::new(lock, values![chosen.clone()]))
            .step(Statement::new(delete, values![before, chosen]));
        Ok(self.write(batch).await?.pop().unwrap_or_default().changed)
    }
}
