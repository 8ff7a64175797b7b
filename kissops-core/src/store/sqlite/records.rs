//! The traits of [`Store`](crate::store::Store), statement by statement.

use async_trait::async_trait;
use rusqlite::{Connection, ToSql, named_params, params};

use super::{SqliteStore, rows, writer::Durability};
use crate::{
    Error, Result, Timestamp,
    id::{InstanceName, RecordId, RunId},
    store::{
        CrashQuery, CrashRecord, CrashReport, CrashStore, Desired, EventQuery, EventRecord,
        EventStore, InstanceRecord, InstanceStore, MemberRecord, MemberStore, NewEvent, RunEnd,
        RunRecord, RunStore,
    },
};

/// All rows of a statement.
fn all<T>(
    conn: &Connection,
    sql: &str,
    values: &[(&str, &dyn ToSql)],
    read: fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    conn.prepare_cached(sql)?.query_map(values, read)?.collect()
}

fn changed(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

#[async_trait]
impl InstanceStore for SqliteStore {
    async fn instances(&self) -> Result<Vec<InstanceRecord>> {
        let sql = format!("SELECT {} FROM instances ORDER BY name", rows::INSTANCE);
        self.read(move |conn| all(conn, &sql, &[], rows::instance)).await
    }

    async fn put_instance(&self, record: InstanceRecord) -> Result<()> {
        let sql = "INSERT INTO instances (name, desired, restarts, failed, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (name) DO UPDATE SET desired = excluded.desired, restarts = excluded.restarts, failed = excluded.failed, updated_at = excluded.updated_at";
        let desired = match record.desired {
            Desired::Running => "running",
            Desired::Stopped => "stopped",
        };
        self.write(Durability::Power, move |tx| {
            let restarts = record.restarts.cast_signed();
            let values = params![
                record.name.as_str(),
                desired,
                restarts,
                record.failed,
                record.updated_at.0
            ];
            tx.conn.prepare_cached(sql)?.execute(values)?;
            Ok(())
        })
        .await
    }

    async fn remove_instance(&self, name: &InstanceName) -> Result<()> {
        let name = name.clone();
        self.write(Durability::Power, move |tx| {
            let sql = "DELETE FROM instances WHERE name = ?1";
            tx.conn.prepare_cached(sql)?.execute([name.as_str()])?;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl MemberStore for SqliteStore {
    async fn members(&self) -> Result<Vec<MemberRecord>> {
        let sql = format!("SELECT {} FROM members ORDER BY name", rows::MEMBER);
        self.read(move |conn| all(conn, &sql, &[], rows::member)).await
    }

    async fn add_member(&self, member: MemberRecord) -> Result<()> {
        // A map of texts always serializes.
        let vars = serde_json::to_string(&member.vars).unwrap_or_default();
        self.write(Durability::Power, move |tx| {
            let sql = "INSERT INTO members (name, vars, added_at) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO NOTHING";
            let values = params![member.name.as_str(), vars, member.added_at.0];
            if tx.conn.prepare_cached(sql)?.execute(values)? == 1 {
                return Ok(());
            }
            let what = format!("member `{}`", member.name);
            Err(Error::Conflict { what, holder: "the member that is there already".into() }.into())
        })
        .await
    }

    async fn remove_member(&self, name: &InstanceName) -> Result<()> {
        let name = name.clone();
        self.write(Durability::Power, move |tx| {
            let sql = "DELETE FROM members WHERE name = ?1";
            match tx.conn.prepare_cached(sql)?.execute([name.as_str()])? {
                0 => Err(Error::NotFound { what: format!("member `{name}`") }.into()),
                _ => Ok(()),
            }
        })
        .await
    }
}

#[async_trait]
impl RunStore for SqliteStore {
    async fn begin_run(&self, run: RunRecord) -> Result<()> {
        let sql = format!(
            "INSERT INTO runs ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (id) DO NOTHING",
            rows::RUN
        );
        self.write(Durability::Process, move |tx| {
            let (code, signal, dumped) =
                run.end.as_ref().map_or((None, None, false), |end| rows::exit_columns(end.status));
            let ended_at = run.end.as_ref().map(|end| end.at.0);
            let values = params![
                run.id.0,
                run.instance.as_str(),
                run.process.pid,
                run.process.start_ticks.cast_signed(),
                run.process.boot_id.0,
                run.started_at.0,
                ended_at,
                code,
                signal,
                dumped
            ];
            tx.conn.prepare_cached(&sql)?.execute(values)?;
            Ok(())
        })
        .await
    }

    async fn end_run(&self, run: RunId, end: RunEnd) -> Result<()> {
        self.write(Durability::Process, move |tx| {
            let sql =
                "UPDATE runs SET ended_at = ?2, exit_code = ?3, exit_signal = ?4, core_dumped = ?5
                WHERE id = ?1 AND ended_at IS NULL";
            let (code, signal, dumped) = rows::exit_columns(end.status);
            tx.conn.prepare_cached(sql)?.execute(params![run.0, end.at.0, code, signal, dumped])?;
            Ok(())
        })
        .await
    }

    async fn open_runs(&self) -> Result<Vec<RunRecord>> {
        let sql = format!("SELECT {} FROM runs WHERE ended_at IS NULL ORDER BY id", rows::RUN);
        self.read(move |conn| all(conn, &sql, &[], rows::run)).await
    }

    async fn runs(&self, instance: &InstanceName, limit: u32) -> Result<Vec<RunRecord>> {
        let sql = format!(
            "SELECT {} FROM runs WHERE instance = :name ORDER BY id DESC LIMIT :limit",
            rows::RUN
        );
        let name = instance.clone();
        self.read(move |conn| {
            let values = named_params! { ":name": name.as_str(), ":limit": limit };
            all(conn, &sql, values, rows::run)
        })
        .await
    }

    async fn prune_runs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(Durability::Process, move |tx| {
            let sql = "DELETE FROM runs WHERE id IN (SELECT id FROM runs WHERE ended_at < ?1 ORDER BY ended_at, id LIMIT ?2)";
            Ok(changed(tx.conn.prepare_cached(sql)?.execute(params![before.0, limit])?))
        })
        .await
    }
}

#[async_trait]
impl EventStore for SqliteStore {
    async fn append_events(&self, events: Vec<NewEvent>) -> Result<Vec<RecordId>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let sql =
            format!("INSERT INTO events ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)", rows::EVENT);
        self.write(Durability::Process, move |tx| {
            let mut insert = tx.conn.prepare_cached(&sql)?;
            let mut ids = Vec::with_capacity(events.len());
            for event in &events {
                let id = tx.next_id();
                let (kind, from, to) = rows::kind_columns(&event.kind);
                let instance = event.instance.as_ref().map(InstanceName::as_str);
                insert.execute(params![
                    id.0,
                    event.at.0,
                    instance,
                    kind,
                    from,
                    to,
                    event.reason
                ])?;
                ids.push(id);
            }
            Ok(ids)
        })
        .await
    }

    async fn events(&self, query: EventQuery) -> Result<Vec<EventRecord>> {
        let mut latest = Filter::new(&query.instances, query.since);
        if query.until.is_some() {
            latest.and("at < :until");
        }
        if query.after.is_some() {
            latest.and("id > :after");
        }
        let order = if query.after.is_some() { "ASC" } else { "DESC" };
        let sql = format!(
            "SELECT {0} FROM (SELECT {0} FROM events{1} ORDER BY id {order} LIMIT :limit) ORDER BY id",
            rows::EVENT,
            latest.sql
        );
        self.read(move |conn| {
            let names = rows::name_list(&query.instances);
            let mut values: Vec<(&str, &dyn ToSql)> = vec![(":limit", &query.limit)];
            if let Some(names) = &names {
                values.push((":names", names));
            }
            let since = query.since.map(|at| at.0);
            let until = query.until.map(|at| at.0);
            let after = query.after.map(|id| id.0);
            for (name, value) in [(":since", &since), (":until", &until), (":after", &after)] {
                if let Some(value) = value {
                    values.push((name, value));
                }
            }
            all(conn, &sql, &values, rows::event)
        })
        .await
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(Durability::Process, move |tx| {
            tx.keep_high_water()?;
            let sql = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < ?1 ORDER BY at, id LIMIT ?2)";
            Ok(changed(tx.conn.prepare_cached(sql)?.execute(params![before.0, limit])?))
        })
        .await
    }
}

#[async_trait]
impl CrashStore for SqliteStore {
    async fn add_crash(&self, report: CrashReport) -> Result<RecordId> {
        let sql = format!(
            "INSERT INTO crashes ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            rows::CRASH
        );
        // A list of texts always serializes.
        let last_lines = serde_json::to_string(&report.last_lines).unwrap_or_default();
        self.write(Durability::Process, move |tx| {
            let id = tx.next_id();
            let (code, signal, dumped) = rows::exit_columns(report.status);
            let usage = report.usage.as_ref();
            let values = params![
                id.0,
                report.instance.as_str(),
                report.run.0,
                report.at.0,
                code,
                signal,
                dumped,
                report.reason,
                report.out_of_memory,
                rows::micros(report.uptime),
                usage.map(|usage| rows::micros(usage.user_time)),
                usage.map(|usage| rows::micros(usage.system_time)),
                usage.map(|usage| usage.max_rss_bytes.cast_signed()),
                report.restarts.cast_signed(),
                last_lines
            ];
            tx.conn.prepare_cached(&sql)?.execute(values)?;
            Ok(id)
        })
        .await
    }

    async fn crashes(&self, query: CrashQuery) -> Result<Vec<CrashRecord>> {
        let filter = Filter::new(&query.instances, query.since);
        let sql = format!(
            "SELECT {} FROM crashes{} ORDER BY id DESC LIMIT :limit",
            rows::CRASH,
            filter.sql
        );
        self.read(move |conn| {
            let names = rows::name_list(&query.instances);
            let since = query.since.map(|at| at.0);
            let mut values: Vec<(&str, &dyn ToSql)> = vec![(":limit", &query.limit)];
            if let Some(names) = &names {
                values.push((":names", names));
            }
            if let Some(since) = &since {
                values.push((":since", since));
            }
            all(conn, &sql, &values, rows::crash)
        })
        .await
    }

    async fn prune_crashes(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.write(Durability::Process, move |tx| {
            tx.keep_high_water()?;
            let sql = "DELETE FROM crashes WHERE id IN (SELECT id FROM crashes WHERE at < ?1 ORDER BY at, id LIMIT ?2)";
            Ok(changed(tx.conn.prepare_cached(sql)?.execute(params![before.0, limit])?))
        })
        .await
    }
}

/// The conditions that queries of events and of crashes have in common. It writes only the ones that apply, so that
/// the planner can use an index for each.
struct Filter {
    sql: String,
}

impl Filter {
    fn new(instances: &[InstanceName], since: Option<Timestamp>) -> Self {
        let mut filter = Self { sql: String::new() };
        if !instances.is_empty() {
            filter.and("instance IN (SELECT value FROM json_each(:names))");
        }
        if since.is_some() {
            filter.and("at >= :since");
        }
        filter
    }

    fn and(&mut self, condition: &str) {
        self.sql.push_str(if self.sql.is_empty() { " WHERE " } else { " AND " });
        self.sql.push_str(condition);
    }
}
