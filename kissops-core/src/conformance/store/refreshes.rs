//! Rules of [`RefreshStore`](crate::store::RefreshStore).

use super::{
    UNICODE, at,
    fixtures::{
        GRANT, KEY, LONG, SHORT, active, add_grant, add_key, grant, lease, new_grant, pair, sealed,
        until,
    },
    together,
};
use crate::{
    Error, Timestamp,
    store::{
        DataKeyId, Generation, GrantId, GrantState, GrantStatus, HolderId, Landing, Lease,
        LeaseName, NewGeneration, NewRefresh, RefreshPhase, RefreshRecord, Sealed, SealedBy, Store,
    },
};

pub(super) fn new_refresh(lease: &Lease) -> NewRefresh {
    NewRefresh { grant: GRANT, generation: Generation(1), fence: lease.fence(), at: at(10) }
}

pub(super) fn landing(refresh: &RefreshRecord, body: &str) -> Landing {
    let NewRefresh { grant, generation, .. } = refresh.refresh;
    let (attempt, body) = (refresh.attempt, sealed(body));
    Landing { grant, generation, attempt, status: 200, body, at: at(12) }
}

/// A grant at generation 1, and its lease.
pub(super) async fn granted(store: &dyn Store) -> Lease {
    add_grant(store).await;
    let held = lease(store, "grant/7", 1).await;
    store.commit_generation(pair(0, &held)).await.unwrap();
    held
}

pub(super) async fn begun(store: &dyn Store, lease: &Lease) -> RefreshRecord {
    store.begin_refresh(new_refresh(lease)).await.unwrap()
}

pub(super) async fn sent(store: &dyn Store, lease: &Lease) -> RefreshRecord {
    let refresh = begun(store, lease).await;
    store.mark_sent(&refresh, at(11)).await.unwrap()
}

/// The lease is another's, although the former holder does not know it yet.
pub(super) async fn taken_over(store: &dyn Store, lease: &Lease) -> Lease {
    store.release_lease(lease).await.unwrap();
    store.acquire_lease(&lease.name, HolderId(2), LONG).await.unwrap()
}

pub(super) fn refused<T: std::fmt::Debug>(answer: Result<T, Error>) {
    let answer = answer.map(drop);
    assert!(matches!(answer, Err(Error::Conflict { .. })), "{answer:?}");
}

/// What an operator may do at any time.
pub(super) async fn fence_grant(store: &dyn Store) -> GrantStatus {
    let state = GrantState::Fenced { since: at(12), reason: "by hand".into() };
    let fenced = GrantStatus { state, next_refresh_at: None, ..active() };
    let version = grant(store).await.version;
    store.set_grant_status(GRANT, version, fenced.clone(), at(12)).await.unwrap();
    fenced
}

/// The tokens' texts, newest generation first.
pub(super) async fn tokens(store: &dyn Store) -> Vec<String> {
    let tokens = store.sealed_tokens(GRANT).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    tokens.into_iter().map(|token| text(token.sealed.sealed.0)).collect()
}

/// None, and no answers.
pub async fn a_new_store_has_no_refreshes(store: &dyn Store) {
    assert_eq!(store.refresh(GRANT).await.unwrap(), None);
    assert_eq!(store.open_refreshes(None, 9).await.unwrap(), []);
    assert_eq!(store.landings(GRANT).await.unwrap(), []);
}

/// Every field, its fence included.
pub async fn a_refresh_comes_back_as_begun(store: &dyn Store) {
    granted(store).await;
    let held = lease(store, UNICODE, i64::MIN).await;
    let begun = begun(store, &held).await;
    let expected = RefreshRecord {
        refresh: new_refresh(&held),
        attempt: 1,
        phase: RefreshPhase::Intended,
        updated_at: at(10),
    };
    assert_eq!(begun, expected);
    assert_eq!(store.refresh(GRANT).await.unwrap(), Some(expected.clone()));
    assert_eq!(store.open_refreshes(None, 9).await.unwrap(), [expected]);
}

/// One for each generation: the second is told to look first.
pub async fn a_second_refresh_of_a_generation_conflicts(store: &dyn Store) {
    let held = granted(store).await;
    let first = begun(store, &held).await;
    refused(store.begin_refresh(NewRefresh { at: at(20), ..new_refresh(&held) }).await);
    assert_eq!(store.refresh(GRANT).await.unwrap(), Some(first));
}

/// One of them is admitted.
pub async fn concurrent_refreshes_of_one_grant_admit_one(store: &dyn Store) {
    let held = granted(store).await;
    let calls = (0..20).map(|_| store.begin_refresh(new_refresh(&held)));
    assert_eq!(together(calls).await.into_iter().flatten().count(), 1);
}

/// Whoever has not seen the latest pair must not present an older one.
pub async fn a_refresh_of_an_old_generation_is_refused(store: &dyn Store) {
    let held = granted(store).await;
    for generation in [0, 2, u64::MAX].map(Generation) {
        refused(store.begin_refresh(NewRefresh { generation, ..new_refresh(&held) }).await);
    }
    refused(store.begin_refresh(NewRefresh { grant: GrantId(404), ..new_refresh(&held) }).await);
    assert_eq!(store.refresh(GRANT).await.unwrap(), None);
}

/// A holder whose lease was granted again does not begin.
pub async fn a_stale_holder_cannot_begin_a_refresh(store: &dyn Store) {
    let stale = granted(store).await;
    taken_over(store, &stale).await;
    refused(store.begin_refresh(new_refresh(&stale)).await);
    assert_eq!(store.refresh(GRANT).await.unwrap(), None);
}

/// Nor one who gave it back, with nobody after them.
pub async fn a_released_lease_guards_nothing(store: &dyn Store) {
    let held = granted(store).await;
    store.release_lease(&held).await.unwrap();
    refused(store.begin_refresh(new_refresh(&held)).await);
    refused(store.commit_generation(pair(1, &held)).await);
}

/// Nor one whose lease never was.
pub async fn an_unknown_lease_guards_nothing(store: &dyn Store) {
    let held = granted(store).await;
    let unknown = Lease { name: LeaseName::new("grant/8"), ..held };
    refused(store.begin_refresh(new_refresh(&unknown)).await);
    refused(store.commit_generation(pair(1, &unknown)).await);
}

/// Time alone costs nobody their work: only a later lease does.
pub async fn a_lease_that_ran_out_still_guards_while_nobody_took_it(store: &dyn Store) {
    granted(store).await;
    let name = LeaseName::new("short");
    let held = store.acquire_lease(&name, HolderId(1), SHORT).await.unwrap();
    until("the lease running out", async || {
        let found = store.lease(&name).await.unwrap().unwrap();
        found.remaining.is_zero().then_some(())
    })
    .await;
    store.commit_generation(pair(1, &held)).await.unwrap();
    let next = store.acquire_lease(&name, HolderId(2), LONG).await.unwrap();
    refused(store.commit_generation(pair(2, &held)).await);
    store.commit_generation(pair(2, &next)).await.unwrap();
}

/// From intended to sent, once.
pub async fn a_refresh_is_sent_once(store: &dyn Store) {
    let held = granted(store).await;
    let begun = begun(store, &held).await;
    let sent = store.mark_sent(&begun, at(11)).await.unwrap();
    assert_eq!((sent.phase, sent.updated_at), (RefreshPhase::Sent, at(11)));
    assert_eq!(store.refresh(GRANT).await.unwrap(), Some(sent.clone()));
    refused(store.mark_sent(&begun, at(12)).await);
    refused(store.mark_sent(&sent, at(12)).await);
}

/// Two tasks with the same record in hand: one sends.
pub async fn concurrent_sendings_admit_one(store: &dyn Store) {
    let held = granted(store).await;
    let begun = begun(store, &held).await;
    let calls = (0..20).map(|_| store.mark_sent(&begun, at(11)));
    assert_eq!(together(calls).await.into_iter().flatten().count(), 1);
}

/// The last look before the request goes out.
pub async fn a_stale_holder_cannot_send(store: &dyn Store) {
    let stale = granted(store).await;
    let begun = begun(store, &stale).await;
    taken_over(store, &stale).await;
    refused(store.mark_sent(&begun, at(11)).await);
    assert_eq!(store.refresh(GRANT).await.unwrap(), Some(begun));
}

/// Only what was sent can be unanswered.
pub async fn a_sent_refresh_may_stay_unanswered(store: &dyn Store) {
    let held = granted(store).await;
    let begun = begun(store, &held).await;
    refused(store.mark_unanswered(&begun, at(11)).await);
    let sent = store.mark_sent(&begun, at(11)).await.unwrap();
    let silent = store.mark_unanswered(&sent, at(12)).await.unwrap();
    assert_eq!(silent.phase, RefreshPhase::Unanswered);
    assert_eq!(store.refresh(GRANT).await.unwrap(), Some(silent));
}

/// In one write, and under the conditions of a beginning.
pub async fn a_refresh_may_begin_as_sent(store: &dyn Store) {
    let stale = granted(store).await;
    let held = taken_over(store, &stale).await;
    refused(store.send_refresh(new_refresh(&stale)).await);
    let generation = Generation(2);
    refused(store.send_refresh(NewRefresh { generation, ..new_refresh(&held) }).await);
    let calls = (0..20).map(|_| store.send_refresh(new_refresh(&held)));
    let mut begun = together(calls).await.into_iter().flatten();
    let (first, second) = (begun.next().unwrap(), begun.next());
    assert_eq!((first.attempt, first.phase, second), (1, RefreshPhase::Sent, None));
    assert_eq!(store.refresh(GRANT).await.unwrap(), Some(first.clone()));
    refused(store.begin_refresh(new_refresh(&held)).await);
    store.land(landing(&first, "answer")).await.unwrap();
}

/// A further attempt, by whoever holds the lease now; the former one has nothing more to send.
pub async fn a_refresh_is_retried_by_the_next_holder(store: &dyn Store) {
    let stale = granted(store).await;
    let first = begun(store, &stale).await;
    let held = taken_over(store, &stale).await;
    let second = store.retry_refresh(&first, &held.fence(), at(13)).await.unwrap();
    assert_eq!((second.attempt, second.phase), (2, RefreshPhase::Intended));
    assert_eq!((&second.refresh.fence, second.refresh.at), (&held.fence(), at(10)));
    refused(store.mark_sent(&first, at(14)).await);
    refused(store.retry_refresh(&first, &held.fence(), at(14)).await);
    refused(store.retry_refresh(&second, &stale.fence(), at(14)).await);
    store.mark_sent(&second, at(14)).await.unwrap();
}

/// Two who look after the same refresh: one retries.
pub async fn concurrent_retries_admit_one(store: &dyn Store) {
    let held = granted(store).await;
    let first = sent(store, &held).await;
    let fence = held.fence();
    let calls = (0..20).map(|_| store.retry_refresh(&first, &fence, at(13)));
    assert_eq!(together(calls).await.into_iter().flatten().count(), 1);
    assert_eq!(store.refresh(GRANT).await.unwrap().unwrap().attempt, 2);
}

/// Every field of an answer is kept, and all its bytes.
pub async fn an_answer_comes_back_as_it_landed(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    let body = SealedBy { key: KEY, sealed: Sealed((0..=255).collect()) };
    let landed = Landing { status: u16::MAX, body, at: Timestamp(-1), ..landing(&sent, "") };
    store.land(landed.clone()).await.unwrap();
    assert_eq!(store.landings(GRANT).await.unwrap(), [landed]);
    assert_eq!(store.refresh(GRANT).await.unwrap().unwrap().phase, RefreshPhase::Landed);
}

/// The answer is there, so it is read rather than asked for again.
pub async fn a_refresh_that_landed_is_not_retried(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    store.land(landing(&sent, "answer")).await.unwrap();
    refused(store.retry_refresh(&sent, &held.fence(), at(13)).await);
    refused(store.mark_unanswered(&sent, at(13)).await);
}

/// Of a retry and an answer at once: never a retry that did not know of the answer.
pub async fn a_retry_and_an_answer_see_each_other(store: &dyn Store) {
    for from in 1..=8 {
        let held =
            if from == 1 { granted(store).await } else { lease(store, &from.to_string(), 1).await };
        let new = NewRefresh { generation: Generation(from), ..new_refresh(&held) };
        let begun = store.begin_refresh(new).await.unwrap();
        let sent = store.mark_sent(&begun, at(11)).await.unwrap();
        let fence = held.fence();
        let calls = (0..2).map(|i| {
            let (sent, fence) = (&sent, &fence);
            async move {
                match i {
                    0 => store.retry_refresh(sent, fence, at(13)).await.is_ok(),
                    _ => store.land(landing(sent, "answer")).await.is_ok(),
                }
            }
        });
        // The answer is kept in any case; it also holds up what the retry would send.
        let answers = together(calls).await;
        assert!(answers[1], "the answer was lost");
        let now = store.refresh(GRANT).await.unwrap().unwrap();
        assert_eq!(now.phase, RefreshPhase::Landed);
        assert_eq!(now.attempt, if answers[0] { 2 } else { 1 });
        refused(store.mark_sent(&now, at(14)).await);
        store.commit_generation(pair(from, &held)).await.unwrap();
        store.release_lease(&held).await.unwrap();
    }
}

/// The first of an attempt stays; a second call with a lost answer does no harm.
pub async fn an_answer_may_land_twice(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    store.land(landing(&sent, "first")).await.unwrap();
    store.land(landing(&sent, "second")).await.unwrap();
    assert_eq!(store.landings(GRANT).await.unwrap(), [landing(&sent, "first")]);
}

/// It may hold the only token there is, whoever holds the lease by now.
pub async fn a_stale_holders_answer_is_kept(store: &dyn Store) {
    let stale = granted(store).await;
    let first = sent(store, &stale).await;
    let held = taken_over(store, &stale).await;
    let second = store.retry_refresh(&first, &held.fence(), at(13)).await.unwrap();
    let second = store.mark_sent(&second, at(14)).await.unwrap();
    store.land(landing(&second, "second")).await.unwrap();
    store.land(landing(&first, "first")).await.unwrap();
    let found = store.landings(GRANT).await.unwrap();
    assert_eq!(found, [landing(&first, "first"), landing(&second, "second")]);
}

/// Nothing waits for it: not after a commit, not of an attempt that never was.
pub async fn an_answer_that_nobody_waits_for_is_refused(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    refused(store.land(Landing { attempt: 2, ..landing(&sent, "x") }).await);
    store.commit_generation(pair(1, &held)).await.unwrap();
    refused(store.land(landing(&sent, "late")).await);
    assert_eq!(store.landings(GRANT).await.unwrap(), []);
}

/// A key that is gone is named, and the refresh stays as it was.
pub async fn an_answer_under_an_unknown_key_is_refused_whole(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    let body = SealedBy { key: DataKeyId(404), ..sealed("x") };
    let err = store.land(Landing { body, ..landing(&sent, "") }).await.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
    assert_eq!(store.refresh(GRANT).await.unwrap(), Some(sent));
}

/// Also while an answer waits to be read.
pub async fn a_data_key_that_sealed_an_answer_stays(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    let key = DataKeyId(2);
    add_key(store, key).await;
    let body = SealedBy { key, ..sealed("x") };
    store.land(Landing { body, ..landing(&sent, "") }).await.unwrap();
    store.retire_data_key(key, at(1)).await.unwrap();
    let err = store.remove_data_key(key).await.unwrap_err();
    assert!(matches!(err, Error::WrongState { .. }), "{err:?}");
    store.commit_generation(pair(1, &held)).await.unwrap();
    store.remove_data_key(key).await.unwrap();
}

/// A refused refresh leaves the tokens, and says what is next.
pub async fn an_ended_refresh_leaves_the_pair(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    store.land(landing(&sent, "503")).await.unwrap();
    let landed = store.refresh(GRANT).await.unwrap().unwrap();
    let status = GrantStatus { next_refresh_at: Some(at(60)), ..active() };
    let (fence, seen) = (held.fence(), active().state);
    let ended = store.end_refresh(&landed, &fence, &seen, status.clone(), at(13));
    let ended = ended.await.unwrap();
    assert_eq!(store.refresh(GRANT).await.unwrap(), None);
    assert_eq!(store.landings(GRANT).await.unwrap(), []);
    assert_eq!(tokens(store).await, ["access 1", "refresh 1"]);
    let found = grant(store).await;
    assert_eq!(ended, found);
    assert_eq!((found.status, found.generation), (status, Generation(1)));
    begun(store, &held).await;
}

/// It is over, and what an operator decided while it was under way stays.
pub async fn an_ended_refresh_overrules_no_decision(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    let fenced = fence_grant(store).await;
    let degraded = GrantStatus { state: GrantState::Degraded { since: at(13) }, ..active() };
    let (fence, seen) = (held.fence(), active().state);
    let ended = store.end_refresh(&sent, &fence, &seen, degraded, at(13));
    let ended = ended.await.unwrap();
    assert_eq!(ended, grant(store).await);
    assert_eq!(ended.status, fenced);
    assert_eq!(store.refresh(GRANT).await.unwrap(), None);
}

/// What came in meanwhile is looked at first.
pub async fn a_refresh_that_landed_meanwhile_is_not_ended(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    store.land(landing(&sent, "answer")).await.unwrap();
    let before = grant(store).await;
    let degraded = GrantStatus { state: GrantState::Degraded { since: at(13) }, ..active() };
    refused(store.end_refresh(&sent, &held.fence(), &active().state, degraded, at(13)).await);
    assert_eq!(store.landings(GRANT).await.unwrap().len(), 1);
    assert_eq!(grant(store).await, before);
}

/// A refresh that somebody else sees to by now is theirs.
pub async fn a_stale_holder_cannot_end_a_refresh(store: &dyn Store) {
    let stale = granted(store).await;
    let sent = sent(store, &stale).await;
    taken_over(store, &stale).await;
    refused(store.end_refresh(&sent, &stale.fence(), &active().state, active(), at(13)).await);
    assert_eq!(store.refresh(GRANT).await.unwrap(), Some(sent));
}

/// What a program finds after a crash, in pages, by the grants' numbers.
pub async fn open_refreshes_are_found_after_a_crash(store: &dyn Store) {
    add_key(store, KEY).await;
    let held = lease(store, "all", 1).await;
    for id in [3, 1, 2] {
        store.add_grant(new_grant(id, &id.to_string())).await.unwrap();
        let generation = Generation(0);
        let new = NewRefresh { grant: GrantId(id), generation, ..new_refresh(&held) };
        store.begin_refresh(new).await.unwrap();
    }
    let mut found = Vec::new();
    loop {
        let page = store.open_refreshes(found.last().copied(), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page.iter().map(|record| record.refresh.grant));
    }
    assert_eq!(found, [1, 2, 3].map(GrantId));
}

/// Grants do not meet: what is done for one is not done for its neighbour.
pub async fn refreshes_of_two_grants_do_not_meet(store: &dyn Store) {
    let held = granted(store).await;
    let sent = sent(store, &held).await;
    store.land(landing(&sent, "answer")).await.unwrap();
    store.add_grant(new_grant(8, "bob")).await.unwrap();
    let other = NewGeneration { grant: GrantId(8), ..pair(0, &held) };
    store.commit_generation(other.clone()).await.unwrap();
    store.commit_generation(NewGeneration { from: Generation(1), ..other }).await.unwrap();
    assert_eq!(store.landings(GRANT).await.unwrap().len(), 1);
    assert_eq!(tokens(store).await, ["access 1", "refresh 1"]);
    store.remove_grant(GrantId(8)).await.unwrap();
    assert_eq!(tokens(store).await, ["access 1", "refresh 1"]);
}
