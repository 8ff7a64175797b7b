//! Beginning a refresh, and making what it brings the grant's.

use std::time::Duration;

use secrecy::SecretString;

use super::{
    super::{
        breaker::Said,
        decide::{Before, IN_VAIN},
        engine::{Checkpoint, Engine},
        schedule::{refresh_point, validate_point},
    },
    Step, Visit,
};
use crate::{
    Error, Result, Timestamp,
    store::{
        GrantExpiry, GrantFlow, GrantRecord, GrantState, GrantStatus, NewGeneration, NewRefresh,
        PreviousPair, TokenId, TokenKind,
    },
    vault::{RotationClass, TokenRequest, TokenSet, VaultEventKind},
};

/// The end of a refresh token is told when it is as near as this.
const REAUTH_SOON: [Duration; 2] = [Duration::from_hours(14 * 24), Duration::from_hours(3 * 24)];

impl Visit<'_> {
    /// Refreshes, unless somebody else does.
    pub(super) async fn refresh(&self, record: GrantRecord) -> Result<Step> {
        let Some(request) = self.request(&record).await? else {
            return self.no_refresh_token(record).await;
        };
        let engine = self.engine;
        let limits = self.upstream.limits();
        // Nothing is begun that cannot be brought to its end: the right lasts longer than the request, and what comes
        // back can be sealed without the store.
        let right = engine.session.lasting(limits.exchange_limit + engine.session.margin()).await?;
        engine.keyring.ready().await?;
        engine.pass(Checkpoint::BeforeIntent, record.grant.id);
        let new = NewRefresh {
            grant: record.grant.id,
            generation: record.generation,
            fence: right.fence.clone(),
            at: engine.now(),
        };
        match engine.store.send_refresh(new).await {
            Ok(intent) => {
                engine.pass(Checkpoint::Intended, record.grant.id);
                self.exchange(record, intent, request, &right, Before::Known).await
            }
            // One is under way, or was; or the grant has a new pair by now; or the session is lost.
            Err(Error::Conflict { .. }) => Ok(Step::UnderWay(Box::new(record))),
            Err(err) => Err(err),
        }
    }

    /// What is sent; `None`: there is nothing to present.
    pub(super) async fn request(&self, record: &GrantRecord) -> Result<Option<TokenRequest>> {
        if record.grant.flow == GrantFlow::ClientCredentials {
            return Ok(Some(self.upstream.client_credentials_request(&record.grant.scopes)));
        }
        let refresh = self.token(record, TokenKind::Refresh).await?;
        if let Some(refresh) = &refresh {
            self.engine.learn_one(refresh, record.expiry.access)?;
        }
        Ok(refresh.map(|refresh| self.upstream.refresh_request(&refresh)))
    }

    /// There is an access token alone: good until it expires.
    async fn no_refresh_token(&self, record: GrantRecord) -> Result<Step> {
        let reason = "it has no refresh token, and its access token has expired";
        let now = self.engine.now();
        if let Some(end) = record.expiry.access.filter(|end| *end > now) {
            let status = GrantStatus { next_refresh_at: Some(end), ..record.status.clone() };
            let record = self.set_status(record, status).await?;
            let refusal = super::Refusal::WrongState {
                what: format!("grant `{}`", self.identity.key),
                state: "without a refresh token".into(),
                help: format!("its access token is good until {end}"),
            };
            return Ok(Step::Refused(Box::new(record), refusal));
        }
        let verdict = self.case(&record).needs_reauth(reason);
        let record = self.keep(record, verdict).await?;
        let refusal = super::closed(&record);
        Ok(Step::Refused(Box::new(record), refusal))
    }

    /// Makes a new pair the grant's. Its answer is stored: whatever fails here is done again from that.
    pub(super) async fn commit(
        &self,
        record: &GrantRecord,
        tokens: TokenSet,
        sent_at: Timestamp,
    ) -> Result<GrantRecord> {
        let engine = self.engine;
        engine.learn(&tokens)?;
        let kept = match &tokens.refresh {
            Some(_) => None,
            None => self.token(record, TokenKind::Refresh).await?,
        };
        let refresh = tokens.refresh.as_ref().or(kept.as_ref());
        let commit = || self.commit_once(record, &tokens, refresh, sent_at);
        let committed = engine.keyring.sealing(commit).await?;
        engine.pass(Checkpoint::Committed, record.grant.id);
        engine.made_public(&committed, tokens.access.clone());
        self.tell_success(record, &committed);
        Ok(committed)
    }

    async fn commit_once(
        &self,
        record: &GrantRecord,
        tokens: &TokenSet,
        refresh: Option<&SecretString>,
        sent_at: Timestamp,
    ) -> Result<GrantRecord> {
        let engine = self.engine;
        let (id, generation, now) = (record.grant.id, record.generation.next(), engine.now());
        let mut sealed = Vec::with_capacity(2);
        for (kind, token) in
            [(TokenKind::Access, Some(&tokens.access)), (TokenKind::Refresh, refresh)]
        {
            if let Some(token) = token {
                let place = TokenId { grant: id, kind, generation };
                sealed.push((kind, self.seal_token(place, token).await?));
            }
        }
        let expiry = GrantExpiry {
            access: tokens.access_expires_at,
            refresh: tokens.refresh_expires_at.or(record.expiry.refresh),
            idle: tokens.idle_expires_at,
        };
        let validate = self.upstream.validate_every().map(|every| validate_point(id, now, every));
        let status = GrantStatus {
            state: well(&record.status.state, now),
            failure: None,
            next_refresh_at: refresh_point(id, sent_at.min(now), &expiry, self.upstream.window()),
            next_validate_at: validate,
        };
        let right = engine.session.lasting(Duration::ZERO).await?;
        engine.pass(Checkpoint::BeforeCommit, id);
        let new = NewGeneration {
            grant: id,
            from: record.generation,
            fence: right.fence,
            tokens: sealed,
            previous: match self.rotation {
                RotationClass::Reusable => PreviousPair::Keep,
                RotationClass::Rotating | RotationClass::OneTime => PreviousPair::Remove,
            },
            scopes: tokens.scopes.clone(),
            expiry,
            seen: record.status.state.clone(),
            status,
            at: now,
        };
        engine.store.commit_generation(new).await
    }

    fn tell_success(&self, before: &GrantRecord, after: &GrantRecord) {
        let key = &after.grant.key;
        let told_of = before.status.failure.is_some_and(|failure| failure.count >= IN_VAIN);
        let told = match before.status.state {
            GrantState::Degraded { .. } | GrantState::Suspect { .. } => {
                (VaultEventKind::Recovered, "refreshing works again")
            }
            GrantState::Ambiguous { .. } if told_of => {
                (VaultEventKind::Recovered, "refreshing works again")
            }
            _ => (VaultEventKind::Refreshed, "it has a new pair of tokens"),
        };
        self.engine.tell(key, told.0, told.1.into());
        if let Some((end, near)) =
            after.expiry.refresh.zip(before.refreshed_at.or(Some(before.updated_at)))
        {
            let now = self.engine.now();
            let crossed = |lead: &Duration| near < end.minus(*lead) && end.minus(*lead) <= now;
            if REAUTH_SOON.iter().any(crossed) {
                let said = format!(
                    "its refresh token ends on {end}: the account's owner should authorize again before"
                );
                self.engine.tell(key, VaultEventKind::ReauthSoon, said);
            }
        }
    }

    /// What a request said of the provider, if it was sent by this visit.
    pub(super) fn hear(&self, record: &GrantRecord, asked: Option<Duration>, said: Said) {
        if let Some(asked) = asked {
            self.engine.hear(&record.grant.key.provider, record.grant.id, asked, said);
        }
    }
}

impl Engine {
    /// A pair is committed: those who wait for it get it, and a restored copy of the store is told by it.
    pub(crate) fn made_public(&self, record: &GrantRecord, access: SecretString) {
        let id = record.grant.id;
        self.opened.commit(id, record.generation, access);
        self.watchers.wake(id, record.generation);
        if let (Some(witness), Some(at)) = (&self.witness_file, record.refreshed_at) {
            witness.committed(at);
        }
    }
}

/// Active, and since when.
pub(crate) fn well(before: &GrantState, now: Timestamp) -> GrantState {
    match before {
        GrantState::Active { since } => GrantState::Active { since: *since },
        _ => GrantState::Active { since: now },
    }
}
