//! Rules of [`RunStore`](crate::store::RunStore).

use super::{T0, UNICODE, at, name, run, together};
use crate::{
    Timestamp,
    id::{BootId, ProcessIdentity, RunId},
    store::{RunEnd, RunRecord, Store},
    supervisor::{ExitStatus, Signal},
};

fn code(seconds: u64, code: i32) -> RunEnd {
    RunEnd { at: at(seconds), status: ExitStatus::Code(code) }
}

fn ids(runs: &[RunRecord]) -> Vec<i64> {
    runs.iter().map(|run| run.id.0).collect()
}

async fn all(store: &dyn Store, instance: &str) -> Vec<RunRecord> {
    store.runs(&name(instance), u32::MAX).await.unwrap()
}

/// Begins runs 1 to `count` of `web`, one a second, and ends each half a minute later.
async fn ended(store: &dyn Store, count: i64) {
    for id in 1..=count {
        let second = id.cast_unsigned();
        store.begin_run(run(id, "web", at(second))).await.unwrap();
        store.end_run(RunId(id), code(30 + second, 0)).await.unwrap();
    }
}

/// Empty lists, not errors.
pub async fn a_new_store_has_no_runs(store: &dyn Store) {
    assert_eq!(store.open_runs().await.unwrap(), []);
    assert_eq!(all(store, "web").await, []);
}

/// Every field of a run is kept.
pub async fn a_run_comes_back_as_begun(store: &dyn Store) {
    let begun = run(7, "web", at(1));
    store.begin_run(begun.clone()).await.unwrap();
    for found in [store.open_runs().await.unwrap(), all(store, "web").await] {
        assert_eq!(found, std::slice::from_ref(&begun));
    }
}

/// Large process numbers and all 64 bits of the start's ticks are kept; the boot may have no name.
pub async fn a_process_identity_keeps_all_its_bits(store: &dyn Store) {
    for (id, start_ticks, boot) in [(1, u64::MAX, ""), (2, 1 << 63, UNICODE), (3, 0, "x")] {
        let boot_id = BootId(boot.into());
        let process = ProcessIdentity { pid: i32::MAX, start_ticks, boot_id };
        let begun = RunRecord { process, ..run(id, &format!("bot-{id}"), T0) };
        store.begin_run(begun.clone()).await.unwrap();
        assert_eq!(all(store, &format!("bot-{id}")).await, [begun]);
    }
}

/// Run ids are the caller's, up to the largest.
pub async fn run_ids_keep_63_bits(store: &dyn Store) {
    store.begin_run(run(i64::MAX, "web", T0)).await.unwrap();
    store.begin_run(run(i64::MAX - 1, "web", T0)).await.unwrap();
    assert_eq!(ids(&all(store, "web").await), [i64::MAX, i64::MAX - 1]);
}

/// The first record stays, even if the second differs.
pub async fn beginning_a_run_twice_changes_nothing(store: &dyn Store) {
    store.begin_run(run(7, "web", at(1))).await.unwrap();
    store.begin_run(run(7, "web", at(2))).await.unwrap();
    store.begin_run(run(7, "other", at(3))).await.unwrap();
    assert_eq!(all(store, "web").await, [run(7, "web", at(1))]);
    assert_eq!(all(store, "other").await, []);
}

/// A run that has ended stays ended.
pub async fn beginning_an_ended_run_does_not_reopen_it(store: &dyn Store) {
    store.begin_run(run(7, "web", at(1))).await.unwrap();
    store.end_run(RunId(7), code(5, 1)).await.unwrap();
    store.begin_run(run(7, "web", at(1))).await.unwrap();
    assert_eq!(store.open_runs().await.unwrap(), []);
    assert_eq!(all(store, "web").await.first().unwrap().end, Some(code(5, 1)));
}

/// A run may be recorded when it is over already.
pub async fn a_run_may_begin_with_its_end(store: &dyn Store) {
    let whole = RunRecord { end: Some(code(4, 3)), ..run(7, "web", at(1)) };
    store.begin_run(whole.clone()).await.unwrap();
    assert_eq!(store.open_runs().await.unwrap(), []);
    assert_eq!(all(store, "web").await, [whole]);
}

/// Whatever comes later changes nothing.
pub async fn the_first_end_of_a_run_stays(store: &dyn Store) {
    store.begin_run(run(7, "web", at(1))).await.unwrap();
    store.end_run(RunId(7), code(5, 1)).await.unwrap();
    store.end_run(RunId(7), code(6, 2)).await.unwrap();
    let unknown = RunEnd { at: at(7), status: ExitStatus::Unknown };
    store.end_run(RunId(7), unknown).await.unwrap();
    assert_eq!(all(store, "web").await.first().unwrap().end, Some(code(5, 1)));
}

/// "Unknown" is an end as well: no later guess takes its place.
pub async fn an_unknown_end_stays_too(store: &dyn Store) {
    store.begin_run(run(7, "web", at(1))).await.unwrap();
    let unknown = RunEnd { at: at(5), status: ExitStatus::Unknown };
    store.end_run(RunId(7), unknown.clone()).await.unwrap();
    store.end_run(RunId(7), code(6, 0)).await.unwrap();
    assert_eq!(all(store, "web").await.first().unwrap().end, Some(unknown));
}

/// It makes no run, and a later beginning is open.
pub async fn the_end_of_an_unknown_run_is_no_error(store: &dyn Store) {
    store.end_run(RunId(7), code(5, 1)).await.unwrap();
    store.begin_run(run(7, "web", at(1))).await.unwrap();
    assert_eq!(ids(&store.open_runs().await.unwrap()), [7]);
}

/// Each kind of end comes back as it was.
pub async fn every_exit_status_comes_back(store: &dyn Store) {
    let killed = |signal, core_dumped| ExitStatus::Signal { signal, core_dumped };
    let statuses = [
        ExitStatus::Code(0),
        ExitStatus::Code(255),
        ExitStatus::Code(-1),
        killed(Signal::KILL, false),
        killed(Signal::new(6).unwrap(), true),
        killed(Signal::new(64).unwrap(), false),
        ExitStatus::Unknown,
    ];
    for (id, status) in (1..).zip(statuses) {
        store.begin_run(run(id, "web", T0)).await.unwrap();
        store.end_run(RunId(id), RunEnd { at: at(9), status }).await.unwrap();
    }
    let mut found: Vec<_> =
        all(store, "web").await.into_iter().filter_map(|run| Some(run.end?.status)).collect();
    found.reverse();
    assert_eq!(found, statuses);
}

/// To the microsecond, at both ends.
pub async fn run_times_keep_microseconds(store: &dyn Store) {
    let started_at = Timestamp(1_790_000_000_123_457);
    let end = RunEnd { at: Timestamp(1_790_000_000_123_458), status: ExitStatus::Code(0) };
    let whole = RunRecord { end: Some(end.clone()), ..run(7, "web", started_at) };
    store.begin_run(RunRecord { end: None, ..whole.clone() }).await.unwrap();
    store.end_run(RunId(7), end).await.unwrap();
    assert_eq!(all(store, "web").await, [whole]);
}

/// Of all instances, by id.
pub async fn open_runs_come_oldest_first(store: &dyn Store) {
    for (id, instance) in [(3, "a"), (1, "b"), (2, "a")] {
        store.begin_run(run(id, instance, at(id.cast_unsigned()))).await.unwrap();
    }
    assert_eq!(ids(&store.open_runs().await.unwrap()), [1, 2, 3]);
}

/// Only those without an end.
pub async fn ended_runs_are_not_open(store: &dyn Store) {
    for id in 1..=4 {
        store.begin_run(run(id, "web", at(1))).await.unwrap();
    }
    store.end_run(RunId(2), code(2, 0)).await.unwrap();
    store.end_run(RunId(4), code(2, 0)).await.unwrap();
    assert_eq!(ids(&store.open_runs().await.unwrap()), [1, 3]);
}

/// By id, whatever the order in which they were recorded; no other instance's.
pub async fn runs_come_newest_first(store: &dyn Store) {
    for (id, instance) in [(2, "web"), (5, "web"), (4, "other"), (1, "web"), (3, "web-2")] {
        store.begin_run(run(id, instance, at(id.cast_unsigned()))).await.unwrap();
    }
    assert_eq!(ids(&all(store, "web").await), [5, 2, 1]);
}

/// The newest remain; a limit of zero gives none.
pub async fn runs_are_limited_to_the_newest(store: &dyn Store) {
    ended(store, 5).await;
    assert_eq!(ids(&store.runs(&name("web"), 2).await.unwrap()), [5, 4]);
    assert_eq!(store.runs(&name("web"), 0).await.unwrap(), []);
}

/// A run that ended at the very time stays; open runs stay however old they are.
pub async fn runs_are_pruned_by_the_time_of_their_end(store: &dyn Store) {
    ended(store, 4).await;
    store.begin_run(run(9, "web", Timestamp(0))).await.unwrap();
    assert_eq!(store.prune_runs(at(33), 100).await.unwrap(), 2);
    assert_eq!(ids(&all(store, "web").await), [9, 4, 3]);
}

/// At most so many at once, those first that ended first; then the rest, then none.
pub async fn runs_are_pruned_in_small_batches(store: &dyn Store) {
    ended(store, 5).await;
    assert_eq!(store.prune_runs(at(1_000), 2).await.unwrap(), 2);
    assert_eq!(ids(&all(store, "web").await), [5, 4, 3]);
    assert_eq!(store.prune_runs(at(1_000), 0).await.unwrap(), 0);
    assert_eq!(store.prune_runs(at(1_000), u32::MAX).await.unwrap(), 3);
    assert_eq!(store.prune_runs(at(1_000), 2).await.unwrap(), 0);
}

/// Runs begun and ended at once are all there.
pub async fn concurrent_runs_are_all_there(store: &dyn Store) {
    let calls = (1..=100).map(|id| async move {
        store.begin_run(run(id, "web", T0)).await?;
        store.end_run(RunId(id), code(1, 0)).await
    });
    for result in together(calls).await {
        result.unwrap();
    }
    assert_eq!(all(store, "web").await.len(), 100);
    assert_eq!(store.open_runs().await.unwrap(), []);
}
