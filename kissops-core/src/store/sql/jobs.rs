//! Statements of [`JobStore`].

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, Value, events::Filter,
    leases::checked_claim, refuse::missing, values,
};
use crate::{
    Error, Result, Timestamp,
    store::{
        Claimant, JobCause, JobClaim, JobDue, JobEnd, JobName, JobOutcome, JobRecord, JobRun,
        JobRunId, JobRunQuery, JobRunState, JobStore, Overlap,
    },
};

const COLUMNS: &str = "id, job, due, cause, host, started_at, attempt, claim_until, ended_at, outcome, detail, output";

fn job(row: &mut Row) -> Result<JobRecord, Damage> {
    Ok(JobRecord { name: JobName(row.get(0)?), fingerprint: row.get(1)?, last_due: row.get(2)? })
}

fn run(row: &mut Row) -> Result<JobRun, Damage> {
    let state = match row.get::<Option<Timestamp>>(8)? {
        Some(at) => JobRunState::Ended(JobEnd { at, outcome: outcome(row)?, output: row.get(11)? }),
        None => JobRunState::Running { until: row.get(7)? },
    };
    Ok(JobRun {
        id: JobRunId(row.get(0)?),
        due: JobDue { job: JobName(row.get(1)?), due: row.get(2)?, cause: row.parsed(3)? },
        host: row.get(4)?,
        started_at: row.get(5)?,
        attempt: row.get(6)?,
        state,
    })
}

fn outcome(row: &mut Row) -> Result<JobOutcome, Damage> {
    let word: String = row.get(9)?;
    Ok(match word.as_str() {
        "succeeded" => JobOutcome::Succeeded,
        "failed" => JobOutcome::Failed { why: row.get(10)? },
        "timed_out" => JobOutcome::TimedOut,
        "replaced" => JobOutcome::Replaced,
        "skipped" => JobOutcome::Skipped { why: row.get(10)? },
        "lost" => JobOutcome::Lost,
        other => return Err(Damage::new(9, format!("`{other}` is no outcome"))),
    })
}

/// The columns outcome and detail.
fn outcome_columns(outcome: JobOutcome) -> (&'static str, Option<String>) {
    match outcome {
        JobOutcome::Succeeded => ("succeeded", None),
        JobOutcome::Failed { why } => ("failed", Some(why)),
        JobOutcome::TimedOut => ("timed_out", None),
        JobOutcome::Replaced => ("replaced", None),
        JobOutcome::Skipped { why } => ("skipped", Some(why)),
        JobOutcome::Lost => ("lost", None),
    }
}

/// A due time of the schedule was dealt with. This comes first: whoever locks a job's row and its runs does it in that
/// order.
fn dealt_with(batch: Batch, due: &JobDue) -> Batch {
    if !matches!(due.cause, JobCause::Schedule | JobCause::CatchUp) {
        return batch;
    }
    let sql = "UPDATE jobs SET last_due = ?2 WHERE name = ?1 AND last_due < ?2";
    batch.step(Statement::new(sql, values![due.job.as_str(), due.due]))
}

/// Makes claims of one job come one after the other, and ends the runs whose hosts vanished: a host that is merely late
/// finds out when it renews.
fn alone(batch: Batch, due: &JobDue, now: Timestamp) -> Batch {
    let lock = "SELECT 1 FROM jobs WHERE name = ?1 {update}";
    let lost = "UPDATE job_runs SET claim_until = NULL, ended_at = ?3, outcome = 'lost'
        WHERE job = ?1 AND due <> ?2 AND ended_at IS NULL AND claim_until <= {now}";
    let what = format!("job `{}`", due.job);
    batch
        .must(Statement::new(lock, values![due.job.as_str()]), missing(what))
        .step(Statement::new(lost, values![due.job.as_str(), due.due, now]))
}

fn taken(claim: JobClaim) -> Error {
    Error::Conflict {
        what: format!("run {} of a job", claim.run),
        holder: "another host, or it is over".into(),
    }
}

#[async_trait]
impl<E: Engine> JobStore for E {
    async fn jobs(&self) -> Result<Vec<JobRecord>> {
        let sql = "SELECT name, fingerprint, last_due FROM jobs ORDER BY name";
        self.fetch(Statement::new(sql, vec![]), job).await
    }

    async fn put_job(&self, name: &JobName, fingerprint: u64, now: Timestamp) -> Result<JobRecord> {
        let sql = "INSERT INTO jobs (name, fingerprint, last_due) VALUES (?1, ?2, ?3)
            ON CONFLICT (name) DO UPDATE SET fingerprint = excluded.fingerprint,
            last_due = CASE WHEN jobs.fingerprint = excluded.fingerprint THEN jobs.last_due ELSE excluded.last_due END
            RETURNING name, fingerprint, last_due";
        let values = values![name.as_str(), fingerprint, now];
        let answer = self.run(Durability::Power, Statement::new(sql, values)).await?;
        self.decode_one(answer.rows, job)
    }

    async fn remove_job(&self, name: &JobName) -> Result<()> {
        let remove = Statement::new("DELETE FROM jobs WHERE name = ?1", values![name.as_str()]);
        self.run(Durability::Power, remove).await.map(drop)
    }

    async fn claim_job(
        &self,
        due: JobDue,
        overlap: Overlap,
        by: &Claimant,
        now: Timestamp,
    ) -> Result<JobRun> {
        let batch = Batch::new(Durability::Power);
        let (batch, admitted) = match overlap {
            Overlap::Allow => (batch, "1 = 1"),
            Overlap::Forbid => (
                alone(batch, &due, now),
                "NOT EXISTS (SELECT 1 FROM job_runs other
                    WHERE other.job = ?2 AND other.due <> ?3 AND other.ended_at IS NULL)",
            ),
        };
        let sql = format!(
            "INSERT INTO job_runs (id, job, due, cause, host, started_at, attempt, claim_until, output)
            SELECT ?1, ?2, ?3, ?4, ?5, ?6, 1, {{now}} + ?7, '' WHERE {admitted}
            ON CONFLICT (job, due) DO UPDATE SET host = excluded.host, started_at = excluded.started_at,
            attempt = job_runs.attempt + 1, claim_until = excluded.claim_until
            WHERE job_runs.ended_at IS NULL AND job_runs.claim_until <= {{now}} RETURNING {COLUMNS}"
        );
        let values = values![
            Value::NextId,
            due.job.as_str(),
            due.due,
            due.cause.as_str(),
            by.name.as_str(),
            now,
            checked_claim(by.ttl)?
        ];
        let what = format!("job `{}`, due {}", due.job, due.due);
        let batch =
            dealt_with(batch, &due).must(Statement::new(sql, values), move || Error::Conflict {
                what: what.clone(),
                holder: "another run of it, or it is over".into(),
            });
        self.one(batch, run).await
    }

    async fn renew_job(&self, claim: JobClaim, ttl: Duration) -> Result<()> {
        let sql = "UPDATE job_runs SET claim_until = {now} + ?3 WHERE id = ?1 AND attempt = ?2 AND ended_at IS NULL";
        let renew = Statement::new(sql, values![claim.run.0, claim.attempt, checked_claim(ttl)?]);
        self.write(Batch::new(Durability::Process).must(renew, move || taken(claim)))
            .await
            .map(drop)
    }

    async fn end_job(&self, claim: JobClaim, end: JobEnd) -> Result<()> {
        let sql = "UPDATE job_runs SET claim_until = NULL, ended_at = ?3, outcome = ?4, detail = ?5, output = ?6
            WHERE id = ?1 AND attempt = ?2 AND ended_at IS NULL";
        let (outcome, detail) = outcome_columns(end.outcome);
        let values = values![claim.run.0, claim.attempt, end.at, outcome, detail, end.output];
        let end = Statement::new(sql, values);
        self.write(Batch::new(Durability::Power).must(end, move || taken(claim))).await.map(drop)
    }

    async fn skip_job(&self, due: JobDue, host: &str, at: Timestamp, why: &str) -> Result<()> {
        let sql = "INSERT INTO job_runs (id, job, due, cause, host, started_at, attempt, ended_at, outcome, detail, output)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?6, 'skipped', ?7, '') ON CONFLICT (job, due) DO NOTHING";
        let values =
            values![Value::NextId, due.job.as_str(), due.due, due.cause.as_str(), host, at, why];
        let batch = dealt_with(Batch::new(Durability::Power), &due);
        self.write(batch.step(Statement::new(sql, values))).await.map(drop)
    }

    async fn end_lost_jobs(&self, at: Timestamp, limit: u32) -> Result<Vec<JobRun>> {
        const LOST: &str = "ended_at IS NULL AND claim_until <= {now}";
        let sql = format!(
            "WITH gone AS MATERIALIZED (
                SELECT id FROM job_runs WHERE {LOST} ORDER BY id LIMIT ?2 {{skip_locked}})
            UPDATE job_runs SET claim_until = NULL, ended_at = ?1, outcome = 'lost'
            WHERE id IN (SELECT id FROM gone) AND {LOST} RETURNING {COLUMNS}"
        );
        let answer = self.run(Durability::Power, Statement::new(sql, values![at, limit])).await?;
        let mut lost = self.decode(answer.rows, run)?;
        lost.sort_by_key(|run| run.id);
        Ok(lost)
    }

    async fn running_jobs(&self) -> Result<Vec<JobRun>> {
        let sql = format!("SELECT {COLUMNS} FROM job_runs WHERE ended_at IS NULL ORDER BY id");
        self.fetch(Statement::new(sql, vec![]), run).await
    }

    async fn job_runs(&self, query: JobRunQuery) -> Result<Vec<JobRun>> {
        let mut filter = Filter::default();
        filter.maybe("job =", query.job.map(|name| name.0));
        filter.maybe("id <", query.before.map(|id| id.0));
        let Filter { sql, values } = filter.limit(query.limit, "id DESC");
        let sql = format!("SELECT {COLUMNS} FROM job_runs{sql}");
        self.fetch(Statement::new(sql, values), run).await
    }

    async fn prune_job_runs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM job_runs WHERE id IN (
            SELECT id FROM job_runs WHERE ended_at < ?1 ORDER BY ended_at, id LIMIT ?2)";
        Ok(self
            .run(Durability::Process, Statement::new(sql, values![before, limit]))
            .await?
            .changed)
    }
}
