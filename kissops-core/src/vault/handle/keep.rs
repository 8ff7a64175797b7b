//! Keeping tokens that come from outside, and giving grants up.

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;

use super::{
    super::{
        GrantIdentity, NewTokens, Place, TokenSet, VaultEventKind,
        refresh::{
            engine::Engine,
            schedule::{refresh_point, validate_point},
            upstream::Upstream,
            visit::find_token,
        },
    },
    TRIES,
};
use crate::{
    Error, Result,
    store::{
        GrantExpiry, GrantId, GrantRecord, GrantState, GrantStatus, NewGeneration, NewGrant,
        PreviousPair, TokenId, TokenKind,
    },
};

/// Keeps tokens, in the place of those that the grant had. What was under way for these is over by that.
pub(super) async fn put(engine: &Engine, new: NewTokens) -> Result<GrantId> {
    engine.learn(&new.tokens)?;
    for _ in 0..TRIES {
        let record = found_or_added(engine, &new).await?;
        let commit = || commit(engine, &record, &new);
        match engine.keyring.sealing(commit).await {
            Ok(committed) if matches!(committed.status.state, GrantState::Active { .. }) => {
                let id = committed.grant.id;
                if let Some(instances) = new.instances {
                    engine.store.bind_grant(id, instances, engine.now()).await?;
                }
                engine.made_public(&committed, new.tokens.access.clone());
                engine.tell(&new.key, VaultEventKind::Authorized, "it has tokens".into());
                if let Some(due) = committed.status.next_refresh_at {
                    engine.plan(&committed, due.since(engine.now()));
                }
                return Ok(id);
            }
            // Somebody has decided something about it meanwhile, or committed another pair: once more on top of that.
            Ok(_) => {}
            Err(Error::Conflict { .. }) => engine.session.verify().await,
            Err(err) => return Err(err),
        }
    }
    Err(Error::Conflict {
        what: format!("grant `{}`", new.key),
        holder: "others, who change it again and again".into(),
    })
}

async fn found_or_added(engine: &Engine, new: &NewTokens) -> Result<GrantRecord> {
    let missing = || Error::NotFound { what: format!("grant `{}`", new.key) };
    let upstream = upstream_of(engine, new)?;
    let client = upstream.client_id();
    let mut instances = new.instances.clone().unwrap_or_default();
    if let Some(record) = engine.store.grant(&new.key).await? {
        if record.grant.client == client {
            return Ok(record);
        }
        // What is sealed is bound to the client: a grant of another one is another grant.
        if new.instances.is_none() {
            instances.clone_from(&record.grant.instances);
        }
        engine.store.remove_grant(record.grant.id).await?;
        if let Some(witness) = &engine.witness_file {
            witness.forget(&*engine.store).await?;
        }
    }
    let id = engine.next_grant_id();
    let grant = NewGrant {
        id,
        key: new.key.clone(),
        client: client.to_owned(),
        flow: new.flow,
        scopes: new.tokens.scopes.clone().unwrap_or_default(),
        instances,
        created_at: engine.now(),
    };
    match engine.store.add_grant(grant).await {
        // Somebody else has just added it: on top of that.
        Ok(()) | Err(Error::Conflict { .. }) => {}
        Err(err) => return Err(err),
    }
    engine.store.grant(&new.key).await?.ok_or_else(missing)
}

fn upstream_of(engine: &Engine, new: &NewTokens) -> Result<Arc<dyn Upstream>> {
    engine.upstreams.get(&new.key.provider).ok_or_else(|| Error::NotFound {
        what: format!("provider `{}` in the configuration", new.key.provider),
    })
}

async fn commit(engine: &Engine, record: &GrantRecord, new: &NewTokens) -> Result<GrantRecord> {
    let TokenSet { access, refresh, .. } = &new.tokens;
    let identity = GrantIdentity::from(record);
    let (id, generation, now) = (record.grant.id, record.generation.next(), engine.now());
    let mut tokens = Vec::with_capacity(2);
    for (kind, token) in [(TokenKind::Access, Some(access)), (TokenKind::Refresh, refresh.as_ref())]
    {
        if let Some(token) = token {
            let place =
                Place::Token { grant: &identity, id: TokenId { grant: id, kind, generation } };
            let text = secrecy::ExposeSecret::expose_secret(token).as_bytes();
            tokens.push((kind, engine.keyring.seal(&place, text).await?));
        }
    }
    let expiry = GrantExpiry {
        access: new.tokens.access_expires_at,
        refresh: new.tokens.refresh_expires_at,
        idle: new.tokens.idle_expires_at,
    };
    let upstream = upstream_of(engine, new)?;
    let every = upstream.validate_every();
    let can_refresh = refresh.is_some() || new.flow == crate::store::GrantFlow::ClientCredentials;
    let status = GrantStatus {
        state: GrantState::Active { since: now },
        failure: None,
        // Without a refresh token its end is what comes due.
        next_refresh_at: if can_refresh {
            refresh_point(id, now, &expiry, upstream.window())
        } else {
            expiry.access
        },
        next_validate_at: every.map(|every| validate_point(id, now, every)),
    };
    let right = engine.session.lasting(Duration::ZERO).await?;
    let generation = NewGeneration {
        grant: id,
        from: record.generation,
        fence: right.fence,
        tokens,
        previous: PreviousPair::Remove,
        scopes: new.tokens.scopes.clone(),
        expiry,
        seen: record.status.state.clone(),
        status,
        at: now,
    };
    engine.store.commit_generation(generation).await
}

/// Revokes what there is of a grant at its provider; says why not.
pub(super) async fn revoke_at_provider(
    engine: &Engine,
    record: &GrantRecord,
) -> Result<(), String> {
    let key = &record.grant.key;
    let Some(upstream) = engine.upstreams.get(&key.provider) else {
        return Err(format!("provider `{}` is not configured", key.provider));
    };
    let identity = GrantIdentity::from(record);
    let mut tokens: [Option<SecretString>; 2] = [None, None];
    for (token, kind) in tokens.iter_mut().zip([TokenKind::Access, TokenKind::Refresh]) {
        *token = find_token(engine, &identity, record, kind).await.map_err(|err| err.chain())?;
    }
    match &tokens {
        [None, None] => Ok(()),
        [None, Some(_)] => Err("its access token, which it is revoked by, is not there".into()),
        [Some(access), refresh] => {
            upstream.revoke(access, refresh.as_ref()).await.map_err(|err| err.chain())
        }
    }
}
