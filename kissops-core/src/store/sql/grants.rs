//! Statements of [`GrantStore`].

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement, Value,
    refuse::{changed, missing, taken},
    values,
};
use crate::{
    Error, Result, Timestamp,
    id::InstanceName,
    store::{
        AuthorizedGrant, DataKeyId, Due, DueQuery, Generation, GrantId, GrantKey, GrantQuery,
        GrantRecord, GrantStateName, GrantStatus, GrantStore, GrantVersion, NewGrant, Sealed,
        SealedBy, SealedToken, TokenId,
    },
};

mod rows;

pub(super) use rows::{kind_word, status_if, status_values, token_kind};

pub(super) fn named(id: GrantId) -> String {
    format!("grant {}", id.0)
}

/// Sets that are stored as documents.
pub(super) fn scopes_text(scopes: &BTreeSet<String>) -> String {
    // A list of texts always serializes.
    serde_json::to_string(scopes).unwrap_or_default()
}

/// Grants as `chosen` chooses them, each with its instances: one row for each of these, in a row. The last parameter is
/// the limit.
fn select(chosen: &str, order: &str) -> String {
    let columns = rows::COLUMNS;
    format!(
        "SELECT {columns}, instance FROM (SELECT {columns} FROM grants {chosen}) AS chosen
         LEFT JOIN grant_instances ON grant_id = id ORDER BY {order}, instance"
    )
}

/// Rows of one grant that follow each other become one record.
fn fold(rows: Vec<(GrantRecord, Option<InstanceName>)>) -> Vec<GrantRecord> {
    let mut records: Vec<GrantRecord> = Vec::with_capacity(rows.len());
    for (record, instance) in rows {
        if records.last().is_none_or(|last| last.grant.id != record.grant.id) {
            records.push(record);
        }
        if let (Some(last), Some(instance)) = (records.last_mut(), instance) {
            last.grant.instances.insert(instance);
        }
    }
    records
}

/// Reads one grant.
fn by_id(id: GrantId) -> Statement {
    Statement::new(select("WHERE id = ?1", "id"), values![id.0])
}

/// Runs a transaction that changes one grant, and gives what it is by then.
pub(super) async fn changing<E: Engine>(
    engine: &E,
    batch: Batch,
    id: GrantId,
) -> Result<GrantRecord> {
    let batch = batch.must(by_id(id), missing(named(id)));
    let last = engine.write(batch).await?.pop().unwrap_or_default();
    let found = fold(engine.decode(last.rows, rows::grant)?).pop();
    found.ok_or_else(missing(named(id)))
}

fn bind(batch: Batch, id: GrantId, instances: BTreeSet<InstanceName>) -> Batch {
    let sql = "INSERT INTO grant_instances (grant_id, instance) VALUES (?1, ?2)";
    instances
        .into_iter()
        .fold(batch, |batch, instance| batch.step(Statement::new(sql, values![id.0, instance])))
}

/// So many rows go by one statement: a database that is asked over a socket is asked less often.
const BLOCK: usize = 50;

/// Runs `before`, rows between commas and `after` for each block of rows, all of one width, and for each of those left
/// over. So there are two texts of it, whatever the number.
fn by_blocks(batch: Batch, before: &str, rows: Vec<Vec<Value>>, after: &str) -> Batch {
    let width = rows.first().map_or(0, Vec::len);
    let text = |count: usize| {
        let row = |at: usize| {
            let numbers = (1..=width).map(|column| format!("?{}", at * width + column));
            format!("({})", numbers.collect::<Vec<_>>().join(", "))
        };
        format!("{before} {} {after}", (0..count).map(row).collect::<Vec<_>>().join(", "))
    };
    let (block, one) = (text(BLOCK), text(1));
    let (mut batch, mut rows) = (batch, rows.into_iter());
    while rows.len() >= BLOCK {
        let values = rows.by_ref().take(BLOCK).flatten().collect();
        batch = batch.step(Statement::new(block.clone(), values));
    }
    rows.fold(batch, |batch, values| batch.step(Statement::new(one.clone(), values)))
}

/// Adds grants and, of those that were added, what belongs to them. The steps of the grants themselves are those that
/// return rows.
fn authorized(batch: Batch, grants: Vec<AuthorizedGrant>) -> Result<Batch> {
    // The rows first: in the other order, all grants would be read.
    const ADDED: &str = ") AS new CROSS JOIN grants WHERE id = column1 AND provider = column2 AND account = column3 AND generation = 1 ON CONFLICT DO NOTHING";
    let (mut rows, mut tokens, mut instances) = (Vec::with_capacity(grants.len()), vec![], vec![]);
    for AuthorizedGrant { grant, tokens: pair, expiry, status } in grants {
        let kinds: BTreeSet<_> = pair.iter().map(|(kind, _)| *kind).collect();
        if kinds.len() != pair.len() {
            return Err(Error::invalid("tokens", "must hold at most one token of each kind"));
        }
        let GrantKey { provider, account } = grant.key;
        let of_grant = || values![grant.id.0, provider.as_str(), account.as_str()];
        tokens.extend(pair.into_iter().map(|(kind, token)| {
            [of_grant(), values![kind_word(kind), token.key.0, token.sealed.0]].concat()
        }));
        let names = grant.instances.into_iter();
        instances.extend(names.map(|name| [of_grant(), values![name]].concat()));
        let mut row = status_values(grant.id, grant.created_at, &status);
        row.extend(values![
            grant.created_at,
            grant.created_at,
            provider,
            account,
            grant.client,
            rows::flow_word(grant.flow),
            scopes_text(&grant.scopes),
            expiry.access,
            expiry.refresh,
            expiry.idle,
            0_i64,
            1_i64
        ]);
        rows.push(row);
    }
    let batch =
        by_blocks(batch, &rows::insert_authorized(), rows, "ON CONFLICT DO NOTHING RETURNING id");
    let before = "INSERT INTO sealed_tokens (grant_id, kind, generation, data_key, sealed)
        SELECT column1, column4, 1, column5, column6 FROM (VALUES";
    let batch = by_blocks(batch, before, tokens, ADDED);
    let before =
        "INSERT INTO grant_instances (grant_id, instance) SELECT column1, column4 FROM (VALUES";
    Ok(by_blocks(batch, before, instances, ADDED))
}

fn token(row: &mut Row) -> Result<SealedToken, Damage> {
    let id = TokenId {
        grant: GrantId(row.get(0)?),
        kind: token_kind(row, 1)?,
        generation: Generation(row.get(2)?),
    };
    let key = DataKeyId(row.get(3)?);
    Ok(SealedToken { id, sealed: SealedBy { key, sealed: Sealed(row.get(4)?) } })
}

/// What is to be gone of a grant that nobody may use any more. The intents first: an answer that comes in has changed
/// its intent, so it is there to be removed, or is refused.
const SHREDDED: [&str; 3] = ["refresh_intents", "refresh_landings", "sealed_tokens"];

const TOKEN: &str = "grant_id, kind, generation, data_key, sealed";

#[async_trait]
impl<E: Engine> GrantStore for E {
    async fn add_grant(&self, grant: NewGrant) -> Result<()> {
        let sql = "INSERT INTO grants (id, provider, account, client, flow, scopes, version, generation, state, state_since, created_at, updated_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, 'pending', ?7, ?7, ?7) ON CONFLICT DO NOTHING";
        let what = format!("grant `{}`", grant.key);
        let values = values![
            grant.id.0,
            grant.key.provider,
            grant.key.account,
            grant.client,
            rows::flow_word(grant.flow),
            scopes_text(&grant.scopes),
            grant.created_at
        ];
        let batch = Batch::new(Durability::Power).must(Statement::new(sql, values), taken(what));
        self.write(bind(batch, grant.id, grant.instances)).await.map(drop)
    }

    async fn add_authorized_grants(
        &self,
        grants: Vec<AuthorizedGrant>,
    ) -> Result<BTreeSet<GrantId>> {
        let tokens = || grants.iter().flat_map(|one| &one.tokens);
        let keys: BTreeSet<DataKeyId> = tokens().map(|(_, token)| token.key).collect();
        let guards = keys.len();
        let batch = keys.into_iter().fold(Batch::new(Durability::Power), Batch::with_key);
        let batch = authorized(batch, grants)?;
        let answers = self.write(batch).await?.into_iter().skip(guards);
        let added = answers.flat_map(|answer| answer.rows).collect();
        Ok(self.decode(added, |row| row.get(0).map(GrantId))?.into_iter().collect())
    }

    async fn grant(&self, key: &GrantKey) -> Result<Option<GrantRecord>> {
        let sql = select("WHERE provider = ?1 AND account = ?2", "id");
        let values = values![key.provider.as_str(), key.account.as_str()];
        Ok(fold(self.fetch(Statement::new(sql, values), rows::grant).await?).pop())
    }

    async fn grants_of(&self, provider: &str, accounts: Vec<String>) -> Result<Vec<GrantRecord>> {
        let sql = select("WHERE provider = ?1 AND account IN {list ?2}", "id");
        let read = Statement::new(sql, values![provider, accounts]);
        Ok(fold(self.fetch(read, rows::grant).await?))
    }

    async fn grant_by_id(&self, id: GrantId) -> Result<Option<GrantRecord>> {
        Ok(fold(self.fetch(by_id(id), rows::grant).await?).pop())
    }

    async fn grants(&self, query: GrantQuery) -> Result<Vec<GrantRecord>> {
        let mut chosen = String::from("WHERE id > ?1");
        let mut values = values![query.after.map_or(i64::MIN, |id| id.0)];
        let mut and = |condition: &str, value: Value| {
            values.push(value);
            let condition = condition.replace('#', &values.len().to_string());
            chosen.push_str(&condition);
        };
        if let Some(provider) = query.provider {
            and(" AND provider = ?#", provider.into());
        }
        if let Some(state) = query.state {
            and(" AND state = ?#", state.as_str().into());
        }
        if let Some(name) = query.instance {
            let bound = " AND id IN (SELECT grant_id FROM grant_instances WHERE instance = ?#)";
            and(bound, name.into());
        }
        and(" ORDER BY id LIMIT ?#", query.limit.into());
        let read = Statement::new(select(&chosen, "id"), values);
        Ok(fold(self.fetch(read, rows::grant).await?))
    }

    async fn due_grants(&self, query: DueQuery) -> Result<Vec<GrantRecord>> {
        let due = match query.what {
            Due::Refresh => "next_refresh_at",
            Due::Validate => "next_validate_at",
        };
        let (at, id) = query.after.map_or((i64::MIN, i64::MIN), |(at, id)| (at.0, id.0));
        let chosen =
            format!("WHERE {due} <= ?1 AND ({due}, id) > (?2, ?3) ORDER BY {due}, id LIMIT ?4");
        let sql = select(&chosen, &format!("{due}, id"));
        let values = values![query.by, at, id, query.limit];
        Ok(fold(self.fetch(Statement::new(sql, values), rows::grant).await?))
    }

    async fn count_grants(&self) -> Result<Vec<(String, GrantStateName, u64)>> {
        let sql =
            "SELECT provider, state, CAST(count(*) AS BIGINT) FROM grants GROUP BY provider, state";
        let read = |row: &mut Row| Ok((row.get(0)?, rows::state_name(row, 1)?, row.get(2)?));
        let mut counts = self.fetch(Statement::new(sql, vec![]), read).await?;
        counts.sort();
        Ok(counts)
    }

    async fn set_grant_status(
        &self,
        id: GrantId,
        version: GrantVersion,
        status: GrantStatus,
        at: Timestamp,
    ) -> Result<GrantVersion> {
        let sql = format!(
            "UPDATE grants SET {} WHERE id = ?1 AND version = ?13 RETURNING version",
            rows::status()
        );
        let mut values = status_values(id, at, &status);
        values.push(version.0.into());
        let batch =
            Batch::new(Durability::Power).must(Statement::new(sql, values), changed(named(id)));
        self.one(batch, |row| row.get(0).map(GrantVersion)).await
    }

    async fn bind_grant(
        &self,
        id: GrantId,
        instances: BTreeSet<InstanceName>,
        at: Timestamp,
    ) -> Result<()> {
        // The grant's row first: two callers come one after the other, so the sets do not mix.
        let touch = "UPDATE grants SET version = version + 1, updated_at = ?2 WHERE id = ?1";
        let clear = "DELETE FROM grant_instances WHERE grant_id = ?1";
        let batch = Batch::new(Durability::Power)
            .must(Statement::new(touch, values![id.0, at]), missing(named(id)))
            .step(Statement::new(clear, values![id.0]));
        self.write(bind(batch, id, instances)).await.map(drop)
    }

    async fn sealed_tokens(&self, id: GrantId) -> Result<Vec<SealedToken>> {
        let sql = format!(
            "SELECT {TOKEN} FROM sealed_tokens WHERE grant_id = ?1 ORDER BY generation DESC, kind"
        );
        self.fetch(Statement::new(sql, values![id.0]), token).await
    }

    async fn sealed_tokens_of(&self, ids: Vec<GrantId>) -> Result<Vec<SealedToken>> {
        let sql = format!(
            "SELECT {TOKEN} FROM sealed_tokens WHERE grant_id IN {{list ?1}} ORDER BY grant_id, generation DESC, kind"
        );
        let ids: Vec<i64> = ids.into_iter().map(|id| id.0).collect();
        self.fetch(Statement::new(sql, values![ids]), token).await
    }

    async fn tokens_sealed_by(
        &self,
        key: DataKeyId,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<Vec<SealedToken>> {
        let order = "ORDER BY grant_id, kind, generation LIMIT";
        let statement = match after {
            Some(id) => Statement::new(
                format!(
                    "SELECT {TOKEN} FROM sealed_tokens WHERE data_key = ?1 AND (grant_id, kind, generation) > (?2, ?3, ?4) {order} ?5"
                ),
                values![key.0, id.grant.0, kind_word(id.kind), id.generation.0, limit],
            ),
            None => Statement::new(
                format!("SELECT {TOKEN} FROM sealed_tokens WHERE data_key = ?1 {order} ?2"),
                values![key.0, limit],
            ),
        };
        self.fetch(statement, token).await
    }

    async fn reseal_token(&self, id: TokenId, from: DataKeyId, to: SealedBy) -> Result<()> {
        let sql = "UPDATE sealed_tokens SET data_key = ?5, sealed = ?6
            WHERE grant_id = ?1 AND kind = ?2 AND generation = ?3 AND data_key = ?4";
        let kind = kind_word(id.kind);
        let what =
            format!("the {kind} token of generation {} of {}", id.generation.0, named(id.grant));
        let values = values![id.grant.0, kind, id.generation.0, from.0, to.key.0, to.sealed.0];
        let batch = Batch::new(Durability::Power)
            .with_key(to.key)
            .must(Statement::new(sql, values), changed(what));
        self.write(batch).await.map(drop)
    }

    async fn newest_commit(&self) -> Result<Option<Timestamp>> {
        let sql = "SELECT max(refreshed_at) FROM grants";
        let found = self.fetch(Statement::new(sql, vec![]), |row| row.get(0)).await?;
        Ok(found.into_iter().next().flatten())
    }

    async fn fence_grants(&self, reason: &str, at: Timestamp) -> Result<u64> {
        let sql = "UPDATE grants SET state = 'fenced', state_since = ?2, state_until = NULL, state_reason = ?1,
                next_refresh_at = NULL, next_validate_at = NULL, version = version + 1, updated_at = ?2
            WHERE state IN ('active', 'degraded', 'ambiguous', 'suspect') RETURNING id";
        let batch = Batch::new(Durability::Power).step(Statement::new(sql, values![reason, at]));
        let fenced = self.write(batch).await?.pop().unwrap_or_default();
        Ok(u64::try_from(fenced.rows.len()).unwrap_or(u64::MAX))
    }

    async fn shred_grant(&self, id: GrantId, status: GrantStatus, at: Timestamp) -> Result<()> {
        // A new generation without tokens: one that is just being fetched finds itself too late.
        let sql = format!(
            "UPDATE grants SET {}, generation = generation + 1 WHERE id = ?1",
            rows::status()
        );
        let mut batch = Batch::new(Durability::Power)
            .must(Statement::new(sql, status_values(id, at, &status)), missing(named(id)));
        for table in SHREDDED {
            let sql = format!("DELETE FROM {table} WHERE grant_id = ?1");
            batch = batch.step(Statement::new(sql, values![id.0]));
        }
        self.write(batch).await.map(drop)
    }

    async fn shred_expired(&self, now: Timestamp, limit: u32) -> Result<u64> {
        const EXPIRED: &str = "state = 'needs_reauth' AND state_until <= ?1";
        let any = SHREDDED
            .map(|table| format!("EXISTS (SELECT 1 FROM {table} WHERE grant_id = grants.id)"));
        let sql = format!(
            "SELECT id FROM grants WHERE {EXPIRED} AND ({}) ORDER BY state_until, id LIMIT ?2",
            any.join(" OR ")
        );
        let chosen = self.fetch(Statement::new(sql, values![now, limit]), |row| row.get(0)).await?;
        let chosen: Vec<i64> = chosen;
        if chosen.is_empty() {
            return Ok(0);
        }
        // The lock makes an authorization that comes at the same time either first, and then the grant is spared, or wait.
        let expired = format!("SELECT id FROM grants WHERE {EXPIRED} AND id IN {{list ?2}}");
        let lock = format!("{expired} ORDER BY id {{update}}");
        let mut batch =
            Batch::new(Durability::Power).step(Statement::new(lock, values![now, chosen.clone()]));
        for table in SHREDDED {
            let sql =
                format!("DELETE FROM {table} WHERE grant_id IN ({expired}) RETURNING grant_id");
            batch = batch.step(Statement::new(sql, values![now, chosen.clone()]));
        }
        let rows = self.write(batch).await?.into_iter().skip(1).flat_map(|answer| answer.rows);
        let grants: BTreeSet<i64> =
            self.decode(rows.collect(), |row| row.get(0))?.into_iter().collect();
        Ok(u64::try_from(grants.len()).unwrap_or(u64::MAX))
    }

    async fn remove_grant(&self, id: GrantId) -> Result<()> {
        let remove = Statement::new("DELETE FROM grants WHERE id = ?1", values![id.0]);
        let batch = Batch::new(Durability::Power).must(remove, missing(named(id)));
        self.write(batch).await.map(drop)
    }
}
