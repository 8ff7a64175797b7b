//! Rules of sealed tokens, which [`GrantStore`](crate::store::GrantStore) keeps.

use super::{
    at,
    fixtures::{GRANT, KEY, add_grant, add_key, grant, lease, pair, sealed},
    grants::{add, in_state, set},
    refreshes::landing,
};
use crate::{
    Error,
    store::{
        DataKeyId, Generation, GrantId, GrantState, NewGeneration, NewRefresh, SealedBy,
        SealedToken, Store, TokenId, TokenKind,
    },
};

/// By key, in pages, with every token once.
pub async fn tokens_are_found_by_the_key_that_sealed_them(store: &dyn Store) {
    add_grant(store).await;
    let held = lease(store, "grant/7", 1).await;
    for from in 0..3 {
        store.commit_generation(pair(from, &held)).await.unwrap();
    }
    let mut found = Vec::new();
    loop {
        let after = found.last().map(|token: &SealedToken| token.id);
        let page = store.tokens_sealed_by(KEY, after, 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert!(found.is_sorted_by_key(|token| token.id), "{found:?}");
    let mut expected = store.sealed_tokens(GRANT).await.unwrap();
    expected.sort_by_key(|token| token.id);
    assert_eq!((found.len(), found), (4, expected));
    assert_eq!(store.tokens_sealed_by(DataKeyId(2), None, 9).await.unwrap(), []);
}

/// Only what the former key sealed is replaced; a token that is gone is not brought back.
pub async fn a_token_is_resealed_once(store: &dyn Store) {
    add_grant(store).await;
    add_key(store, DataKeyId(2)).await;
    let held = lease(store, "grant/7", 1).await;
    store.commit_generation(pair(0, &held)).await.unwrap();
    let id = TokenId { grant: GRANT, kind: TokenKind::Refresh, generation: Generation(1) };
    let again = |text: &str| SealedBy { key: DataKeyId(2), ..sealed(text) };
    store.reseal_token(id, KEY, again("new")).await.unwrap();
    let late = store.reseal_token(id, KEY, again("late")).await;
    assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    let tokens = store.sealed_tokens(GRANT).await.unwrap();
    assert_eq!(tokens[1].sealed, again("new"));
    let gone = TokenId { generation: Generation(0), ..id };
    let err = store.reseal_token(gone, KEY, again("x")).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
    let err = store.reseal_token(id, DataKeyId(2), SealedBy { key: DataKeyId(3), ..sealed("x") });
    let err = err.await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
}

/// All of it, at once, and with the reason; the grant itself stays.
pub async fn a_shredded_grant_has_nothing_left_to_steal(store: &dyn Store) {
    add_grant(store).await;
    let held = lease(store, "grant/7", 1).await;
    store.commit_generation(pair(0, &held)).await.unwrap();
    let (generation, fence) = (Generation(1), held.fence());
    let refresh = NewRefresh { grant: GRANT, generation, fence, at: at(2) };
    store.begin_refresh(refresh).await.unwrap();
    let revoked = in_state(GrantState::Revoked { since: at(3), reason: "leaked".into() });
    store.shred_grant(GRANT, revoked.clone(), at(3)).await.unwrap();
    assert_eq!(store.sealed_tokens(GRANT).await.unwrap(), []);
    assert_eq!(store.refresh(GRANT).await.unwrap(), None);
    assert_eq!(grant(store).await.status, revoked);
    let err = store.shred_grant(GrantId(404), revoked, at(3)).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
}

/// A refresh that was under way while the grant was shredded does not bring it back to life.
pub async fn a_commit_after_a_shred_is_refused(store: &dyn Store) {
    add_grant(store).await;
    let held = lease(store, "grant/7", 1).await;
    store.commit_generation(pair(0, &held)).await.unwrap();
    let revoked = in_state(GrantState::Revoked { since: at(3), reason: "leaked".into() });
    store.shred_grant(GRANT, revoked.clone(), at(3)).await.unwrap();
    let err = store.commit_generation(pair(1, &held)).await.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
    assert_eq!(store.sealed_tokens(GRANT).await.unwrap(), []);
    assert_eq!(grant(store).await.status, revoked);
}

/// After their time, of grants that wait for their owner, and of no others.
pub async fn the_tokens_of_abandoned_grants_are_shredded_in_time(store: &dyn Store) {
    add_grant(store).await;
    let held = lease(store, "grant/7", 1).await;
    store.commit_generation(pair(0, &held)).await.unwrap();
    assert_eq!(store.shred_expired(at(99_999), 9).await.unwrap(), 0);
    // Other states have times too.
    let settles = in_state(GrantState::Ambiguous { since: at(2), settles_at: at(3) });
    store.set_grant_status(GRANT, grant(store).await.version, settles, at(2)).await.unwrap();
    assert_eq!(store.shred_expired(at(99), 9).await.unwrap(), 0);
    let (since, reason) = (at(2), "revoked".to_owned());
    let waits = in_state(GrantState::NeedsReauth { since, reason, keep_until: at(50) });
    store.set_grant_status(GRANT, grant(store).await.version, waits, at(2)).await.unwrap();
    assert_eq!(store.shred_expired(at(49), 9).await.unwrap(), 0);
    assert_eq!(store.sealed_tokens(GRANT).await.unwrap().len(), 2);
    assert_eq!(store.shred_expired(at(50), 9).await.unwrap(), 1);
    assert_eq!(store.sealed_tokens(GRANT).await.unwrap(), []);
    assert_eq!(store.shred_expired(at(50), 9).await.unwrap(), 0);
}

/// An answer of the provider holds a token as well; and what nobody may present any more is not under way.
pub async fn nothing_of_an_abandoned_grant_is_left_to_steal(store: &dyn Store) {
    add_key(store, KEY).await;
    add(store, 7..=8).await;
    let held = lease(store, "all", 1).await;
    store.commit_generation(pair(0, &held)).await.unwrap();
    for (id, generation) in [(GrantId(7), Generation(1)), (GrantId(8), Generation(0))] {
        let new = NewRefresh { grant: id, generation, fence: held.fence(), at: at(2) };
        let refresh = store.begin_refresh(new).await.unwrap();
        let sent = store.mark_sent(&refresh, at(2)).await.unwrap();
        store.land(landing(&sent, "secret")).await.unwrap();
        let (since, reason) = (at(2), String::new());
        set(store, id.0, in_state(GrantState::NeedsReauth { since, reason, keep_until: at(5) }))
            .await;
        assert_eq!(store.shred_expired(at(4), 9).await.unwrap(), 0);
        assert_eq!(store.landings(id).await.unwrap().len(), 1);
        assert_eq!(store.shred_expired(at(5), 9).await.unwrap(), 1);
        assert_eq!(store.sealed_tokens(id).await.unwrap(), []);
        assert_eq!(store.landings(id).await.unwrap(), []);
        assert_eq!(store.refresh(id).await.unwrap(), None);
        let late = store.land(landing(&sent, "late")).await;
        assert!(matches!(late, Err(Error::Conflict { .. })), "{late:?}");
    }
}

/// Small batches: each removes of as many grants as were asked for.
pub async fn abandoned_grants_are_shredded_in_small_batches(store: &dyn Store) {
    add_key(store, KEY).await;
    add(store, 1..=3).await;
    let held = lease(store, "all", 1).await;
    for id in 1..=3 {
        let new = NewGeneration { grant: GrantId(id), ..pair(0, &held) };
        store.commit_generation(new).await.unwrap();
        let (since, reason) = (at(2), String::new());
        set(store, id, in_state(GrantState::NeedsReauth { since, reason, keep_until: at(5) }))
            .await;
    }
    assert_eq!(store.shred_expired(at(5), 2).await.unwrap(), 2);
    assert_eq!(store.shred_expired(at(5), 2).await.unwrap(), 1);
}
