//! Statements of [`SilenceStore`].

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, Value, document,
    events::Filter, values,
};
use crate::{
    Error, Result, Timestamp,
    store::{NewSilence, SilenceId, SilenceRecord, SilenceStore},
};

const COLUMNS: &str = "id, matchers, author, reason, created_at, starts_at, ends_at, ended_by";

fn silence(row: &mut Row) -> Result<SilenceRecord, Damage> {
    let silence = NewSilence {
        matchers: document(row, 1)?,
        author: row.get(2)?,
        reason: row.get(3)?,
        at: row.get(4)?,
        starts_at: row.get(5)?,
        ends_at: row.get(6)?,
    };
    Ok(SilenceRecord { id: SilenceId(row.get(0)?), silence, ended_by: row.get(7)? })
}

#[async_trait]
impl<E: Engine> SilenceStore for E {
    async fn add_silence(&self, silence: NewSilence) -> Result<SilenceId> {
        if silence.matchers.is_empty() {
            return Err(Error::invalid("silence.matchers", "must have at least one matcher"));
        }
        if silence.ends_at <= silence.starts_at {
            return Err(Error::invalid("silence.ends_at", "must be after starts_at"));
        }
        // A list of texts and words always serializes.
        let matchers = serde_json::to_string(&silence.matchers).unwrap_or_default();
        let sql = "INSERT INTO silences (id, matchers, author, reason, created_at, starts_at, ends_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING id";
        let values = values![
            Value::NextId,
            matchers,
            silence.author,
            silence.reason,
            silence.at,
            silence.starts_at,
            silence.ends_at
        ];
        let answer = self.run(Durability::Power, Statement::new(sql, values)).await?;
        self.decode_one(answer.rows, |row| row.get(0).map(SilenceId))
    }

    async fn silences_at(&self, at: Timestamp) -> Result<Vec<SilenceRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM silences WHERE starts_at <= ?1 AND ends_at > ?1 ORDER BY id"
        );
        self.fetch(Statement::new(sql, values![at]), silence).await
    }

    async fn silences(&self, before: Option<SilenceId>, limit: u32) -> Result<Vec<SilenceRecord>> {
        let mut filter = Filter::default();
        filter.maybe("id <", before.map(|id| id.0));
        let Filter { sql, values } = filter.limit(limit, "id DESC");
        let sql = format!("SELECT {COLUMNS} FROM silences{sql}");
        self.fetch(Statement::new(sql, values), silence).await
    }

    async fn end_silence(&self, id: SilenceId, at: Timestamp, by: &str) -> Result<()> {
        let there = Statement::new("SELECT 1 FROM silences WHERE id = ?1", values![id.0]);
        let sql = "UPDATE silences SET ended_by = ?3, ends_at = CASE WHEN starts_at > ?2 THEN starts_at ELSE ?2 END
            WHERE id = ?1 AND ends_at > ?2 AND ends_at > starts_at";
        let batch = Batch::new(Durability::Power)
            .must(there, move || Error::NotFound { what: format!("silence {id}") })
            .must(Statement::new(sql, values![id.0, at, by]), move || Error::Conflict {
                what: format!("silence {id}"),
                holder: "the past: it is over".into(),
            });
        self.write(batch).await.map(drop)
    }

    async fn prune_silences(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM silences WHERE id IN (
            SELECT id FROM silences WHERE ends_at < ?1 ORDER BY ends_at, id LIMIT ?2)";
        Ok(self
            .run(Durability::Process, Statement::new(sql, values![before, limit]))
            .await?
            .changed)
    }
}
