//! Statements of [`RefreshStore`].
//!
//! An answer that comes in changes the intent's own row. So on Postgres, where transactions run side by side, whatever
//! else is about to change that row sees it, and has its condition looked at again.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{
    Batch, Damage, Durability, Engine, EngineExt as _, Row, Statement,
    grants::{changing, kind_word, named, scopes_text, status_if, status_values},
    refuse::{changed, taken},
    values,
};
use crate::{
    Error, Result, Timestamp,
    store::{
        DataKeyId, Fence, FencingToken, Generation, GrantId, GrantRecord, GrantState, GrantStatus,
        Landing, LandingId, LeaseName, NewGeneration, NewRefresh, PreviousPair, RefreshPhase,
        RefreshRecord, RefreshStore, Sealed, SealedBy,
    },
};

const COLUMNS: &str = "grant_id, generation, attempt, phase, lease, token, began_at, updated_at";

fn phase_word(phase: RefreshPhase) -> &'static str {
    match phase {
        RefreshPhase::Intended => "intended",
        RefreshPhase::Sent => "sent",
        RefreshPhase::Unanswered => "unanswered",
        RefreshPhase::Landed => "landed",
    }
}

fn refresh(row: &mut Row) -> Result<RefreshRecord, Damage> {
    let phase = match &*row.get::<String>(3)? {
        "intended" => RefreshPhase::Intended,
        "sent" => RefreshPhase::Sent,
        "unanswered" => RefreshPhase::Unanswered,
        "landed" => RefreshPhase::Landed,
        other => return Err(Damage::new(3, format!("`{other}` is no phase of a refresh"))),
    };
    let fence =
        Fence { name: LeaseName::new(row.get::<String>(4)?), token: FencingToken(row.get(5)?) };
    Ok(RefreshRecord {
        refresh: NewRefresh {
            grant: GrantId(row.get(0)?),
            generation: Generation(row.get(1)?),
            fence,
            at: row.get(6)?,
        },
        attempt: row.get(2)?,
        phase,
        updated_at: row.get(7)?,
    })
}

fn landing(row: &mut Row) -> Result<Landing, Damage> {
    let status: u32 = row.get(3)?;
    let key = DataKeyId(row.get(4)?);
    Ok(Landing {
        grant: GrantId(row.get(0)?),
        generation: Generation(row.get(1)?),
        attempt: row.get(2)?,
        status: u16::try_from(status)
            .map_err(|_| Damage::new(3, format!("{status} is no HTTP status")))?,
        body: SealedBy { key, sealed: Sealed(row.get(5)?) },
        at: row.get(6)?,
    })
}

const LANDING: &str = "grant_id, generation, attempt, status, data_key, sealed, landed_at";

fn under_way(grant: GrantId, generation: Generation) -> String {
    format!("the refresh of generation {} of {}", generation.0, named(grant))
}

/// Moves a refresh from the phase that the caller knows to `to`.
fn mark(refresh: &RefreshRecord, to: RefreshPhase, at: Timestamp) -> Statement {
    let sql = format!(
        "UPDATE refresh_intents SET phase = ?1, updated_at = ?2
         WHERE grant_id = ?3 AND generation = ?4 AND attempt = ?5 AND phase = ?6 AND token = ?7 RETURNING {COLUMNS}"
    );
    let known = &refresh.refresh;
    let values = values![
        phase_word(to),
        at,
        known.grant.0,
        known.generation.0,
        refresh.attempt,
        phase_word(refresh.phase),
        known.fence.token.0
    ];
    Statement::new(sql, values)
}

/// The first attempt, which has come as far as `phase`.
fn beginning(new: &NewRefresh, phase: RefreshPhase) -> Batch {
    let current = "SELECT 1 FROM grants WHERE id = ?1 AND generation = ?2 {share}";
    let insert = format!(
        "INSERT INTO refresh_intents ({COLUMNS}) VALUES (?1, ?2, 1, ?6, ?3, ?4, ?5, ?5) ON CONFLICT DO NOTHING RETURNING {COLUMNS}"
    );
    let (grant, generation) = (new.grant, new.generation);
    let values = values![
        grant.0,
        generation.0,
        new.fence.name.as_str(),
        new.fence.token.0,
        new.at,
        phase_word(phase)
    ];
    Batch::new(Durability::Power)
        .guarded(&new.fence)
        .must(Statement::new(current, values![grant.0, generation.0]), changed(named(grant)))
        .must(Statement::new(insert, values), taken(under_way(grant, generation)))
}

/// The new tokens of a generation, each an insertion; then what is over by that.
fn exchanged(mut batch: Batch, new: &NewGeneration) -> Batch {
    let insert = "INSERT INTO sealed_tokens (grant_id, kind, generation, data_key, sealed) VALUES (?1, ?2, ?3, ?4, ?5)";
    let (grant, next) = (new.grant.0, new.from.next());
    for (kind, token) in &new.tokens {
        let values =
            values![grant, kind_word(*kind), next.0, token.key.0, token.sealed.0.as_slice()];
        batch = batch.step(Statement::new(insert, values));
    }
    let oldest = match new.previous {
        PreviousPair::Keep => new.from,
        PreviousPair::Remove => next,
    };
    let drop_tokens = "DELETE FROM sealed_tokens WHERE grant_id = ?1 AND generation < ?2";
    let drop_landings = "DELETE FROM refresh_landings WHERE grant_id = ?1 AND generation < ?2";
    let drop_intents = "DELETE FROM refresh_intents WHERE grant_id = ?1 AND generation < ?2";
    batch
        .step(Statement::new(drop_tokens, values![grant, oldest.0]))
        // In this order: an answer that comes in has changed its intent, so it is there to be removed, or is refused.
        .step(Statement::new(drop_intents, values![grant, next.0]))
        .step(Statement::new(drop_landings, values![grant, next.0]))
}

#[async_trait]
impl<E: Engine> RefreshStore for E {
    async fn begin_refresh(&self, new: NewRefresh) -> Result<RefreshRecord> {
        self.one(beginning(&new, RefreshPhase::Intended), refresh).await
    }

    async fn retry_refresh(
        &self,
        known: &RefreshRecord,
        fence: &Fence,
        at: Timestamp,
    ) -> Result<RefreshRecord> {
        let sql = format!(
            "UPDATE refresh_intents SET attempt = attempt + 1, phase = 'intended', lease = ?4, token = ?5, updated_at = ?6
             WHERE grant_id = ?1 AND generation = ?2 AND attempt = ?3 AND phase <> 'landed' RETURNING {COLUMNS}"
        );
        let NewRefresh { grant, generation, .. } = known.refresh;
        let values =
            values![grant.0, generation.0, known.attempt, fence.name.as_str(), fence.token.0, at];
        let batch = Batch::new(Durability::Power)
            .guarded(fence)
            .must(Statement::new(sql, values), changed(under_way(grant, generation)));
        self.one(batch, refresh).await
    }

    async fn send_refresh(&self, new: NewRefresh) -> Result<RefreshRecord> {
        self.one(beginning(&new, RefreshPhase::Sent), refresh).await
    }

    async fn mark_sent(&self, known: &RefreshRecord, at: Timestamp) -> Result<RefreshRecord> {
        let intended = RefreshRecord { phase: RefreshPhase::Intended, ..known.clone() };
        let NewRefresh { grant, generation, .. } = known.refresh;
        let batch = Batch::new(Durability::Power)
            .guarded(&known.refresh.fence)
            .must(mark(&intended, RefreshPhase::Sent, at), changed(under_way(grant, generation)));
        self.one(batch, refresh).await
    }

    async fn mark_unanswered(&self, known: &RefreshRecord, at: Timestamp) -> Result<RefreshRecord> {
        let sent = RefreshRecord { phase: RefreshPhase::Sent, ..known.clone() };
        let NewRefresh { grant, generation, .. } = known.refresh;
        let batch = Batch::new(Durability::Power)
            .must(mark(&sent, RefreshPhase::Unanswered, at), changed(under_way(grant, generation)));
        self.one(batch, refresh).await
    }

    async fn land(&self, landing: Landing) -> Result<()> {
        let mark = "UPDATE refresh_intents SET phase = 'landed', updated_at = ?4 WHERE grant_id = ?1 AND generation = ?2 AND attempt >= ?3";
        let insert = "INSERT INTO refresh_landings (grant_id, generation, attempt, status, data_key, sealed, landed_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
        let (grant, generation) = (landing.grant, landing.generation);
        let marked = values![grant.0, generation.0, landing.attempt, landing.at];
        let values = values![
            grant.0,
            generation.0,
            landing.attempt,
            i32::from(landing.status),
            landing.body.key.0,
            landing.body.sealed.0,
            landing.at
        ];
        let batch = Batch::new(Durability::Power)
            .with_key(landing.body.key)
            .must(Statement::new(mark, marked), changed(under_way(grant, generation)))
            .step(Statement::new(insert, values));
        self.write(batch).await.map(drop)
    }

    async fn refresh(&self, grant: GrantId) -> Result<Option<RefreshRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM refresh_intents WHERE grant_id = ?1 ORDER BY generation"
        );
        Ok(self.fetch(Statement::new(sql, values![grant.0]), refresh).await?.pop())
    }

    async fn open_refreshes(
        &self,
        after: Option<GrantId>,
        limit: u32,
    ) -> Result<Vec<RefreshRecord>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM refresh_intents WHERE grant_id > ?1 ORDER BY grant_id, generation LIMIT ?2"
        );
        let after = after.map_or(i64::MIN, |id| id.0);
        self.fetch(Statement::new(sql, values![after, limit]), refresh).await
    }

    async fn landings(&self, grant: GrantId) -> Result<Vec<Landing>> {
        let sql = format!(
            "SELECT {LANDING} FROM refresh_landings WHERE grant_id = ?1 ORDER BY generation, attempt"
        );
        self.fetch(Statement::new(sql, values![grant.0]), landing).await
    }

    async fn landings_sealed_by(
        &self,
        key: DataKeyId,
        after: Option<LandingId>,
        limit: u32,
    ) -> Result<Vec<Landing>> {
        let sql = format!(
            "SELECT {LANDING} FROM refresh_landings WHERE data_key = ?1 AND (grant_id, generation, attempt) > (?2, ?3, ?4)
             ORDER BY grant_id, generation, attempt LIMIT ?5"
        );
        // No attempt is the zeroth.
        let (grant, generation, attempt) =
            after.map_or((i64::MIN, 0, 0), |id| (id.grant.0, id.generation.0, id.attempt));
        let values = values![key.0, grant, generation, attempt, limit];
        self.fetch(Statement::new(sql, values), landing).await
    }

    async fn reseal_landing(&self, id: LandingId, from: DataKeyId, to: SealedBy) -> Result<()> {
        let sql = "UPDATE refresh_landings SET data_key = ?5, sealed = ?6
            WHERE grant_id = ?1 AND generation = ?2 AND attempt = ?3 AND data_key = ?4";
        let what = format!(
            "answer {} to generation {} of {}",
            id.attempt,
            id.generation.0,
            named(id.grant)
        );
        let values =
            values![id.grant.0, id.generation.0, id.attempt, from.0, to.key.0, to.sealed.0];
        let batch = Batch::new(Durability::Power)
            .with_key(to.key)
            .must(Statement::new(sql, values), changed(what));
        self.write(batch).await.map(drop)
    }

    async fn end_refresh(
        &self,
        known: &RefreshRecord,
        fence: &Fence,
        seen: &GrantState,
        status: GrantStatus,
        at: Timestamp,
    ) -> Result<GrantRecord> {
        let end = "DELETE FROM refresh_intents WHERE grant_id = ?1 AND generation = ?2 AND attempt = ?3 AND phase = ?4";
        let clear = "DELETE FROM refresh_landings WHERE grant_id = ?1 AND generation = ?2";
        let set = format!(
            "UPDATE grants SET {} WHERE id = ?1 AND generation = ?13",
            status_if("state = ?14 AND state_since = ?15")
        );
        let NewRefresh { grant, generation, .. } = known.refresh;
        let ended = values![grant.0, generation.0, known.attempt, phase_word(known.phase)];
        let mut values = status_values(grant, at, &status);
        values.extend(values![generation.0, seen.name().as_str(), seen.since()]);
        let batch = Batch::new(Durability::Power)
            .guarded(fence)
            .must(Statement::new(set, values), changed(named(grant)))
            .must(Statement::new(end, ended), changed(under_way(grant, generation)))
            .step(Statement::new(clear, values![grant.0, generation.0]));
        changing(self, batch, grant).await
    }

    async fn commit_generation(&self, new: NewGeneration) -> Result<GrantRecord> {
        let kinds: BTreeSet<_> = new.tokens.iter().map(|(kind, _)| *kind).collect();
        if kinds.len() != new.tokens.len() {
            return Err(Error::invalid("tokens", "must hold at most one token of each kind"));
        }
        let set = format!(
            "UPDATE grants SET {}, generation = generation + 1, access_expires_at = ?13, refresh_expires_at = ?14,
                idle_expires_at = ?15, scopes = coalesce(?16, scopes), refreshed_at = ?2
             WHERE id = ?1 AND generation = ?17",
            status_if("state = ?18 AND state_since = ?19")
        );
        let mut values = status_values(new.grant, new.at, &new.status);
        values.extend(values![
            new.expiry.access,
            new.expiry.refresh,
            new.expiry.idle,
            new.scopes.as_ref().map(scopes_text),
            new.from.0,
            new.seen.name().as_str(),
            new.seen.since()
        ]);
        let keys: BTreeSet<DataKeyId> = new.tokens.iter().map(|(_, token)| token.key).collect();
        let guarded = Batch::new(Durability::Power).guarded(&new.fence);
        let batch = keys.into_iter().fold(guarded, Batch::with_key);
        let batch = batch.must(Statement::new(set, values), changed(named(new.grant)));
        changing(self, exchanged(batch, &new), new.grant).await
    }
}
