//! Rules of new generations, which [`RefreshStore`](crate::store::RefreshStore) commits.

use super::{
    UNICODE, at,
    fixtures::{GRANT, LONG, active, add_grant, grant, new_grant, pair, sealed},
    name,
    refreshes::{fence_grant, granted, landing, refused, sent, taken_over, tokens},
    together,
};
use crate::{
    Error,
    store::{
        DataKeyId, Generation, GrantExpiry, GrantState, GrantStatus, HolderId, LeaseName,
        NewGeneration, PreviousPair, SealedBy, Store, TokenKind,
    },
};

/// Tokens, scopes, expiry, status, generation; and nothing is under way any more.
pub async fn a_generation_is_committed_whole(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    store.land(landing(&sent, "answer")).await.unwrap();
    let expiry = GrantExpiry { access: Some(at(1)), refresh: Some(at(2)), idle: Some(at(3)) };
    let scopes = Some([UNICODE.to_owned()].into());
    let new = NewGeneration { scopes, expiry, ..pair(1, &held) };
    let committed = store.commit_generation(new).await.unwrap();
    let found = grant(store).await;
    assert_eq!(committed, found);
    assert_eq!((found.generation, found.expiry), (Generation(2), expiry));
    assert_eq!(found.grant.scopes, [UNICODE.to_owned()].into());
    assert_eq!((found.status, found.refreshed_at), (active(), Some(at(2))));
    assert_eq!(store.refresh(GRANT).await.unwrap(), None);
    assert_eq!(store.landings(GRANT).await.unwrap(), []);
}

/// What the answer does not say stays as it was.
pub async fn a_generation_without_scopes_keeps_them(store: &dyn Store) {
    let held = granted(store).await;
    store.commit_generation(pair(1, &held)).await.unwrap();
    assert_eq!(grant(store).await.grant, new_grant(GRANT.0, "ada"));
}

/// The new pair is kept, for it may be the only one that is good; what an operator decided meanwhile stays as well, and
/// the record that comes back shows it.
pub async fn a_commit_overrules_no_decision(store: &dyn Store) {
    let held = granted(store).await;
    sent(store, &held).await;
    let fenced = fence_grant(store).await;
    let expiry = GrantExpiry { access: Some(at(99)), ..GrantExpiry::default() };
    let committed = store.commit_generation(NewGeneration { expiry, ..pair(1, &held) }).await;
    let committed = committed.unwrap();
    assert_eq!(committed, grant(store).await);
    assert_eq!((&committed.status, committed.generation), (&fenced, Generation(2)));
    assert_eq!(committed.expiry, expiry);
    assert_eq!(tokens(store).await[..2], ["access 2", "refresh 2"]);
    store.set_grant_status(GRANT, committed.version, active(), at(20)).await.unwrap();
}

/// A change that leaves the state alone does not count as a decision about it.
pub async fn a_commit_tells_a_decision_from_another_change(store: &dyn Store) {
    let held = granted(store).await;
    store.bind_grant(GRANT, [name("a"), name("b")].into(), at(12)).await.unwrap();
    let validated = GrantStatus { next_validate_at: Some(at(77)), ..active() };
    let version = grant(store).await.version;
    store.set_grant_status(GRANT, version, validated, at(12)).await.unwrap();
    let degraded = GrantStatus { state: GrantState::Degraded { since: at(13) }, ..active() };
    let new = NewGeneration { status: degraded.clone(), ..pair(1, &held) };
    let committed = store.commit_generation(new).await.unwrap();
    assert_eq!(committed.status, degraded);
    assert_eq!(committed.grant.instances, [name("a"), name("b")].into());
}

/// Whoever read the record before the commit is told so.
pub async fn a_commit_counts_as_a_change_of_the_grant(store: &dyn Store) {
    let held = granted(store).await;
    let read = grant(store).await.version;
    store.commit_generation(pair(1, &held)).await.unwrap();
    refused(store.set_grant_status(GRANT, read, active(), at(9)).await);
}

/// The pair before the latest is there, for as long as the latest is; earlier ones are not.
pub async fn the_previous_pair_is_kept_where_it_is_still_good(store: &dyn Store) {
    let held = granted(store).await;
    store.commit_generation(pair(1, &held)).await.unwrap();
    assert_eq!(tokens(store).await, ["access 2", "refresh 2", "access 1", "refresh 1"]);
    store.commit_generation(pair(2, &held)).await.unwrap();
    assert_eq!(tokens(store).await, ["access 3", "refresh 3", "access 2", "refresh 2"]);
}

/// One that the provider takes once is gone with its use.
pub async fn the_previous_pair_is_removed_where_it_is_used_up(store: &dyn Store) {
    let held = granted(store).await;
    store.commit_generation(pair(1, &held)).await.unwrap();
    let new = NewGeneration { previous: PreviousPair::Remove, ..pair(2, &held) };
    store.commit_generation(new).await.unwrap();
    assert_eq!(tokens(store).await, ["access 3", "refresh 3"]);
}

/// A client's own grant has no refresh token.
pub async fn a_generation_may_have_one_token(store: &dyn Store) {
    let held = granted(store).await;
    let tokens = vec![(TokenKind::Access, sealed("only"))];
    store.commit_generation(NewGeneration { tokens, ..pair(1, &held) }).await.unwrap();
    let found = store.sealed_tokens(GRANT).await.unwrap();
    assert_eq!((found[0].id.kind, found[0].id.generation), (TokenKind::Access, Generation(2)));
    assert_eq!(found[1].id.generation, Generation(1));
}

/// [`Error::InvalidConfig`]; nothing changes.
pub async fn a_generation_has_one_token_of_a_kind(store: &dyn Store) {
    let held = granted(store).await;
    let tokens = vec![(TokenKind::Access, sealed("a")), (TokenKind::Access, sealed("b"))];
    let err =
        store.commit_generation(NewGeneration { tokens, ..pair(1, &held) }).await.unwrap_err();
    assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
    assert_eq!(grant(store).await.generation, Generation(1));
}

/// Of two who bring the next pair, one is in time; the other's tokens are nowhere.
pub async fn concurrent_commits_of_one_generation_admit_one(store: &dyn Store) {
    let held = granted(store).await;
    let calls = (0..20).map(|i| {
        let token = |kind| (kind, sealed(&i.to_string()));
        let tokens = vec![token(TokenKind::Access), token(TokenKind::Refresh)];
        let new = NewGeneration { tokens, previous: PreviousPair::Remove, ..pair(1, &held) };
        async move { store.commit_generation(new).await.map(|_| i.to_string()) }
    });
    let winners: Vec<String> = together(calls).await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(tokens(store).await, [winners[0].as_str(); 2]);
    assert_eq!(grant(store).await.generation, Generation(2));
}

/// From whatever other generation: all stays as it was.
pub async fn a_commit_of_an_old_generation_changes_nothing(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    store.land(landing(&sent, "answer")).await.unwrap();
    let before = grant(store).await;
    for from in [0, 2] {
        refused(store.commit_generation(pair(from, &held)).await);
    }
    assert_eq!(grant(store).await, before);
    assert_eq!(tokens(store).await, ["access 1", "refresh 1"]);
    assert_eq!(store.landings(GRANT).await.unwrap().len(), 1);
}

/// Late by a pause, or on the wrong side of a partition: all stays as it was.
pub async fn a_stale_holders_commit_changes_nothing(store: &dyn Store) {
    let stale = granted(store).await;
    let sent = sent(store, &stale).await;
    store.land(landing(&sent, "answer")).await.unwrap();
    let held = taken_over(store, &stale).await;
    let before = grant(store).await;
    refused(store.commit_generation(pair(1, &stale)).await);
    assert_eq!(grant(store).await, before);
    assert_eq!(tokens(store).await, ["access 1", "refresh 1"]);
    assert_eq!(store.landings(GRANT).await.unwrap().len(), 1);
    store.commit_generation(pair(1, &held)).await.unwrap();
}

/// A commit and the lease's next grant at once: whichever is first, no commit by a token that is not the newest.
pub async fn a_commit_and_a_take_over_exclude_each_other(store: &dyn Store) {
    add_grant(store).await;
    for from in 0..8 {
        let name = LeaseName::new("grant/7");
        let stale = store.acquire_lease(&name, HolderId(1), LONG).await.unwrap();
        let calls = (0..2).map(|i| {
            let stale = &stale;
            async move {
                if i == 0 {
                    return store.commit_generation(pair(from, stale)).await.is_ok();
                }
                let next = taken_over(store, stale).await;
                // What the new holder reads is final, as far as the former one goes.
                let seen = grant(store).await.generation;
                tokio::task::yield_now().await;
                let same = grant(store).await.generation == seen;
                store.release_lease(&next).await.unwrap();
                same
            }
        });
        let answers = together(calls).await;
        assert!(answers[1], "a stale holder has committed after the take-over");
        if !answers[0] {
            let held = store.acquire_lease(&name, HolderId(3), LONG).await.unwrap();
            store.commit_generation(pair(from, &held)).await.unwrap();
            store.release_lease(&held).await.unwrap();
        }
    }
}

/// A key that is gone is named; not even the first token of the pair is there.
pub async fn a_commit_under_an_unknown_key_changes_nothing(store: &dyn Store) {
    let held = granted(store).await;
    let unknown = SealedBy { key: DataKeyId(404), ..sealed("x") };
    let tokens_of = vec![(TokenKind::Access, sealed("access")), (TokenKind::Refresh, unknown)];
    let new = NewGeneration { tokens: tokens_of, ..pair(1, &held) };
    let err = store.commit_generation(new).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
    assert_eq!(tokens(store).await, ["access 1", "refresh 1"]);
    assert_eq!(grant(store).await.generation, Generation(1));
}
