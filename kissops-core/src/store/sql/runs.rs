//! Statements of [`RunStore`].

use async_trait::async_trait;

use super::{Damage, Durability, Engine, EngineExt as _, Row, Statement, values};
use crate::{
    Result, Timestamp,
    id::{BootId, InstanceName, ProcessIdentity, RunId},
    store::{RunEnd, RunRecord, RunStore},
    supervisor::{ExitStatus, Signal},
};

const SELECT: &str = "SELECT id, instance, pid, start_ticks, boot_id, started_at, ended_at, exit_code, exit_signal, core_dumped FROM runs";

fn run(row: &mut Row) -> Result<RunRecord, Damage> {
    let ended_at: Option<Timestamp> = row.get(6)?;
    let status = exit_status(row, 7)?;
    Ok(RunRecord {
        id: row.get(0)?,
        instance: row.get(1)?,
        process: ProcessIdentity {
            pid: row.get(2)?,
            start_ticks: row.get(3)?,
            boot_id: BootId(row.get(4)?),
        },
        started_at: row.get(5)?,
        end: ended_at.map(|at| RunEnd { at, status }),
    })
}

/// An [`ExitStatus`] as its three columns: code, signal, core dumped.
pub(super) fn exit_columns(status: ExitStatus) -> (Option<i32>, Option<i32>, bool) {
    match status {
        ExitStatus::Code(code) => (Some(code), None, false),
        ExitStatus::Signal { signal, core_dumped } => (None, Some(signal.number()), core_dumped),
        ExitStatus::Unknown => (None, None, false),
    }
}

/// Three columns from `at` on.
pub(super) fn exit_status(row: &mut Row, at: usize) -> Result<ExitStatus, Damage> {
    let (code, signal): (Option<i32>, Option<i32>) = (row.get(at)?, row.get(at + 1)?);
    Ok(match (code, signal) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, Some(number)) => ExitStatus::Signal {
            signal: Signal::new(number).map_err(|err| Damage::new(at + 1, err.chain()))?,
            core_dumped: row.get(at + 2)?,
        },
        (None, None) => ExitStatus::Unknown,
    })
}

#[async_trait]
impl<E: Engine> RunStore for E {
    async fn begin_run(&self, run: RunRecord) -> Result<()> {
        let sql = "INSERT INTO runs (id, instance, pid, start_ticks, boot_id, started_at, ended_at, exit_code, exit_signal, core_dumped)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (id) DO NOTHING";
        let (code, signal, dumped) =
            run.end.as_ref().map_or((None, None, false), |end| exit_columns(end.status));
        let values = values![
            run.id,
            run.instance,
            run.process.pid,
            run.process.start_ticks,
            run.process.boot_id.0,
            run.started_at,
            run.end.map(|end| end.at),
            code,
            signal,
            dumped
        ];
        self.run(Durability::Process, Statement::new(sql, values)).await.map(drop)
    }

    async fn end_run(&self, run: RunId, end: RunEnd) -> Result<()> {
        let sql =
            "UPDATE runs SET ended_at = ?2, exit_code = ?3, exit_signal = ?4, core_dumped = ?5
            WHERE id = ?1 AND ended_at IS NULL";
        let (code, signal, dumped) = exit_columns(end.status);
        let values = values![run, end.at, code, signal, dumped];
        self.run(Durability::Process, Statement::new(sql, values)).await.map(drop)
    }

    async fn open_runs(&self) -> Result<Vec<RunRecord>> {
        let sql = format!("{SELECT} WHERE ended_at IS NULL ORDER BY id");
        self.fetch(Statement::new(sql, vec![]), run).await
    }

    async fn runs(&self, instance: &InstanceName, limit: u32) -> Result<Vec<RunRecord>> {
        let sql = format!("{SELECT} WHERE instance = ?1 ORDER BY id DESC LIMIT ?2");
        self.fetch(Statement::new(sql, values![instance, limit]), run).await
    }

    async fn prune_runs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM runs WHERE id IN (SELECT id FROM runs WHERE ended_at < ?1 ORDER BY ended_at, id LIMIT ?2)";
        let prune = Statement::new(sql, values![before, limit]);
        Ok(self.run(Durability::Process, prune).await?.changed)
    }
}
