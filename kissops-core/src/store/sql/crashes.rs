//! Statements of [`CrashStore`].

use async_trait::async_trait;

use super::{
    Append, Damage, Durability, Engine, EngineExt as _, Row, Statement, document,
    events::Filter,
    runs::{exit_columns, exit_status},
    values,
};
use crate::{
    Error, Result, Timestamp,
    id::RecordId,
    store::{CrashQuery, CrashRecord, CrashReport, CrashStore},
    supervisor::ResourceUse,
};

const COLUMNS: &[&str] = &[
    "instance",
    "run",
    "at",
    "exit_code",
    "exit_signal",
    "core_dumped",
    "reason",
    "out_of_memory",
    "uptime_us",
    "user_time_us",
    "system_time_us",
    "max_rss_bytes",
    "restarts",
    "last_lines",
];

fn crash(row: &mut Row) -> Result<CrashRecord, Damage> {
    let usage = if row.is_null(10) {
        None
    } else {
        Some(ResourceUse {
            user_time: row.get(10)?,
            system_time: row.get(11)?,
            max_rss_bytes: row.get(12)?,
        })
    };
    Ok(CrashRecord {
        id: row.get(0)?,
        report: CrashReport {
            instance: row.get(1)?,
            run: row.get(2)?,
            at: row.get(3)?,
            status: exit_status(row, 4)?,
            reason: row.get(7)?,
            out_of_memory: row.get(8)?,
            uptime: row.get(9)?,
            usage,
            restarts: row.get(13)?,
            last_lines: document(row, 14)?,
        },
    })
}

#[async_trait]
impl<E: Engine> CrashStore for E {
    async fn add_crash(&self, report: CrashReport) -> Result<RecordId> {
        // A list of texts always serializes.
        let last_lines = serde_json::to_string(&report.last_lines).unwrap_or_default();
        let (code, signal, dumped) = exit_columns(report.status);
        let usage = report.usage.as_ref();
        let row = values![
            report.instance,
            report.run,
            report.at,
            code,
            signal,
            dumped,
            report.reason,
            report.out_of_memory,
            report.uptime,
            usage.map(|usage| usage.user_time),
            usage.map(|usage| usage.system_time),
            usage.map(|usage| usage.max_rss_bytes),
            report.restarts,
            last_lines
        ];
        let ids =
            self.append(Append { table: "crashes", columns: COLUMNS, rows: vec![row] }).await?;
        ids.first().copied().ok_or(Error::Closed { what: "the store" })
    }

    async fn crashes(&self, query: CrashQuery) -> Result<Vec<CrashRecord>> {
        let filter = Filter::new(&query.instances, query.since).limit(query.limit, "id DESC");
        let sql = format!("SELECT id, {} FROM crashes{}", COLUMNS.join(", "), filter.sql);
        self.fetch(Statement::new(sql, filter.values), crash).await
    }

    async fn prune_crashes(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM crashes WHERE id IN (SELECT id FROM crashes WHERE at < ?1 ORDER BY at, id LIMIT ?2)";
        let prune = Statement::new(sql, values![before, limit]);
        Ok(self.run(Durability::Process, prune).await?.changed)
    }
}
