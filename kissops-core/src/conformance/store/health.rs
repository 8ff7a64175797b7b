//! Rules of [`HealthStore`](crate::store::HealthStore).

use std::{collections::BTreeMap, time::Duration};

use super::{UNICODE, together};
use crate::{
    Error, Timestamp,
    store::{
        HistoryQuery, ProbeResult, ProbeSample, ProbeStatus, RollUp, RollUpSpan, StatusCounts,
        Store, ValueRange,
    },
};

use ProbeStatus::{Fail, Pass, Unknown, Warn};
use RollUpSpan::{Hour, Minute};

/// A full hour.
const HOUR: Timestamp = Timestamp(1_790_002_800_000_000);

fn at(second: u64) -> Timestamp {
    HOUR.plus(Duration::from_secs(second))
}

fn result(probe: &str, second: u64, status: ProbeStatus) -> ProbeResult {
    ProbeResult {
        probe: probe.into(),
        at: at(second),
        status,
        value: None,
        unit: "ratio".into(),
        message: format!("{status} at {second}"),
        details: BTreeMap::new(),
        took: Duration::from_micros(1_500),
    }
}

fn reading(second: u64, value: f64) -> ProbeResult {
    ProbeResult { value: Some(value), ..result("disk", second, Pass) }
}

async fn record(store: &dyn Store, results: &[ProbeResult]) {
    store.record_results(results.to_vec()).await.unwrap();
}

fn span(since: u64, until: u64) -> HistoryQuery {
    HistoryQuery { probe: "disk".into(), since: at(since), until: at(until), limit: u32::MAX }
}

async fn samples(store: &dyn Store, query: HistoryQuery) -> Vec<ProbeSample> {
    store.samples(query).await.unwrap()
}

async fn roll_ups(store: &dyn Store, of: RollUpSpan, query: HistoryQuery) -> Vec<RollUp> {
    store.roll_ups(of, query).await.unwrap()
}

fn seconds(samples: &[ProbeSample]) -> Vec<u64> {
    samples.iter().map(|one| one.at.since(HOUR).as_secs()).collect()
}

fn starts(all: &[RollUp]) -> Vec<u64> {
    all.iter().map(|one| one.start.since(HOUR).as_secs()).collect()
}

fn counts(pass: u64, warn: u64, fail: u64, unknown: u64) -> StatusCounts {
    StatusCounts { pass, warn, fail, unknown }
}

/// Empty lists, not errors; nothing found is no uptime.
pub async fn a_new_store_has_no_results(store: &dyn Store) {
    record(store, &[]).await;
    assert_eq!(store.latest_results().await.unwrap(), []);
    assert_eq!(samples(store, span(0, 99)).await, []);
    store.roll_up(at(0), at(99)).await.unwrap();
    assert_eq!(roll_ups(store, Minute, span(0, 99)).await, []);
    let none = store.status_counts(Hour, &"disk".into(), at(0), at(99)).await.unwrap();
    assert_eq!((none, none.uptime()), (StatusCounts::default(), None));
}

/// Every field of the latest is kept; history keeps what is not words.
pub async fn a_result_comes_back_as_recorded(store: &dyn Store) {
    let whole = ProbeResult {
        probe: UNICODE.into(),
        at: Timestamp(1_790_000_000_123_457),
        status: Warn,
        value: Some(0.123_456_789_012_345_67),
        unit: UNICODE.into(),
        message: UNICODE.into(),
        details: BTreeMap::from([(UNICODE.into(), UNICODE.into()), (String::new(), String::new())]),
        took: Duration::from_micros(1_234_567),
    };
    record(store, std::slice::from_ref(&whole)).await;
    assert_eq!(store.latest_results().await.unwrap(), std::slice::from_ref(&whole));
    let query = HistoryQuery {
        probe: UNICODE.into(),
        since: whole.at,
        until: Timestamp(whole.at.0 + 1),
        limit: 9,
    };
    let sample = ProbeSample { at: whole.at, status: Warn, value: whole.value, took: whole.took };
    assert_eq!(samples(store, query).await, [sample]);
}

/// Large, small, negative, whole; and none at all.
pub async fn measured_values_keep_all_their_bits(store: &dyn Store) {
    let values = [0.1, 1e308, 5e-324, -1.5, 3.0, 9_007_199_254_740_993.0, f64::MIN_POSITIVE];
    for (second, value) in (0..).zip(values) {
        record(store, &[reading(second, value)]).await;
        assert_eq!(store.latest_results().await.unwrap()[0].value, Some(value));
    }
    record(store, &[result("disk", 90, Pass)]).await;
    assert_eq!(store.latest_results().await.unwrap()[0].value, None);
    let mut expected: Vec<_> = values.map(Some).into();
    expected.push(None);
    let found: Vec<_> = samples(store, span(0, 99)).await.iter().map(|one| one.value).collect();
    assert_eq!(found, expected);
}

/// Neither engine could keep it; nothing of the rest is kept then.
pub async fn a_value_that_is_no_number_is_refused(store: &dyn Store) {
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let err = store.record_results(vec![reading(1, 1.0), reading(2, odd)]).await.unwrap_err();
        assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
    }
    assert_eq!(samples(store, span(0, 99)).await, []);
}

/// Each of them.
pub async fn every_probe_status_comes_back(store: &dyn Store) {
    let results = ProbeStatus::ALL.iter().map(|one| result(one.as_str(), 1, *one));
    store.record_results(results.collect()).await.unwrap();
    let mut found: Vec<_> =
        store.latest_results().await.unwrap().iter().map(|one| one.status).collect();
    found.sort_unstable();
    assert_eq!(found, ProbeStatus::ALL);
}

/// One of each probe, by name.
pub async fn the_latest_results_are_one_of_each_probe(store: &dyn Store) {
    for second in 1..4 {
        record(store, &[result("b", second, Pass), result("a", second, Fail)]).await;
    }
    let expected = [result("a", 3, Fail), result("b", 3, Pass)];
    assert_eq!(store.latest_results().await.unwrap(), expected);
}

/// By its time, whatever the order in which they come.
pub async fn a_late_result_is_not_the_latest(store: &dyn Store) {
    record(store, &[result("disk", 5, Pass)]).await;
    record(store, &[result("disk", 3, Fail)]).await;
    record(store, &[result("disk", 9, Warn), result("disk", 7, Fail)]).await;
    assert_eq!(store.latest_results().await.unwrap(), [result("disk", 9, Warn)]);
    assert_eq!(seconds(&samples(store, span(0, 99)).await), [3, 5, 7, 9]);
}

/// The first stays, in both places.
pub async fn a_result_of_the_same_time_replaces_nothing(store: &dyn Store) {
    record(store, &[result("disk", 5, Pass)]).await;
    record(store, &[result("disk", 5, Fail), result("other", 1, Pass), result("other", 1, Fail)])
        .await;
    let expected = [result("disk", 5, Pass), result("other", 1, Pass)];
    assert_eq!(store.latest_results().await.unwrap(), expected);
    assert_eq!(samples(store, span(0, 99)).await[0].status, Pass);
}

/// One call may bring any number of results, of many probes and several of one.
pub async fn many_results_are_recorded_at_once(store: &dyn Store) {
    for count in [1, 7, 8, 9, 63, 64, 65, 200] {
        let probe = |i| format!("{count}-{}", i / 2);
        let results = (0..count).map(|i| result(&probe(i), i + 1, Pass)).rev();
        store.record_results(results.collect()).await.unwrap();
        for i in 0..count {
            let query = HistoryQuery { probe: probe(i).as_str().into(), ..span(0, 999) };
            let expected = if i / 2 * 2 + 1 < count { 2 } else { 1 };
            assert_eq!(samples(store, query).await.len(), expected, "{i} of {count}");
        }
    }
    let latest = store.latest_results().await.unwrap();
    assert_eq!(latest.len(), 1 + 4 + 4 + 5 + 32 + 32 + 33 + 100);
    let last = latest.iter().find(|one| one.probe.as_str() == "200-99").unwrap();
    assert_eq!(*last, result("200-99", 200, Pass));
}

/// Many results at once, from several places: all are there, and the latest is the latest.
pub async fn concurrent_results_are_all_there(store: &dyn Store) {
    let calls = (0..20).map(|i| {
        let results = (0..5).map(|probe| result(&format!("p{}", (i + probe) % 5), i, Pass));
        store.record_results(results.collect())
    });
    for recorded in together(calls).await {
        recorded.unwrap();
    }
    let latest = store.latest_results().await.unwrap();
    assert_eq!(latest.len(), 5);
    assert!(latest.iter().all(|one| one.at == at(19)), "{latest:?}");
    for probe in 0..5 {
        let query = HistoryQuery { probe: format!("p{probe}").as_str().into(), ..span(0, 99) };
        assert_eq!(samples(store, query).await.len(), 20);
    }
}

/// Of one probe, oldest first; the first time is included, the last is not.
pub async fn samples_are_found_by_their_time(store: &dyn Store) {
    for second in [4, 1, 3, 2] {
        record(store, &[result("disk", second, Pass), result("other", second, Fail)]).await;
    }
    let found = samples(store, span(2, 4)).await;
    assert_eq!(seconds(&found), [2, 3]);
    assert!(found.iter().all(|one| one.status == Pass));
    let first = HistoryQuery { limit: 2, ..span(0, 99) };
    assert_eq!(seconds(&samples(store, first).await), [1, 2]);
    assert_eq!(samples(store, HistoryQuery { limit: 0, ..span(0, 99) }).await, []);
    assert_eq!(samples(store, span(4, 2)).await, []);
}

/// Its history stays, and so do the others.
pub async fn a_forgotten_probe_has_no_latest_result(store: &dyn Store) {
    record(store, &[result("disk", 1, Pass), result("other", 1, Pass)]).await;
    store.forget_probe(&"disk".into()).await.unwrap();
    store.forget_probe(&"unknown".into()).await.unwrap();
    assert_eq!(store.latest_results().await.unwrap(), [result("other", 1, Pass)]);
    assert_eq!(samples(store, span(0, 99)).await.len(), 1);
}

/// Each minute counts what was found in it, from its first microsecond to its last.
pub async fn minutes_sum_up_their_results(store: &dyn Store) {
    let last = ProbeResult { at: Timestamp(at(60).0 - 1), ..result("disk", 0, Fail) };
    let first = [(0, Pass), (10, Pass), (20, Warn), (30, Unknown)];
    let second = [(60, Fail), (119, Pass)];
    for (second, status) in first.into_iter().chain(second) {
        record(store, &[result("disk", second, status)]).await;
    }
    record(store, &[last]).await;
    store.roll_up(at(0), at(120)).await.unwrap();
    let of = |start, counts| RollUp { start: at(start), counts, values: None };
    let expected = [of(0, counts(2, 1, 1, 1)), of(60, counts(1, 0, 1, 0))];
    assert_eq!(roll_ups(store, Minute, span(0, 3_600)).await, expected);
}

/// How many, the smallest, the largest, and their sum; a result without one does not count.
pub async fn roll_ups_sum_up_measured_values(store: &dyn Store) {
    let results: Vec<_> =
        [(1, 0.5), (2, -2.0), (3, 8.25), (61, 1.0)].map(|(at, value)| reading(at, value)).into();
    record(store, &results).await;
    record(store, &[result("disk", 4, Pass), result("disk", 121, Pass)]).await;
    store.roll_up(at(0), at(180)).await.unwrap();
    let range = |count, min, max, sum| Some(ValueRange { count, min, max, sum });
    let minutes: Vec<_> =
        roll_ups(store, Minute, span(0, 180)).await.iter().map(|one| one.values).collect();
    assert_eq!(minutes, [range(3, -2.0, 8.25, 6.75), range(1, 1.0, 1.0, 1.0), None]);
    let hours = roll_ups(store, Hour, span(0, 180)).await;
    assert_eq!(hours[0].values, range(4, -2.0, 8.25, 7.75));
}

/// What the hour says is what its samples say.
pub async fn hours_equal_what_the_samples_say(store: &dyn Store) {
    let statuses = [Pass, Pass, Warn, Fail, Unknown, Pass, Fail];
    let results: Vec<_> = (0..720_u64)
        .zip(statuses.into_iter().cycle())
        .map(|(i, status)| result("disk", i * 10, status))
        .collect();
    record(store, &results).await;
    store.roll_up(at(0), at(7_200)).await.unwrap();
    for (of, length) in [(Minute, 60), (Hour, 3_600)] {
        let rolled = roll_ups(store, of, span(0, 7_200)).await;
        assert_eq!(starts(&rolled), (0..7_200).step_by(length).collect::<Vec<_>>());
        for one in rolled {
            let until = one.start.plus(of.length());
            let query = HistoryQuery { since: one.start, until, ..span(0, 0) };
            let raw = samples(store, query).await;
            let number = |status| {
                u64::try_from(raw.iter().filter(|one| one.status == status).count()).unwrap()
            };
            let expected = counts(number(Pass), number(Warn), number(Fail), number(Unknown));
            assert_eq!(one.counts, expected, "{of} at {}", one.start);
        }
    }
}

/// Each has its own.
pub async fn probes_are_rolled_up_apart(store: &dyn Store) {
    record(store, &[result("disk", 1, Pass), result("other", 2, Fail)]).await;
    store.roll_up(at(0), at(60)).await.unwrap();
    assert_eq!(roll_ups(store, Minute, span(0, 60)).await[0].counts, counts(1, 0, 0, 0));
    let other = HistoryQuery { probe: "other".into(), ..span(0, 60) };
    assert_eq!(roll_ups(store, Hour, other).await[0].counts, counts(0, 0, 1, 0));
}

/// The hours around both ends are taken whole.
pub async fn a_part_of_an_hour_rolls_up_all_of_it(store: &dyn Store) {
    for second in [5, 1_800, 3_599, 3_600, 7_000, 7_200] {
        record(store, &[result("disk", second, Pass)]).await;
    }
    store.roll_up(at(1_900), at(3_601)).await.unwrap();
    let hours = roll_ups(store, Hour, span(0, 9_999)).await;
    assert_eq!(hours.iter().map(|one| one.counts.pass).collect::<Vec<_>>(), [3, 2]);
}

/// Twice the same, nothing counts twice; what came late is counted then.
pub async fn rolling_up_can_be_repeated(store: &dyn Store) {
    record(store, &[reading(1, 1.0), reading(2, 2.0)]).await;
    store.roll_up(at(0), at(60)).await.unwrap();
    let once = roll_ups(store, Hour, span(0, 60)).await;
    store.roll_up(at(0), at(60)).await.unwrap();
    assert_eq!(roll_ups(store, Hour, span(0, 60)).await, once);
    record(store, &[reading(3, 3.0)]).await;
    store.roll_up(at(0), at(60)).await.unwrap();
    let values = Some(ValueRange { count: 3, min: 1.0, max: 3.0, sum: 6.0 });
    assert_eq!(roll_ups(store, Minute, span(0, 60)).await[0].values, values);
    assert_eq!(roll_ups(store, Hour, span(0, 60)).await[0].values, values);
}

/// It said more once, and goes on to say it.
pub async fn a_roll_up_outlives_its_samples(store: &dyn Store) {
    let results: Vec<_> = (0..6).map(|second| result("disk", second, Pass)).collect();
    record(store, &results).await;
    store.roll_up(at(0), at(60)).await.unwrap();
    let before = roll_ups(store, Hour, span(0, 60)).await;
    for _ in 0..2 {
        assert_eq!(store.prune_samples(at(60), 3).await.unwrap(), 3);
        store.roll_up(at(0), at(60)).await.unwrap();
        assert_eq!(roll_ups(store, Minute, span(0, 60)).await[0].counts.pass, 6);
        assert_eq!(roll_ups(store, Hour, span(0, 60)).await, before);
    }
    assert_eq!(store.prune_roll_ups(Minute, at(60), 9).await.unwrap(), 1);
    store.roll_up(at(0), at(60)).await.unwrap();
    assert_eq!(roll_ups(store, Hour, span(0, 60)).await, before);
}

/// Of one length, oldest first, from the first time to before the last.
pub async fn roll_ups_are_found_by_their_time(store: &dyn Store) {
    let results: Vec<_> = (0..5).map(|minute| result("disk", minute * 60, Pass)).collect();
    record(store, &results).await;
    store.roll_up(at(0), at(300)).await.unwrap();
    assert_eq!(starts(&roll_ups(store, Minute, span(60, 180)).await), [60, 120]);
    let first = HistoryQuery { limit: 2, ..span(1, 999) };
    assert_eq!(starts(&roll_ups(store, Minute, first).await), [60, 120]);
    assert_eq!(starts(&roll_ups(store, Hour, span(0, 999)).await), [0]);
}

/// Warnings are up, what could not be told is neither.
pub async fn uptime_is_a_share_of_what_could_be_told(store: &dyn Store) {
    let found = [Pass, Pass, Warn, Fail, Unknown, Unknown];
    let results: Vec<_> =
        (0..).zip(found).map(|(minute, status)| result("disk", minute * 60, status)).collect();
    record(store, &results).await;
    store.roll_up(at(0), at(3_600)).await.unwrap();
    let of = async |span, since, until| {
        store.status_counts(span, &"disk".into(), at(since), at(until)).await.unwrap()
    };
    for span in [Minute, Hour] {
        let all = of(span, 0, 3_600).await;
        assert_eq!((all, all.uptime()), (counts(2, 1, 1, 2), Some(0.75)));
    }
    assert_eq!(of(Minute, 120, 240).await.uptime(), Some(0.5));
    assert_eq!(of(Minute, 240, 360).await.uptime(), None);
}

/// Of all probes, at most so many, never what is at that time or later; the latest result stays known.
pub async fn samples_are_pruned_oldest_first(store: &dyn Store) {
    for second in 0..4 {
        record(store, &[result("disk", second, Pass), result("other", second, Pass)]).await;
    }
    assert_eq!(store.prune_samples(at(3), 0).await.unwrap(), 0);
    assert_eq!(store.prune_samples(at(3), 4).await.unwrap(), 4);
    assert_eq!(seconds(&samples(store, span(0, 99)).await), [2, 3]);
    assert_eq!(store.prune_samples(at(3), 9).await.unwrap(), 2);
    assert_eq!(store.prune_samples(at(3), 9).await.unwrap(), 0);
    assert_eq!(store.prune_samples(at(99), 9).await.unwrap(), 2);
    assert_eq!(store.latest_results().await.unwrap().len(), 2);
}

/// Of one length, in small batches.
pub async fn roll_ups_are_pruned_oldest_first(store: &dyn Store) {
    let results: Vec<_> = (0..4).map(|minute| result("disk", minute * 60, Pass)).collect();
    record(store, &results).await;
    store.roll_up(at(0), at(300)).await.unwrap();
    assert_eq!(store.prune_roll_ups(Minute, at(180), 2).await.unwrap(), 2);
    assert_eq!(starts(&roll_ups(store, Minute, span(0, 999)).await), [120, 180]);
    assert_eq!(store.prune_roll_ups(Minute, at(180), 9).await.unwrap(), 1);
    assert_eq!(store.prune_roll_ups(Minute, at(180), 9).await.unwrap(), 0);
    assert_eq!(starts(&roll_ups(store, Hour, span(0, 999)).await), [0]);
    assert_eq!(store.prune_roll_ups(Hour, at(180), 9).await.unwrap(), 1);
}
