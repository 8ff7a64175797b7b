//! Rules of [`SilenceStore`](crate::store::SilenceStore).

use super::{UNICODE, at, conflicts, is_not_found};
use crate::{
    Error, Timestamp,
    store::{MatchKind, Matcher, NewSilence, SilenceId, SilenceRecord, Store},
};

fn matcher(label: &str, kind: MatchKind, value: &str) -> Matcher {
    Matcher { label: label.into(), kind, value: value.into() }
}

fn silence(from: u64, to: u64) -> NewSilence {
    NewSilence {
        matchers: vec![matcher("host", MatchKind::Equal, "a")],
        author: "ann".into(),
        reason: "maintenance".into(),
        at: at(0),
        starts_at: at(from),
        ends_at: at(to),
    }
}

async fn holding(store: &dyn Store, at: Timestamp) -> Vec<SilenceId> {
    store.silences_at(at).await.unwrap().into_iter().map(|one| one.id).collect()
}

async fn one(store: &dyn Store, id: SilenceId) -> SilenceRecord {
    let all = store.silences(None, u32::MAX).await.unwrap();
    all.into_iter().find(|silence| silence.id == id).unwrap()
}

/// Empty lists, not errors.
pub async fn a_new_store_has_no_silences(store: &dyn Store) {
    assert_eq!(store.silences_at(at(0)).await.unwrap(), []);
    assert_eq!(store.silences(None, 9).await.unwrap(), []);
}

/// Every field is kept, each kind of matcher in its place.
pub async fn a_silence_comes_back_as_made(store: &dyn Store) {
    let matchers = MatchKind::ALL.iter().map(|kind| matcher(UNICODE, *kind, UNICODE)).collect();
    let made = NewSilence {
        matchers,
        author: UNICODE.into(),
        reason: UNICODE.into(),
        at: Timestamp(1_790_000_000_123_451),
        starts_at: Timestamp(1_790_000_000_123_452),
        ends_at: Timestamp(1_790_000_000_123_453),
    };
    let id = store.add_silence(made.clone()).await.unwrap();
    let expected = SilenceRecord { id, silence: made, ended_by: None };
    assert_eq!(store.silences(None, 9).await.unwrap(), [expected]);
}

/// It would silence everything.
pub async fn a_silence_without_a_matcher_is_refused(store: &dyn Store) {
    let all = NewSilence { matchers: vec![], ..silence(1, 2) };
    let err = store.add_silence(all).await.unwrap_err();
    assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
    assert_eq!(store.silences(None, 9).await.unwrap(), []);
}

/// Neither an empty span nor one that ends before it begins.
pub async fn a_silence_ends_after_its_start(store: &dyn Store) {
    for (from, to) in [(2, 2), (3, 2)] {
        let err = store.add_silence(silence(from, to)).await.unwrap_err();
        assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
    }
}

/// From its first microsecond on, until before its end.
pub async fn a_silence_holds_from_its_start_to_before_its_end(store: &dyn Store) {
    let id = store.add_silence(silence(5, 9)).await.unwrap();
    let before = |second| Timestamp(at(second).0 - 1);
    assert_eq!(holding(store, before(5)).await, []);
    assert_eq!(holding(store, at(5)).await, [id]);
    assert_eq!(holding(store, before(9)).await, [id]);
    assert_eq!(holding(store, at(9)).await, []);
}

/// Several may hold at once, oldest first.
pub async fn silences_may_overlap(store: &dyn Store) {
    let mut ids = Vec::new();
    for (from, to) in [(5, 9), (1, 6), (6, 7)] {
        ids.push(store.add_silence(silence(from, to)).await.unwrap());
    }
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert_eq!(holding(store, at(5)).await, [ids[0], ids[1]]);
    assert_eq!(holding(store, at(6)).await, [ids[0], ids[2]]);
}

/// From then on it does not hold; before, it did. Who did it is kept.
pub async fn a_silence_can_be_ended_early(store: &dyn Store) {
    let id = store.add_silence(silence(5, 9)).await.unwrap();
    store.end_silence(id, at(7), UNICODE).await.unwrap();
    assert_eq!(holding(store, Timestamp(at(7).0 - 1)).await, [id]);
    assert_eq!(holding(store, at(7)).await, []);
    let found = one(store, id).await;
    assert_eq!((found.silence.ends_at, found.ended_by.as_deref()), (at(7), Some(UNICODE)));
}

/// It has no length then.
pub async fn a_silence_ended_before_its_start_never_holds(store: &dyn Store) {
    let id = store.add_silence(silence(5, 9)).await.unwrap();
    store.end_silence(id, at(3), "ann").await.unwrap();
    for second in 0..12 {
        assert_eq!(holding(store, at(second)).await, []);
    }
    assert_eq!(one(store, id).await.silence.ends_at, at(5));
}

/// The first end stays, whether it was ended or ran out.
pub async fn a_silence_that_is_over_cannot_be_ended(store: &dyn Store) {
    for (second, then) in [(7, 8), (3, 4), (7, 7), (9, 9)] {
        let id = store.add_silence(silence(5, 9)).await.unwrap();
        if second < 9 {
            store.end_silence(id, at(second), "ann").await.unwrap();
        }
        let before = one(store, id).await;
        conflicts(store.end_silence(id, at(then), "bob").await);
        assert_eq!(one(store, id).await, before);
    }
}

/// Not found.
pub async fn an_unknown_silence_cannot_be_ended(store: &dyn Store) {
    is_not_found(store.end_silence(SilenceId(5), at(1), "ann").await);
}

/// Newest first, page by page, whether they hold or not.
pub async fn silences_come_newest_first(store: &dyn Store) {
    let mut ids = Vec::new();
    for second in 0..5 {
        ids.push(store.add_silence(silence(second, second + 1)).await.unwrap());
    }
    ids.reverse();
    let page = async |before, limit| -> Vec<SilenceId> {
        let page = store.silences(before, limit).await.unwrap();
        page.into_iter().map(|one| one.id).collect()
    };
    assert_eq!(page(None, 3).await, ids[..3]);
    assert_eq!(page(Some(ids[2]), 3).await, ids[3..]);
    assert_eq!(page(Some(ids[4]), 3).await, []);
    assert_eq!(page(None, 0).await, []);
}

/// Those that ended before, in small batches, those first that ended first.
pub async fn silences_are_pruned_in_small_batches(store: &dyn Store) {
    let mut ids = Vec::new();
    for end in [8, 6, 7, 9] {
        ids.push(store.add_silence(silence(5, end)).await.unwrap());
    }
    let left = async || -> Vec<SilenceId> {
        let mut all = store.silences(None, 9).await.unwrap();
        all.reverse();
        all.into_iter().map(|one| one.id).collect()
    };
    assert_eq!(store.prune_silences(at(9), 2).await.unwrap(), 2);
    assert_eq!(left().await, [ids[0], ids[3]]);
    assert_eq!(store.prune_silences(at(9), 2).await.unwrap(), 1);
    assert_eq!(store.prune_silences(at(9), 2).await.unwrap(), 0);
    assert_eq!(left().await, [ids[3]]);
}
