//! Statements of [`DrillStore`].

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, Value, document,
    events::Filter, refuse::held, values,
};
use crate::{
    Error, Result, Timestamp,
    store::{
        BackupId, Claimant, DrillEnd, DrillId, DrillOutcome, DrillQuery, DrillRecord, DrillState,
        DrillStore, NewDrill, PlanName,
    },
};

const COLUMNS: &str =
    "id, plan, backup, started_at, ended_at, failure, rpo_us, rto_us, checks, claim_until";

fn drill(row: &mut Row) -> Result<DrillRecord, Damage> {
    let state = match row.get::<Option<Timestamp>>(4)? {
        Some(at) => DrillState::Ended(DrillEnd {
            at,
            outcome: match row.get::<Option<String>>(5)? {
                Some(why) => DrillOutcome::Failed { why },
                None => DrillOutcome::Passed,
            },
            rpo: row.get(6)?,
            rto: row.get(7)?,
            checks: document(row, 8)?,
        }),
        None => DrillState::Running { until: row.get(9)? },
    };
    let drill = NewDrill {
        plan: PlanName(row.get(1)?),
        backup: BackupId(row.get(2)?),
        started_at: row.get(3)?,
    };
    Ok(DrillRecord { id: DrillId(row.get(0)?), drill, state })
}

#[async_trait]
impl<E: Engine> DrillStore for E {
    async fn begin_drill(&self, drill: NewDrill, by: &Claimant) -> Result<DrillId> {
        let sql = "INSERT INTO drills (id, plan, backup, started_at, claim_until)
            SELECT ?1, plan, id, ?4, {now} + ?5 FROM backups WHERE id = ?2 AND plan = ?3 RETURNING id";
        let values =
            values![Value::NextId, drill.backup.0, drill.plan.as_str(), drill.started_at, by.ttl];
        let batch = Batch::new(Durability::Power).must(Statement::new(sql, values), move || {
            Error::NotFound { what: format!("backup {} of plan `{}`", drill.backup, drill.plan) }
        });
        let rows = self.write(batch).await?.pop().unwrap_or_default().rows;
        self.decode_one(rows, |row| row.get(0).map(DrillId))
    }

    async fn renew_drill(&self, id: DrillId, ttl: Duration) -> Result<()> {
        let sql = "UPDATE drills SET claim_until = {now} + ?2 WHERE id = ?1 AND ended_at IS NULL";
        let batch = Batch::new(Durability::Process).must(
            Statement::new(sql, values![id.0, ttl]),
            held(format!("drill {id}"), "its end, or there is none of that number"),
        );
        self.write(batch).await.map(drop)
    }

    async fn end_drill(&self, id: DrillId, end: DrillEnd) -> Result<()> {
        let there = Statement::new("SELECT 1 FROM drills WHERE id = ?1", values![id.0]);
        let passed = end.outcome == DrillOutcome::Passed;
        let failure = match end.outcome {
            DrillOutcome::Passed => None,
            DrillOutcome::Failed { why } => Some(why),
        };
        // A list of texts and spans always serializes.
        let checks = serde_json::to_string(&end.checks).unwrap_or_default();
        let sql =
            "UPDATE drills SET ended_at = ?2, failure = ?3, rpo_us = ?4, rto_us = ?5, checks = ?6, claim_until = NULL
            WHERE id = ?1 AND ended_at IS NULL";
        let values = values![id.0, end.at, failure, end.rpo, end.rto, checks];
        let mut batch = Batch::new(Durability::Power)
            .must(there, move || Error::NotFound { what: format!("drill {id}") })
            .must(Statement::new(sql, values), move || Error::Conflict {
                what: format!("drill {id}"),
                holder: "its first end".into(),
            });
        if passed {
            let sql = "UPDATE backups SET drilled_at = CASE WHEN drilled_at > ?2 THEN drilled_at ELSE ?2 END
                WHERE id = (SELECT backup FROM drills WHERE id = ?1)";
            batch = batch.step(Statement::new(sql, values![id.0, end.at]));
        }
        self.write(batch).await.map(drop)
    }

    async fn end_lost_drills(&self, at: Timestamp, limit: u32) -> Result<Vec<DrillRecord>> {
        const LOST: &str = "ended_at IS NULL AND claim_until <= {now}";
        let sql = format!(
            "WITH gone AS MATERIALIZED (
                SELECT id FROM drills WHERE {LOST} ORDER BY id LIMIT ?2 {{skip_locked}})
            UPDATE drills SET claim_until = NULL, ended_at = ?1, failure = 'whoever made it vanished', checks = '[]'
            WHERE id IN (SELECT id FROM gone) AND {LOST} RETURNING {COLUMNS}"
        );
        let answer = self.run(Durability::Power, Statement::new(sql, values![at, limit])).await?;
        let mut lost = self.decode(answer.rows, drill)?;
        lost.sort_by_key(|one| one.id);
        Ok(lost)
    }

    async fn drills(&self, query: DrillQuery) -> Result<Vec<DrillRecord>> {
        let mut filter = Filter::default();
        filter.maybe("plan =", query.plan.map(|name| name.0));
        filter.maybe("id <", query.before.map(|id| id.0));
        let Filter { sql, values } = filter.limit(query.limit, "id DESC");
        let sql = format!("SELECT {COLUMNS} FROM drills{sql}");
        self.fetch(Statement::new(sql, values), drill).await
    }

    async fn last_passed_drill(&self, plan: &PlanName) -> Result<Option<DrillRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM drills
            WHERE plan = ?1 AND ended_at IS NOT NULL AND failure IS NULL ORDER BY id DESC LIMIT 1"
        );
        Ok(self.fetch(Statement::new(sql, values![plan.as_str()]), drill).await?.pop())
    }

    async fn prune_drills(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM drills WHERE id IN (
            SELECT d.id FROM drills d WHERE d.ended_at < ?1 AND (d.failure IS NOT NULL OR EXISTS (
                SELECT 1 FROM drills l WHERE l.plan = d.plan AND l.id > d.id AND l.ended_at IS NOT NULL AND l.failure IS NULL))
            ORDER BY d.ended_at, d.id LIMIT ?2)";
        Ok(self
            .run(Durability::Process, Statement::new(sql, values![before, limit]))
            .await?
            .changed)
    }
}
