//! What the rules of the vault's concepts begin with.

use std::time::{Duration, Instant};

use super::{T0, at};
use crate::store::{
    DataKeyId, Generation, GrantExpiry, GrantFlow, GrantId, GrantKey, GrantRecord, GrantState,
    GrantStatus, HolderId, KekId, Lease, LeaseName, NewDataKey, NewGeneration, NewGrant,
    PreviousPair, Sealed, SealedBy, Store, TokenKind,
};

pub(super) const KEY: DataKeyId = DataKeyId(1);
pub(super) const GRANT: GrantId = GrantId(7);
/// Longer than any test takes.
pub(super) const LONG: Duration = Duration::from_mins(10);
/// Long enough for a few calls, short enough to be waited for.
pub(super) const SHORT: Duration = Duration::from_millis(60);

pub(super) async fn add_key(store: &dyn Store, id: DataKeyId) {
    let key =
        NewDataKey { id, kek: KekId("kek-1".into()), wrapped: Sealed(vec![9; 40]), created_at: T0 };
    store.add_data_key(key).await.unwrap();
}

pub(super) fn sealed(text: &str) -> SealedBy {
    SealedBy { key: KEY, sealed: Sealed(text.as_bytes().to_vec()) }
}

pub(super) fn new_grant(id: i64, account: &str) -> NewGrant {
    NewGrant {
        id: GrantId(id),
        key: GrantKey { provider: "twitch".into(), account: account.into() },
        client: "main".into(),
        flow: GrantFlow::DeviceCode,
        scopes: ["chat:edit".to_owned(), "chat:read".to_owned()].into(),
        instances: [].into(),
        created_at: T0,
    }
}

/// A data key and a grant.
pub(super) async fn add_grant(store: &dyn Store) -> GrantRecord {
    add_key(store, KEY).await;
    store.add_grant(new_grant(GRANT.0, "ada")).await.unwrap();
    grant(store).await
}

pub(super) async fn grant(store: &dyn Store) -> GrantRecord {
    store.grant(&new_grant(GRANT.0, "ada").key).await.unwrap().unwrap()
}

pub(super) fn active() -> GrantStatus {
    GrantStatus {
        state: GrantState::Active { since: at(1) },
        failure: None,
        next_refresh_at: Some(at(3_600)),
        next_validate_at: None,
    }
}

pub(super) async fn lease(store: &dyn Store, name: &str, holder: i64) -> Lease {
    store.acquire_lease(&LeaseName::new(name), HolderId(holder), LONG).await.unwrap()
}

/// A pair after `from` under `lease`, whose tokens say of which generation they are.
pub(super) fn pair(from: u64, lease: &Lease) -> NewGeneration {
    let token = |kind, word: &str| (kind, sealed(&format!("{word} {}", from + 1)));
    NewGeneration {
        grant: GRANT,
        from: Generation(from),
        fence: lease.fence(),
        tokens: vec![token(TokenKind::Access, "access"), token(TokenKind::Refresh, "refresh")],
        previous: PreviousPair::Keep,
        scopes: None,
        expiry: GrantExpiry::default(),
        seen: if from == 0 { GrantState::Pending { since: T0 } } else { active().state },
        status: active(),
        at: at(from + 1),
    }
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// After ten seconds without.
pub(super) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within ten seconds");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Times for which nothing can be held: no microsecond, and more than a time can tell.
pub(super) const INSANE_TERMS: [Duration; 3] =
    [Duration::ZERO, Duration::from_nanos(999), Duration::MAX];
