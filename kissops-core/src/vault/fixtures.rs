//! What tests of the vault begin with.

use std::sync::Arc;

use crate::{
    Timestamp,
    store::{
        AuthorizedGrant, GrantExpiry, GrantFlow, GrantId, GrantKey, GrantState, GrantStatus,
        NewGrant, SealedBy, Store, TokenKind, sqlite::SqliteStore,
    },
    vault::{GrantIdentity, Kek, Keyring, Keys, Place},
};

pub(super) fn memory() -> Arc<dyn Store> {
    Arc::new(SqliteStore::in_memory().unwrap())
}

/// A key as often as it is asked for: it has no `Clone`.
pub(super) struct KeyText(secrecy::SecretString);

impl KeyText {
    pub(super) fn new() -> Self {
        Self(Kek::generate().unwrap())
    }

    pub(super) fn kek(&self) -> Kek {
        Kek::parse(&self.0).unwrap()
    }
}

pub(super) async fn open(store: &Arc<dyn Store>, current: &KeyText, beside: &[KeyText]) -> Keyring {
    let previous = beside.iter().map(KeyText::kek).collect();
    Keyring::open(Arc::clone(store), Keys { current: current.kek(), previous }).await.unwrap()
}

pub(super) fn identity(id: i64, account: &str) -> GrantIdentity {
    let key = GrantKey { provider: "twitch".into(), account: account.into() };
    GrantIdentity { id: GrantId(id), key, client: "main".into() }
}

/// What a test's token says: of which grant, kind and generation it is.
pub(super) fn token_text(grant: GrantId, kind: TokenKind, generation: u64) -> String {
    format!("{kind:?} {generation} of {}", grant.0)
}

pub(super) fn active() -> GrantStatus {
    GrantStatus {
        state: GrantState::Active { since: Timestamp(1) },
        failure: None,
        next_refresh_at: None,
        next_validate_at: None,
    }
}

pub(super) async fn pair(
    keyring: &Keyring,
    grant: &GrantIdentity,
    generation: u64,
) -> crate::Result<Vec<(TokenKind, SealedBy)>> {
    let mut pair = Vec::new();
    for kind in [TokenKind::Access, TokenKind::Refresh] {
        let id = crate::store::TokenId {
            grant: grant.id,
            kind,
            generation: crate::store::Generation(generation),
        };
        let text = token_text(grant.id, kind, generation);
        pair.push((kind, keyring.seal(&Place::Token { grant, id }, text.as_bytes()).await?));
    }
    Ok(pair)
}

/// Keeps a grant with its first pair.
pub(super) async fn add(store: &dyn Store, keyring: &Keyring, grant: &GrantIdentity) {
    let added = keyring.sealing(|| async {
        let new = AuthorizedGrant {
            grant: NewGrant {
                id: grant.id,
                key: grant.key.clone(),
                client: grant.client.clone(),
                flow: GrantFlow::Imported,
                scopes: [].into(),
                instances: [].into(),
                created_at: Timestamp(1),
            },
            tokens: pair(keyring, grant, 1).await?,
            expiry: GrantExpiry::default(),
            status: active(),
        };
        store.add_authorized_grants(vec![new]).await
    });
    assert_eq!(added.await.unwrap().len(), 1);
}
