//! Rules of [`DrillStore`](crate::store::DrillStore).

use std::time::Duration;

use super::{
    UNICODE, at,
    backups::{made, new_backup},
    conflicts, eventually, is_not_found,
    outbox::{claimant, hasty},
    together,
};
use crate::{
    Timestamp,
    store::{
        BackupId, DrillCheck, DrillEnd, DrillId, DrillOutcome, DrillQuery, DrillRecord, DrillState,
        NewDrill, Store,
    },
};

fn drill(plan: &str, backup: BackupId, second: u64) -> NewDrill {
    NewDrill { plan: plan.into(), backup, started_at: at(second) }
}

fn end(second: u64, outcome: DrillOutcome) -> DrillEnd {
    DrillEnd { at: at(second), outcome, rpo: None, rto: None, checks: Vec::new() }
}

fn failed() -> DrillOutcome {
    DrillOutcome::Failed { why: "users >= 1".into() }
}

async fn ended(
    store: &dyn Store,
    plan: &str,
    backup: BackupId,
    second: u64,
    outcome: DrillOutcome,
) -> DrillId {
    let id = store.begin_drill(drill(plan, backup, second), &claimant("host")).await.unwrap();
    store.end_drill(id, end(second, outcome)).await.unwrap();
    id
}

async fn all(store: &dyn Store) -> Vec<DrillRecord> {
    store.drills(DrillQuery { limit: u32::MAX, ..DrillQuery::default() }).await.unwrap()
}

fn ids(drills: &[DrillRecord]) -> Vec<DrillId> {
    drills.iter().map(|one| one.id).collect()
}

/// Empty lists, not errors.
pub async fn a_new_store_has_no_drills(store: &dyn Store) {
    assert_eq!(all(store).await, []);
    assert_eq!(store.last_passed_drill(&"p".into()).await.unwrap(), None);
}

/// Without an end, until it has one.
pub async fn a_drill_comes_back_as_begun(store: &dyn Store) {
    let backup = made(store, new_backup(UNICODE, 0)).await;
    let started_at = Timestamp(1_790_000_000_123_457);
    let new = NewDrill { started_at, ..drill(UNICODE, backup, 0) };
    let id = store.begin_drill(new.clone(), &claimant("host")).await.unwrap();
    let found = all(store).await;
    assert_eq!((found.len(), found[0].id, &found[0].drill), (1, id, &new));
    assert!(matches!(found[0].state, DrillState::Running { .. }), "{found:?}");
}

/// With every check in its place, and how long things took to the microsecond.
pub async fn the_end_of_a_drill_comes_back(store: &dyn Store) {
    let backup = made(store, new_backup("p", 0)).await;
    let check = |name: &str, failure: Option<&str>| DrillCheck {
        name: name.into(),
        failure: failure.map(str::to_owned),
        took: Duration::from_micros(1_234_567),
    };
    let checks = vec![check("integrity", None), check(UNICODE, Some(UNICODE)), check("", None)];
    let outcomes = [DrillOutcome::Passed, failed(), DrillOutcome::Failed { why: String::new() }];
    for outcome in outcomes {
        let id = store.begin_drill(drill("p", backup, 1), &claimant("host")).await.unwrap();
        let end = DrillEnd {
            at: Timestamp(1_790_000_000_123_457),
            outcome,
            rpo: Some(Duration::from_micros(86_400_000_001)),
            rto: Some(Duration::ZERO),
            checks: checks.clone(),
        };
        store.end_drill(id, end.clone()).await.unwrap();
        assert_eq!(all(store).await[0].state, DrillState::Ended(end));
    }
}

/// What was not measured is not zero.
pub async fn a_drill_may_have_measured_nothing(store: &dyn Store) {
    let backup = made(store, new_backup("p", 0)).await;
    ended(store, "p", backup, 1, failed()).await;
    assert_eq!(all(store).await[0].state, DrillState::Ended(end(1, failed())));
}

/// Neither of one that is not there, nor of another plan's.
pub async fn a_drill_is_of_a_backup_of_its_plan(store: &dyn Store) {
    let backup = made(store, new_backup("p", 0)).await;
    for (plan, backup) in [("q", backup), ("p", BackupId(backup.0 + 9))] {
        is_not_found(store.begin_drill(drill(plan, backup, 1), &claimant("host")).await);
    }
    assert_eq!(all(store).await, []);
}

/// Passed or failed, the first end stays, also when several come at once.
pub async fn a_drill_ends_once(store: &dyn Store) {
    let backup = made(store, new_backup("p", 0)).await;
    let id = store.begin_drill(drill("p", backup, 1), &claimant("host")).await.unwrap();
    let calls = (1..6).map(|second| store.end_drill(id, end(second, failed())));
    let (won, lost): (Vec<_>, Vec<_>) = together(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 4));
    let first = all(store).await;
    conflicts(store.end_drill(id, end(9, DrillOutcome::Passed)).await);
    assert_eq!(all(store).await, first);
    assert_eq!(store.backup(backup).await.unwrap().drilled_at, None);
}

/// It has failed with that, once; what its maker says then is too late.
pub async fn a_drill_whose_maker_vanished_is_ended(store: &dyn Store) {
    let backup = made(store, new_backup("p", 0)).await;
    let mut gone = Vec::new();
    for second in 1..=3 {
        gone.push(store.begin_drill(drill("p", backup, second), &hasty("x")).await.unwrap());
    }
    let held = store.begin_drill(drill("p", backup, 4), &claimant("host")).await.unwrap();
    let mut lost = Vec::new();
    while lost.len() < 3 {
        let page = eventually(async || {
            let page = store.end_lost_drills(at(9), 2).await.unwrap();
            (!page.is_empty()).then_some(page)
        });
        lost.extend(page.await);
    }
    assert_eq!(ids(&lost), gone);
    for one in lost {
        let DrillState::Ended(end) = one.state else { panic!("{one:?}") };
        assert_eq!((end.at, end.checks), (at(9), vec![]));
        assert!(matches!(end.outcome, DrillOutcome::Failed { .. }), "{:?}", end.outcome);
    }
    conflicts(store.end_drill(gone[0], end(10, DrillOutcome::Passed)).await);
    conflicts(store.renew_drill(gone[0], Duration::from_mins(1)).await);
    assert_eq!(store.end_lost_drills(at(9), 9).await.unwrap(), []);
    store.end_drill(held, end(10, DrillOutcome::Passed)).await.unwrap();
}

/// Its maker is there.
pub async fn a_renewed_drill_is_not_lost(store: &dyn Store) {
    let backup = made(store, new_backup("p", 0)).await;
    let held = store.begin_drill(drill("p", backup, 1), &hasty("x")).await.unwrap();
    store.renew_drill(held, Duration::from_mins(10)).await.unwrap();
    let other = store.begin_drill(drill("p", backup, 2), &hasty("x")).await.unwrap();
    // When the other's claim has run out, this one's would have, too.
    let lost = eventually(async || store.end_lost_drills(at(9), 9).await.unwrap().pop()).await;
    assert_eq!(lost.id, other);
    assert_eq!(store.end_lost_drills(at(9), 9).await.unwrap(), []);
    conflicts(store.renew_drill(DrillId(0), Duration::from_mins(1)).await);
}

/// Not found.
pub async fn an_unknown_drill_cannot_end(store: &dyn Store) {
    is_not_found(store.end_drill(DrillId(5), end(1, failed())).await);
}

/// Only then, and the latest time counts.
pub async fn a_backup_is_drilled_when_a_drill_passes(store: &dyn Store) {
    let backup = made(store, new_backup("p", 0)).await;
    let other = made(store, new_backup("p", 1)).await;
    let drilled_at = async |id| store.backup(id).await.unwrap().drilled_at;
    ended(store, "p", backup, 3, failed()).await;
    assert_eq!(drilled_at(backup).await, None);
    for second in [9, 5] {
        ended(store, "p", backup, second, DrillOutcome::Passed).await;
        assert_eq!(drilled_at(backup).await, Some(at(9)));
    }
    assert_eq!(drilled_at(other).await, None);
}

/// It was drilled; that stays known.
pub async fn a_drill_outlives_its_backup(store: &dyn Store) {
    let backup = made(store, new_backup("p", 0)).await;
    let running = store.begin_drill(drill("p", backup, 1), &claimant("host")).await.unwrap();
    store.remove_backup(backup).await.unwrap();
    store.end_drill(running, end(2, DrillOutcome::Passed)).await.unwrap();
    assert_eq!(all(store).await[0].drill.backup, backup);
}

/// Newest first, of one plan or of all, page by page.
pub async fn drills_come_newest_first(store: &dyn Store) {
    let (p, q) = (made(store, new_backup("p", 0)).await, made(store, new_backup("q", 0)).await);
    let mut made_ids = Vec::new();
    for second in 0..5 {
        let (plan, backup) = if second % 2 == 0 { ("p", p) } else { ("q", q) };
        made_ids.push(ended(store, plan, backup, second, failed()).await);
    }
    assert!(made_ids.is_sorted_by(|one, next| one < next), "{made_ids:?}");
    made_ids.reverse();
    let page = async |plan: Option<&str>, before, limit| {
        let query = DrillQuery { plan: plan.map(Into::into), before, limit };
        ids(&store.drills(query).await.unwrap())
    };
    assert_eq!(page(None, None, 3).await, made_ids[..3]);
    assert_eq!(page(None, Some(made_ids[2]), 3).await, made_ids[3..]);
    assert_eq!(page(Some("q"), None, 9).await, [made_ids[1], made_ids[3]]);
    assert_eq!(page(None, None, 0).await, []);
}

/// Of that plan; neither one that failed nor one that has not ended.
pub async fn the_last_passed_drill_is_found(store: &dyn Store) {
    let (p, q) = (made(store, new_backup("p", 0)).await, made(store, new_backup("q", 0)).await);
    let passed = ended(store, "p", p, 1, DrillOutcome::Passed).await;
    ended(store, "p", p, 2, failed()).await;
    ended(store, "q", q, 3, DrillOutcome::Passed).await;
    store.begin_drill(drill("p", p, 4), &claimant("host")).await.unwrap();
    let last = store.last_passed_drill(&"p".into()).await.unwrap().unwrap();
    assert_eq!(last.id, passed);
}

/// By the time of their end, in small batches; of each plan the last that passed stays, and so does one that runs.
pub async fn pruning_drills_leaves_the_last_passed(store: &dyn Store) {
    let (p, q) = (made(store, new_backup("p", 0)).await, made(store, new_backup("q", 0)).await);
    let passed = || DrillOutcome::Passed;
    let first = ended(store, "p", p, 1, passed()).await;
    let last = ended(store, "p", p, 2, passed()).await;
    let broken = ended(store, "p", p, 3, failed()).await;
    let of_q = ended(store, "q", q, 4, passed()).await;
    let running = store.begin_drill(drill("p", p, 0), &claimant("host")).await.unwrap();
    assert_eq!(store.prune_drills(at(1), 9).await.unwrap(), 0);
    assert_eq!(store.prune_drills(at(99), 1).await.unwrap(), 1);
    assert!(!ids(&all(store).await).contains(&first));
    assert_eq!(store.prune_drills(at(99), 9).await.unwrap(), 1);
    assert!(!ids(&all(store).await).contains(&broken));
    assert_eq!(store.prune_drills(at(99), 9).await.unwrap(), 0);
    assert_eq!(ids(&all(store).await), [running, of_q, last]);
}
