//! Statements of [`AuditStore`].

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, events::Filter, values,
};
use crate::{
    Error, Result, Timestamp,
    store::{
        Actor, AuditEnds, AuditHash, AuditLink, AuditOutcome, AuditQuery, AuditRecord, AuditSeq,
        AuditStore, NewAudit,
    },
};

const COLUMNS: &str = "seq, hash, at, actor_kind, actor, action, target, origin, outcome, reason";

fn record(row: &mut Row) -> Result<AuditRecord, Damage> {
    let actor = match &*row.get::<String>(3)? {
        "system" => Actor::System(row.get(4)?),
        "user" => Actor::User(row.get(4)?),
        "api_key" => Actor::ApiKey(row.get(4)?),
        "uid" => {
            let uid: String = row.get(4)?;
            let uid = uid.parse().map_err(|_| Damage::new(4, format!("`{uid}` is no user id")))?;
            Actor::Uid(uid)
        }
        "instance" => Actor::Instance(row.get(4)?),
        other => return Err(Damage::new(3, format!("`{other}` is no kind of actor"))),
    };
    let outcome = match &*row.get::<String>(8)? {
        "done" => AuditOutcome::Done,
        "refused" => AuditOutcome::Refused(row.get(9)?),
        "failed" => AuditOutcome::Failed(row.get(9)?),
        other => return Err(Damage::new(8, format!("`{other}` is no outcome"))),
    };
    Ok(AuditRecord {
        link: link(row, 0)?,
        entry: NewAudit {
            at: row.get(2)?,
            actor,
            action: row.get(5)?,
            target: row.get(6)?,
            origin: row.get(7)?,
            outcome,
        },
    })
}

/// Two columns from `at` on.
fn link(row: &mut Row, at: usize) -> Result<AuditLink, Damage> {
    Ok(AuditLink { seq: AuditSeq(row.get(at)?), hash: AuditHash(row.get(at + 1)?) })
}

/// Two steps: the head moves on under its lock, which puts concurrent entries in a row; then the entry takes the head's
/// place and hash.
fn appended(batch: Batch, entry: NewAudit) -> Batch {
    let step = "UPDATE audit_ends SET seq = seq + 1, hash = {sha256 hash || ?1} WHERE only_row = 1";
    let insert = "INSERT INTO audit (seq, hash, at, actor_kind, actor, action, target, origin, outcome, reason)
        SELECT seq, hash, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 FROM audit_ends WHERE only_row = 1 RETURNING seq";
    let digest = entry.digest();
    let (actor_kind, actor) = entry.actor.columns();
    let (outcome, reason) = entry.outcome.columns();
    let values = values![
        entry.at,
        actor_kind,
        actor,
        entry.action,
        entry.target,
        entry.origin,
        outcome,
        reason
    ];
    batch.step(Statement::new(step, values![digest])).step(Statement::new(insert, values))
}

#[async_trait]
impl<E: Engine> AuditStore for E {
    async fn append_audit(&self, entries: Vec<NewAudit>) -> Result<Vec<AuditSeq>> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let batch = entries.into_iter().fold(Batch::new(Durability::Power), appended);
        let answers = self.write(batch).await?;
        let rows = answers.into_iter().flat_map(|answer| answer.rows).collect();
        self.decode(rows, |row| row.get(0).map(AuditSeq))
    }

    async fn audit(&self, query: AuditQuery) -> Result<Vec<AuditRecord>> {
        let mut filter = Filter::new(&[], query.since);
        if let Some(until) = query.until {
            filter.and("at <", until);
        }
        if let Some(actor) = &query.actor {
            let (kind, name) = actor.columns();
            filter.and("actor_kind =", kind);
            filter.and("actor =", name);
        }
        if let Some(action) = query.action {
            filter.and("action =", action);
        }
        if let Some(target) = query.target {
            filter.and("target =", target);
        }
        if let Some(after) = query.after {
            filter.and("seq >", after.0);
        }
        let order = if query.after.is_some() { "ASC" } else { "DESC" };
        let Filter { sql, values } = filter.limit(query.limit, &format!("seq {order}"));
        let sql = format!(
            "SELECT {COLUMNS} FROM (SELECT {COLUMNS} FROM audit{sql}) AS found ORDER BY seq"
        );
        self.fetch(Statement::new(sql, values), record).await
    }

    async fn audit_ends(&self) -> Result<AuditEnds> {
        let sql = "SELECT seq, hash, pruned_seq, pruned_hash FROM audit_ends WHERE only_row = 1";
        let read = |row: &mut Row| Ok(AuditEnds { newest: link(row, 0)?, pruned: link(row, 2)? });
        let found = self.fetch(Statement::new(sql, vec![]), read).await?.pop();
        found.ok_or_else(|| Error::Corrupt {
            what: self.place(),
            detail: "the row of table audit_ends is gone: the audit has no ends".into(),
        })
    }

    async fn prune_audit(&self, before: Timestamp, limit: u32) -> Result<u64> {
        // Locked first, in a statement of its own: what the next one sees has no entry missing that is being appended.
        let lock = "SELECT seq FROM audit_ends {update}";
        let cut = "UPDATE audit_ends SET pruned_seq = coalesce(
                (SELECT min(audit.seq) - 1 FROM audit WHERE audit.seq > audit_ends.pruned_seq
                    AND audit.seq <= audit_ends.pruned_seq + ?2 AND audit.at >= ?1),
                CASE WHEN pruned_seq + ?2 < seq THEN pruned_seq + ?2 ELSE seq END)";
        let anchor = "UPDATE audit_ends SET pruned_hash = (SELECT audit.hash FROM audit WHERE audit.seq = audit_ends.pruned_seq)
            WHERE EXISTS (SELECT 1 FROM audit WHERE audit.seq = audit_ends.pruned_seq)";
        let remove = "DELETE FROM audit WHERE seq <= (SELECT pruned_seq FROM audit_ends)";
        let batch = Batch::new(Durability::Process)
            .step(Statement::new(lock, vec![]))
            .step(Statement::new(cut, values![before, limit]))
            .step(Statement::new(anchor, vec![]))
            .step(Statement::new(remove, vec![]));
        Ok(self.write(batch).await?.pop().unwrap_or_default().changed)
    }
}
