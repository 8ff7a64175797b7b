//! Statements of [`BackupStore`].

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, Value, document,
    events::Filter, leases::checked_claim, values,
};
use crate::{
    Error, Result, Timestamp,
    store::{
        Archive, ArchiveName, BackupCopy, BackupCopyState, BackupEnd, BackupId, BackupQuery,
        BackupRecord, BackupState, BackupStateName, BackupStore, Claimant, NewBackup, PlanName,
        SinkName,
    },
};

const COLUMNS: &str = "id, name, plan, kind, parent, host, program, started_at, state, claim_until, ended_at, why, plain_bytes, stored_bytes, hash, key_id, counts, rpo_us, verified_at, drilled_at";
/// The columns of a copy, behind those above.
const COPY: usize = 20;

/// One backup with one of its copies, if it has any.
fn backup(row: &mut Row) -> Result<BackupRecord, Damage> {
    let backup = NewBackup {
        name: ArchiveName(row.get(1)?),
        plan: PlanName(row.get(2)?),
        kind: row.parsed(3)?,
        parent: row.get::<Option<i64>>(4)?.map(BackupId),
        host: row.get(5)?,
        program: row.get(6)?,
        started_at: row.get(7)?,
    };
    let copies = if row.is_null(COPY) { Vec::new() } else { vec![copy(row)?] };
    Ok(BackupRecord {
        id: BackupId(row.get(0)?),
        backup,
        state: state(row)?,
        copies,
        verified_at: row.get(18)?,
        drilled_at: row.get(19)?,
    })
}

fn state(row: &mut Row) -> Result<BackupState, Damage> {
    Ok(match row.parsed::<BackupStateName>(8)? {
        BackupStateName::Running => BackupState::Running { until: row.get(9)? },
        BackupStateName::Ok => BackupState::Ended(BackupEnd::Ok(archive(row)?)),
        BackupStateName::Partial => {
            BackupState::Ended(BackupEnd::Partial { archive: archive(row)?, why: row.get(11)? })
        }
        BackupStateName::Suspect => {
            BackupState::Ended(BackupEnd::Suspect { archive: archive(row)?, why: row.get(11)? })
        }
        BackupStateName::Failed => {
            BackupState::Ended(BackupEnd::Failed { at: row.get(10)?, why: row.get(11)? })
        }
    })
}

fn archive(row: &mut Row) -> Result<Archive, Damage> {
    Ok(Archive {
        ended_at: row.get(10)?,
        plain_bytes: row.get(12)?,
        stored_bytes: row.get(13)?,
        hash: row.get(14)?,
        key_id: row.get(15)?,
        counts: document(row, 16)?,
        rpo: row.get(17)?,
    })
}

fn copy(row: &mut Row) -> Result<BackupCopy, Damage> {
    let word: String = row.get(COPY + 1)?;
    let state = match word.as_str() {
        "pending" => BackupCopyState::Pending,
        "stored" => BackupCopyState::Stored {
            at: row.get(COPY + 2)?,
            bytes: row.get(COPY + 3)?,
            location: row.get(COPY + 4)?,
        },
        "failed" => BackupCopyState::Failed { at: row.get(COPY + 2)?, why: row.get(COPY + 5)? },
        "removed" => BackupCopyState::Removed { at: row.get(COPY + 2)? },
        other => return Err(Damage::new(COPY + 1, format!("`{other}` is no state of a copy"))),
    };
    Ok(BackupCopy { sink: SinkName(row.get(COPY)?), state })
}

/// The columns from `state` to `rpo_us`, but for `claim_until`.
fn end_values(end: BackupEnd) -> Vec<Value> {
    let (state, archive, why) = match end {
        BackupEnd::Ok(archive) => (BackupStateName::Ok, archive, None),
        BackupEnd::Partial { archive, why } => (BackupStateName::Partial, archive, Some(why)),
        BackupEnd::Suspect { archive, why } => (BackupStateName::Suspect, archive, Some(why)),
        BackupEnd::Failed { at, why } => {
            let failed = BackupStateName::Failed.as_str();
            return values![
                failed,
                at,
                why,
                None::<u64>,
                None::<u64>,
                None::<String>,
                None::<String>,
                None::<String>,
                None::<Duration>
            ];
        }
    };
    // A map of texts and numbers always serializes.
    let counts = serde_json::to_string(&archive.counts).unwrap_or_default();
    values![
        state.as_str(),
        archive.ended_at,
        why,
        archive.plain_bytes,
        archive.stored_bytes,
        archive.hash,
        archive.key_id,
        counts,
        archive.rpo
    ]
}

/// The columns of [`NewBackup`], behind the id.
fn new_values(backup: &NewBackup) -> Vec<Value> {
    values![
        Value::NextId,
        backup.name.as_str(),
        backup.plan.as_str(),
        backup.kind.as_str(),
        backup.parent.map(|id| id.0),
        backup.host.as_str(),
        backup.program.as_str(),
        backup.started_at
    ]
}

/// Writes a copy of the backup that `of` selects with parameter 1.
fn put_copy(of: &str, with: impl Into<Value>, copy: BackupCopy) -> Statement {
    let (state, at, bytes, location, why) = match copy.state {
        BackupCopyState::Pending => ("pending", None, None, None, None),
        BackupCopyState::Stored { at, bytes, location } => {
            ("stored", Some(at), Some(bytes), Some(location), None)
        }
        BackupCopyState::Failed { at, why } => ("failed", Some(at), None, None, Some(why)),
        BackupCopyState::Removed { at } => ("removed", Some(at), None, None, None),
    };
    let sql = format!(
        "INSERT INTO backup_copies (backup, sink, state, at, bytes, location, why)
        SELECT id, ?2, ?3, ?4, ?5, ?6, ?7 FROM backups WHERE {of} = ?1
        ON CONFLICT (backup, sink) DO UPDATE SET state = excluded.state, at = excluded.at, bytes = excluded.bytes,
        location = excluded.location, why = excluded.why"
    );
    let mut values = vec![with.into()];
    values.extend(values![copy.sink.as_str(), state, at, bytes, location, why]);
    Statement::new(sql, values)
}

/// Nothing may take the parent away before the new backup is there.
fn hold_parent(batch: Batch, parent: Option<BackupId>) -> Batch {
    let Some(parent) = parent else { return batch };
    let sql =
        "SELECT 1 FROM backups WHERE id = ?1 AND state IN ('ok', 'partial', 'suspect') {share}";
    batch.must(Statement::new(sql, values![parent.0]), move || Error::NotFound {
        what: format!("backup {parent} that another could build on"),
    })
}

fn not_found(id: BackupId) -> Error {
    Error::NotFound { what: format!("backup {id}") }
}

fn not_running(id: BackupId) -> Error {
    Error::Conflict { what: format!("backup {id}"), holder: "the catalog: it has ended".into() }
}

fn number(row: &mut Row) -> Result<BackupId, Damage> {
    row.get(0).map(BackupId)
}

/// Reads the backups that `chosen` selects, newest first, with all their copies. A number says when the catalog learned
/// of a backup, and that may be long after it was made.
async fn read<E: Engine>(engine: &E, chosen: Filter, limit: u32) -> Result<Vec<BackupRecord>> {
    let Filter { sql, values } = chosen.limit(limit, "started_at DESC, id DESC");
    let sql = format!(
        "SELECT b.*, c.sink, c.state, c.at, c.bytes, c.location, c.why FROM (SELECT {COLUMNS} FROM backups{sql}) AS b
        LEFT JOIN backup_copies c ON c.backup = b.id ORDER BY b.started_at DESC, b.id DESC, c.sink"
    );
    let mut all: Vec<BackupRecord> = Vec::new();
    for mut found in engine.fetch(Statement::new(sql, values), backup).await? {
        match all.last_mut() {
            Some(last) if last.id == found.id => last.copies.append(&mut found.copies),
            _ => all.push(found),
        }
    }
    Ok(all)
}

#[async_trait]
impl<E: Engine> BackupStore for E {
    async fn begin_backup(&self, backup: NewBackup, by: &Claimant) -> Result<BackupId> {
        let vanished = "UPDATE backups SET state = 'failed', claim_until = NULL, ended_at = ?2, why = 'whoever made it vanished'
            WHERE plan = ?1 AND state = 'running' AND claim_until <= {now}";
        let sql = "INSERT INTO backups (id, name, plan, kind, parent, host, program, started_at, state, claim_until)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'running', {now} + ?9) ON CONFLICT DO NOTHING RETURNING id";
        let batch = Batch::new(Durability::Power)
            .step(Statement::new(vanished, values![backup.plan.as_str(), backup.started_at]));
        let mut values = new_values(&backup);
        values.push(checked_claim(by.ttl)?.into());
        let batch =
            hold_parent(batch, backup.parent).must(Statement::new(sql, values), move || {
                Error::Conflict {
                    what: format!("backup plan `{}`", backup.plan),
                    holder: format!("a backup that is being made, or one named `{}`", backup.name),
                }
            });
        let rows = self.write(batch).await?.pop().unwrap_or_default().rows;
        self.decode_one(rows, number)
    }

    async fn renew_backup(&self, id: BackupId, ttl: Duration) -> Result<()> {
        let sql = "UPDATE backups SET claim_until = {now} + ?2 WHERE id = ?1 AND state = 'running'";
        let renew = Statement::new(sql, values![id.0, checked_claim(ttl)?]);
        let batch = Batch::new(Durability::Process).must(renew, move || not_running(id));
        self.write(batch).await.map(drop)
    }

    async fn end_backup(
        &self,
        id: BackupId,
        end: BackupEnd,
        manifest: Option<String>,
        copies: Vec<BackupCopy>,
    ) -> Result<()> {
        let sql = "UPDATE backups SET state = ?2, ended_at = ?3, why = ?4, plain_bytes = ?5, stored_bytes = ?6, hash = ?7,
            key_id = ?8, counts = ?9, rpo_us = ?10, manifest = ?11, claim_until = NULL
            WHERE id = ?1 AND state = 'running'";
        let mut values = values![id.0];
        values.extend(end_values(end));
        values.push(manifest.into());
        let mut batch = Batch::new(Durability::Power)
            .must(Statement::new(sql, values), move || not_running(id));
        for copy in copies {
            batch = batch.step(put_copy("id", id.0, copy));
        }
        self.write(batch).await.map(drop)
    }

    async fn end_lost_backups(&self, at: Timestamp, limit: u32) -> Result<Vec<BackupRecord>> {
        const LOST: &str = "state = 'running' AND claim_until <= {now}";
        let sql = format!(
            "WITH gone AS MATERIALIZED (
                SELECT id FROM backups WHERE {LOST} ORDER BY id LIMIT ?2 {{skip_locked}})
            UPDATE backups SET state = 'failed', claim_until = NULL, ended_at = ?1, why = 'whoever made it vanished'
            WHERE id IN (SELECT id FROM gone) AND {LOST} RETURNING id"
        );
        let answer = self.run(Durability::Power, Statement::new(sql, values![at, limit])).await?;
        let mut lost = Vec::new();
        for id in self.decode(answer.rows, number)? {
            lost.push(self.backup(id).await?);
        }
        lost.sort_by_key(|one| one.id);
        Ok(lost)
    }

    async fn import_backup(
        &self,
        backup: NewBackup,
        end: BackupEnd,
        manifest: Option<String>,
        copies: Vec<BackupCopy>,
    ) -> Result<BackupId> {
        let sql = "INSERT INTO backups (id, name, plan, kind, parent, host, program, started_at, state, ended_at, why,
            plain_bytes, stored_bytes, hash, key_id, counts, rpo_us, manifest)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
            ON CONFLICT (name) DO NOTHING RETURNING id";
        let mut values = new_values(&backup);
        values.extend(end_values(end));
        values.push(manifest.into());
        let name = backup.name.clone();
        let mut batch = hold_parent(Batch::new(Durability::Power), backup.parent);
        let step = batch.steps.len();
        batch = batch.must(Statement::new(sql, values), move || Error::Conflict {
            what: format!("backup `{name}`"),
            holder: "the one of that name in the catalog".into(),
        });
        for copy in copies {
            batch = batch.step(put_copy("name", backup.name.as_str(), copy));
        }
        let rows = self.write(batch).await?.into_iter().nth(step).unwrap_or_default().rows;
        self.decode_one(rows, number)
    }

    async fn backup(&self, id: BackupId) -> Result<BackupRecord> {
        let mut filter = Filter::default();
        filter.and("id =", id.0);
        read(self, filter, 1).await?.pop().ok_or_else(|| not_found(id))
    }

    async fn backup_named(&self, name: &ArchiveName) -> Result<Option<BackupRecord>> {
        let mut filter = Filter::default();
        filter.and("name =", name.as_str());
        Ok(read(self, filter, 1).await?.pop())
    }

    async fn backup_manifest(&self, id: BackupId) -> Result<Option<String>> {
        let select = Statement::new("SELECT manifest FROM backups WHERE id = ?1", values![id.0]);
        self.fetch(select, |row| row.get(0)).await?.pop().ok_or_else(|| not_found(id))
    }

    async fn backups(&self, query: BackupQuery) -> Result<Vec<BackupRecord>> {
        let mut filter = Filter::default();
        filter.maybe("plan =", query.plan.map(|name| name.0));
        filter.among("state", query.states.iter().map(|one| one.as_str()).collect());
        if let Some((started_at, id)) = query.before {
            filter.and_all("(started_at, id) <", values![started_at, id.0]);
        }
        read(self, filter, query.limit).await
    }

    async fn last_good_backup(&self, plan: &PlanName) -> Result<Option<BackupRecord>> {
        let mut filter = Filter::default();
        filter.and("plan =", plan.as_str());
        filter
            .among("state", vec![BackupStateName::Ok.as_str(), BackupStateName::Partial.as_str()]);
        Ok(read(self, filter, 1).await?.pop())
    }

    async fn backup_chain(&self, id: BackupId) -> Result<Vec<BackupId>> {
        // A parent is there before its children, so its number is smaller and there is no circle.
        let sql = "WITH RECURSIVE chain (id, parent) AS (
                SELECT id, parent FROM backups WHERE id = ?1
                UNION ALL SELECT b.id, b.parent FROM backups b JOIN chain ON b.id = chain.parent)
            SELECT id FROM chain ORDER BY id";
        let chain = self.fetch(Statement::new(sql, values![id.0]), number).await?;
        if chain.is_empty() { Err(not_found(id)) } else { Ok(chain) }
    }

    async fn backup_dependants(&self, id: BackupId) -> Result<Vec<BackupId>> {
        let sql = "WITH RECURSIVE tree (id) AS (
                SELECT id FROM backups WHERE parent = ?1
                UNION ALL SELECT b.id FROM backups b JOIN tree ON b.parent = tree.id)
            SELECT id FROM tree ORDER BY id";
        self.fetch(Statement::new(sql, values![id.0]), number).await
    }

    async fn put_backup_copy(&self, id: BackupId, copy: BackupCopy) -> Result<()> {
        let put = put_copy("id", id.0, copy);
        let batch = Batch::new(Durability::Power).must(put, move || not_found(id));
        self.write(batch).await.map(drop)
    }

    async fn backup_verified(&self, id: BackupId, at: Timestamp) -> Result<()> {
        let sql = "UPDATE backups SET verified_at = CASE WHEN verified_at > ?2 THEN verified_at ELSE ?2 END
            WHERE id = ?1 AND state IN ('ok', 'partial', 'suspect')";
        let verified = Statement::new(sql, values![id.0, at]);
        let batch = Batch::new(Durability::Power).must(verified, move || not_found(id));
        self.write(batch).await.map(drop)
    }

    async fn suspect_backup(&self, id: BackupId, why: &str) -> Result<()> {
        let sql = "UPDATE backups SET state = 'suspect', why = ?2
            WHERE id = ?1 AND state IN ('ok', 'partial', 'suspect')";
        let suspect = Statement::new(sql, values![id.0, why]);
        let batch = Batch::new(Durability::Power).must(suspect, move || not_found(id));
        self.write(batch).await.map(drop)
    }

    async fn remove_backup(&self, id: BackupId) -> Result<()> {
        let there = Statement::new("SELECT 1 FROM backups WHERE id = ?1 {update}", values![id.0]);
        let copies = Statement::new("DELETE FROM backup_copies WHERE backup = ?1", values![id.0]);
        let sql = "DELETE FROM backups WHERE id = ?1 AND state <> 'running'
            AND NOT EXISTS (SELECT 1 FROM backups child WHERE child.parent = ?1)";
        let batch = Batch::new(Durability::Power)
            .must(there, move || not_found(id))
            .step(copies)
            .must(Statement::new(sql, values![id.0]), move || Error::Conflict {
                what: format!("backup {id}"),
                holder: "a backup that is based on it, or by whoever is making it".into(),
            });
        self.write(batch).await.map(drop)
    }
}
