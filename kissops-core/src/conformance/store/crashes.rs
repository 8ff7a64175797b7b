//! Rules of [`CrashStore`](crate::store::CrashStore).

use std::time::Duration;

use super::{T0, UNICODE, at, grow, name, numbered, together};
use crate::{
    Timestamp,
    id::RunId,
    store::{CrashQuery, CrashRecord, CrashReport, Store},
    supervisor::{ExitStatus, ResourceUse, Signal},
};

pub(super) fn report(instance: &str, at: Timestamp) -> CrashReport {
    CrashReport {
        instance: name(instance),
        run: RunId(1),
        at,
        status: ExitStatus::Code(1),
        reason: "exit code 1".into(),
        out_of_memory: false,
        uptime: Duration::from_secs(9),
        usage: None,
        restarts: 0,
        last_lines: Vec::new(),
    }
}

async fn add(store: &dyn Store, reports: &[(&str, u64)]) {
    for (i, (instance, second)) in reports.iter().enumerate() {
        let reason = i.to_string();
        store.add_crash(CrashReport { reason, ..report(instance, at(*second)) }).await.unwrap();
    }
}

fn limit(limit: u32) -> CrashQuery {
    CrashQuery { limit, ..CrashQuery::default() }
}

async fn find(store: &dyn Store, query: CrashQuery) -> Vec<CrashRecord> {
    store.crashes(query).await.unwrap()
}

async fn reasons(store: &dyn Store, query: CrashQuery) -> Vec<String> {
    find(store, query).await.into_iter().map(|record| record.report.reason).collect()
}

async fn comes_back(store: &dyn Store, report: CrashReport) {
    let id = store.add_crash(report.clone()).await.unwrap();
    assert_eq!(find(store, limit(1)).await, [CrashRecord { id, report }]);
}

/// An empty list, not an error.
pub async fn a_new_store_has_no_crashes(store: &dyn Store) {
    assert_eq!(find(store, limit(9)).await, []);
}

/// Every field of a report is kept.
pub async fn a_crash_comes_back_as_added(store: &dyn Store) {
    let usage = ResourceUse {
        user_time: Duration::from_micros(1_234_567),
        system_time: Duration::from_micros(89),
        max_rss_bytes: 350 << 20,
    };
    let report = CrashReport {
        run: RunId(i64::MAX),
        status: ExitStatus::Signal { signal: Signal::KILL, core_dumped: false },
        reason: "killed by SIGKILL (out of memory)".into(),
        out_of_memory: true,
        uptime: Duration::from_micros(3_600_000_001),
        usage: Some(usage),
        restarts: 12,
        last_lines: vec!["one".into(), "two".into()],
        ..report("web", at(4))
    };
    comes_back(store, report).await;
}

/// A report of a process whose use nobody knows has none, which is not a use of zero.
pub async fn unknown_usage_is_not_zero_usage(store: &dyn Store) {
    comes_back(store, report("web", T0)).await;
    comes_back(store, CrashReport { usage: Some(ResourceUse::default()), ..report("web", T0) })
        .await;
}

/// Each kind of end comes back as it was.
pub async fn every_crash_status_comes_back(store: &dyn Store) {
    let segv = Signal::new(11).unwrap();
    for status in [
        ExitStatus::Code(0),
        ExitStatus::Code(-1),
        ExitStatus::Signal { signal: segv, core_dumped: true },
        ExitStatus::Signal { signal: segv, core_dumped: false },
        ExitStatus::Unknown,
    ] {
        comes_back(store, CrashReport { status, ..report("web", T0) }).await;
    }
}

/// Counters and sizes keep all of their 64 bits.
pub async fn crash_counters_keep_64_bits(store: &dyn Store) {
    let usage = ResourceUse { max_rss_bytes: u64::MAX, ..ResourceUse::default() };
    let report = CrashReport { restarts: u64::MAX, usage: Some(usage), ..report("web", T0) };
    comes_back(store, report).await;
}

/// Lines keep their order, empty ones, and all of Unicode.
pub async fn last_lines_come_back_in_order(store: &dyn Store) {
    let mut last_lines: Vec<String> = (0..50).rev().map(|i| format!("line {i}")).collect();
    last_lines.extend([String::new(), UNICODE.into(), "\u{1b}[31mred\u{1b}[0m \u{fffd}".into()]);
    comes_back(store, CrashReport { last_lines, ..report("web", T0) }).await;
}

/// To the microsecond, spans as well.
pub async fn crash_times_keep_microseconds(store: &dyn Store) {
    let uptime = Duration::from_micros(1);
    comes_back(store, CrashReport { uptime, ..report("web", Timestamp(1_790_000_000_123_457)) })
        .await;
    comes_back(store, CrashReport { uptime: Duration::ZERO, ..report("web", Timestamp(-1)) }).await;
}

/// From call to call, and after everything was pruned.
pub async fn crash_ids_grow(store: &dyn Store) {
    let mut ids = Vec::new();
    for second in (0..20).rev() {
        ids.push(store.add_crash(report("web", at(second))).await.unwrap());
    }
    store.prune_crashes(at(100), 100).await.unwrap();
    ids.push(store.add_crash(report("web", at(0))).await.unwrap());
    assert!(grow(&ids), "{ids:?}");
}

/// By id, the latest so many; a limit of zero gives none.
pub async fn crashes_come_newest_first(store: &dyn Store) {
    add(store, &[("a", 5), ("b", 1), ("a", 3)]).await;
    assert_eq!(reasons(store, limit(9)).await, ["2", "1", "0"]);
    assert_eq!(reasons(store, limit(2)).await, ["2", "1"]);
    assert_eq!(reasons(store, limit(0)).await, [""; 0]);
}

/// All when no instance is named; else only theirs.
pub async fn crashes_are_found_by_instance(store: &dyn Store) {
    add(store, &[("a", 0), ("b", 0), ("a-2", 0), ("c", 0), ("a", 0)]).await;
    let of = |names: &[&str]| CrashQuery {
        instances: names.iter().map(|text| name(text)).collect(),
        ..limit(9)
    };
    assert_eq!(reasons(store, of(&["a"])).await, ["4", "0"]);
    assert_eq!(reasons(store, of(&["c", "a", "nobody"])).await, ["4", "3", "0"]);
    assert_eq!(reasons(store, of(&["nobody"])).await, [""; 0]);
}

/// The time itself is included.
pub async fn crashes_are_found_since_a_time(store: &dyn Store) {
    add(store, &[("a", 1), ("a", 3), ("b", 2), ("a", 2)]).await;
    let since = Some(at(2));
    assert_eq!(reasons(store, CrashQuery { since, ..limit(9) }).await, ["3", "2", "1"]);
    let query = CrashQuery { since, instances: vec![name("a")], limit: 1 };
    assert_eq!(reasons(store, query).await, ["3"]);
}

/// Those that are older, the oldest first, at most so many at once.
pub async fn crashes_are_pruned_in_small_batches(store: &dyn Store) {
    add(store, &[("a", 5), ("a", 1), ("a", 3), ("a", 2)]).await;
    assert_eq!(store.prune_crashes(at(5), 2).await.unwrap(), 2);
    assert_eq!(reasons(store, limit(9)).await, ["2", "0"]);
    assert_eq!(store.prune_crashes(at(5), 0).await.unwrap(), 0);
    assert_eq!(store.prune_crashes(at(5), 9).await.unwrap(), 1);
    assert_eq!(store.prune_crashes(at(5), 9).await.unwrap(), 0);
    assert_eq!(reasons(store, limit(9)).await, ["0"]);
}

/// Pruning of one kind of record leaves the others.
pub async fn pruning_touches_one_kind_of_record(store: &dyn Store) {
    add(store, &[("a", 0)]).await;
    numbered(store, "a", 1).await;
    store.begin_run(super::run(1, "a", T0)).await.unwrap();
    assert_eq!(store.prune_crashes(at(100), 9).await.unwrap(), 1);
    assert_eq!(store.prune_runs(at(100), 9).await.unwrap(), 0);
    assert_eq!(store.prune_events(at(100), 9).await.unwrap(), 1);
    assert_eq!(store.open_runs().await.unwrap().len(), 1);
}

/// A hundred reports at once are all there, each under an id of its own.
pub async fn concurrent_crashes_are_all_there_once(store: &dyn Store) {
    let calls = (0..100).map(|i| {
        let reason = i.to_string();
        store.add_crash(CrashReport { reason, ..report("web", T0) })
    });
    let mut ids: Vec<_> = together(calls).await.into_iter().map(Result::unwrap).collect();
    ids.sort_unstable();
    assert!(grow(&ids), "none twice: {ids:?}");
    let mut found = reasons(store, limit(1_000)).await;
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 100);
}
