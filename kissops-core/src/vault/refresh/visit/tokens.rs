//! Tokens of a grant, opened and sealed.

use secrecy::{ExposeSecret as _, SecretString};

use super::{super::engine::Engine, Visit, closed};
use crate::{
    Error, Result,
    store::{GrantRecord, Landing, SealedBy, SealedToken, TokenId, TokenKind},
    vault::{AccessToken, GrantIdentity, Keyring, Place, RawAnswer, Ticket, refresh::flight::Fate},
};

impl Engine {
    /// The access token of a grant as it is now, open. Learned by the redactor before it is handed out.
    pub(crate) async fn open(&self, record: &GrantRecord) -> Fate {
        match self.open_access(record).await {
            Ok(Some(token)) => Ok(token),
            Ok(None) => Err(closed(record)),
            Err(err) => Err((&err).into()),
        }
    }

    pub(crate) async fn open_access(&self, record: &GrantRecord) -> Result<Option<AccessToken>> {
        let (id, generation) = (record.grant.id, record.generation);
        let token = if let Some(token) = self.opened.get(id, generation) {
            token
        } else {
            let identity = GrantIdentity::from(record);
            let found = find_token(self, &identity, record, TokenKind::Access).await?;
            let Some(token) = found else { return Ok(None) };
            self.learn_one(&token, record.expiry.access)?;
            self.opened.put(id, generation, token.clone());
            token
        };
        Ok(Some(AccessToken {
            key: record.grant.key.clone(),
            token,
            generation,
            expires_at: record.expiry.access,
            scopes: record.grant.scopes.clone(),
        }))
    }
}

/// The newest token of that kind, opened.
pub(crate) async fn find_token(
    engine: &Engine,
    identity: &GrantIdentity,
    record: &GrantRecord,
    kind: TokenKind,
) -> Result<Option<SecretString>> {
    let read = || async {
        let tokens = engine.store.sealed_tokens(record.grant.id).await?;
        // An access token of an older pair is none; a refresh token that was not replaced comes with each pair.
        let wanted = |token: &&SealedToken| {
            token.id.kind == kind && token.id.generation == record.generation
        };
        let Some(SealedToken { id, sealed }) = tokens.iter().find(wanted) else { return Ok(None) };
        let place = Place::Token { grant: identity, id: *id };
        open_text(&engine.keyring, &place, sealed).await.map(Some)
    };
    engine.keyring.reading(read).await
}

async fn open_text(
    keyring: &Keyring,
    place: &Place<'_>,
    sealed: &SealedBy,
) -> Result<SecretString> {
    let plain = keyring.unseal(place, sealed).await?;
    let text = std::str::from_utf8(&plain).map_err(|_| Error::Corrupt {
        what: place.to_string(),
        detail: "it opens, and is no text".into(),
    })?;
    Ok(SecretString::from(text))
}

impl Visit<'_> {
    pub(super) async fn token(
        &self,
        record: &GrantRecord,
        kind: TokenKind,
    ) -> Result<Option<SecretString>> {
        find_token(self.engine, &self.identity, record, kind).await
    }

    /// An answer that was kept, as it came. When it was sent is not kept: that it came then is later, and so is taken
    /// back by the longest that it may have taken.
    pub(super) async fn open_landing(&self, landing: &Landing) -> Result<RawAnswer> {
        let place = Place::of_landing(&self.identity, landing);
        let body = self.engine.keyring.unseal(&place, &landing.body).await?;
        let limit = self.upstream.limits().exchange_limit;
        Ok(RawAnswer {
            status: landing.status,
            retry_after: None,
            body: body.to_vec().into(),
            sent_at: landing.at.minus(limit),
            at: landing.at,
        })
    }

    /// Seals an answer as it came.
    pub(super) async fn seal_answer(&self, ticket: Ticket, raw: &RawAnswer) -> Result<SealedBy> {
        let place = Place::Answer { grant: &self.identity, ticket, status: raw.status };
        self.engine.keyring.seal(&place, raw.body.expose_secret()).await
    }

    pub(super) async fn seal_token(&self, id: TokenId, token: &SecretString) -> Result<SealedBy> {
        let place = Place::Token { grant: &self.identity, id };
        self.engine.keyring.seal(&place, token.expose_secret().as_bytes()).await
    }
}
