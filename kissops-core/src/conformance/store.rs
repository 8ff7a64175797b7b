//! The rules of [`Store`], each a function that panics where a store breaks it.
//!
//! Each rule wants an empty store of its own. [`store_conformance!`](crate::store_conformance) makes one test of each:
//!
//! ```
//! # use std::sync::Arc;
//! use kissops_core::store::{Store, sqlite::SqliteStore};
//! async fn scratch() -> Option<(Arc<dyn Store>, ())> {
//!     Some((Arc::new(SqliteStore::in_memory().unwrap()), ()))
//! }
//! kissops_core::store_conformance!(memory, scratch());
//! # fn main() {}
//! ```
//!
//! Where a rule has no text of its own, its name says it all.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "these are tests, made public")]

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use crate::{
    Timestamp,
    id::{BootId, InstanceName, ProcessIdentity, RecordId, RunId},
    store::{EventKind, EventRecord, NewEvent, RunRecord, Store},
};

mod crashes;
mod events;
mod instances;
mod members;
mod paging;
mod runs;

pub use self::{crashes::*, events::*, instances::*, members::*, paging::*, runs::*};

/// A text that needs all of UTF-8: accents, several bytes, beyond the basic plane, joined, right to left, quotes, lines.
const UNICODE: &str = "naïve 日本語 🦀 👩‍🚀 שלום \"'`;--\n\t\\ % _ \u{feff}";
const T0: Timestamp = Timestamp(1_790_000_000_000_001);

fn name(text: &str) -> InstanceName {
    InstanceName::new(text).unwrap()
}

fn at(seconds: u64) -> Timestamp {
    T0.plus(Duration::from_secs(seconds))
}

fn event(instance: Option<&str>, at: Timestamp, reason: &str) -> NewEvent {
    let kind = EventKind::Other("test.happened".into());
    NewEvent { at, instance: instance.map(name), kind, reason: reason.into() }
}

fn run(id: i64, instance: &str, started_at: Timestamp) -> RunRecord {
    let boot_id = BootId("f4c1d9a2-0000-4000-8000-000000000001".into());
    let pid = i32::try_from(id % 30_000).unwrap() + 2;
    let process = ProcessIdentity { pid, start_ticks: 12_345, boot_id };
    RunRecord { id: RunId(id), instance: name(instance), process, started_at, end: None }
}

fn reasons(events: &[EventRecord]) -> Vec<&str> {
    events.iter().map(|record| record.event.reason.as_str()).collect()
}

fn grow(ids: &[RecordId]) -> bool {
    ids.is_sorted_by(|one, next| one < next)
}

/// Appends events that differ in their reason and time: `0` at second 0, and so on.
async fn numbered(store: &dyn Store, instance: &str, count: u64) -> Vec<RecordId> {
    let events = (0..count).map(|i| event(Some(instance), at(i), &i.to_string())).collect();
    store.append_events(events).await.unwrap()
}

/// Drives all calls at once, on whatever runtime this is, and answers in their order.
async fn together<T>(calls: impl IntoIterator<Item: Future<Output = T>>) -> Vec<T> {
    let mut calls: Vec<Pin<Box<_>>> = calls.into_iter().map(Box::pin).collect();
    let mut answers: Vec<Option<T>> = calls.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (call, answer) in calls.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let Poll::Ready(ready) = call.as_mut().poll(cx)
            {
                *answer = Some(ready);
            }
        }
        if answers.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    answers.into_iter().flatten().collect()
}

/// Lets a call begin, then drops it.
async fn dropped_halfway(call: impl Future) {
    let mut call = pin!(call);
    poll_fn(|cx| {
        let _ = call.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

/// Makes one test of each rule of [`conformance::store`](crate::conformance::store), in a module of the given name.
///
/// The factory is an expression of a future that gives an `Arc` of an empty store, and whatever must be kept until the
/// test's end, such as the folder that it lies in; or `None`, where there is no server to test against: then the rule is
/// skipped. The caller's crate needs `tokio` with `macros` and `rt`.
#[macro_export]
macro_rules! store_conformance {
    (@rules $factory:expr; $($rule:ident)*) => { $(
        #[tokio::test]
        async fn $rule() {
            let Some((store, _kept)) = $factory.await else { return };
            $crate::conformance::store::$rule(&*store).await;
        }
    )* };
    ($name:ident, $factory:expr) => {
        mod $name {
            use super::*;
            $crate::store_conformance!(@rules $factory;
                a_new_store_has_no_instances
                an_instance_comes_back_as_put
                instances_are_sorted_by_name
                putting_an_instance_again_replaces_it_whole
                the_last_put_wins_whatever_its_time
                a_removed_instance_is_gone_alone
                removing_an_unknown_instance_is_no_error
                a_removed_instance_can_be_put_again
                instance_names_are_case_sensitive
                the_longest_instance_name_is_kept
                instance_text_is_unicode
                an_empty_reason_is_not_none
                restart_counters_keep_64_bits
                instance_times_keep_microseconds
                concurrent_puts_leave_one_whole_record
                concurrent_puts_of_many_names_are_all_there
                a_read_sees_every_acknowledged_put
                a_dropped_put_is_whole_or_nothing
                a_new_store_has_no_members
                a_member_comes_back_as_added
                members_are_sorted_by_name
                a_second_member_of_a_name_conflicts
                members_can_be_added_after_a_conflict
                a_removed_member_is_gone_alone
                removing_an_unknown_member_is_not_found
                a_member_is_removed_once
                a_removed_member_can_be_added_again
                member_vars_are_unicode
                member_times_keep_microseconds
                concurrent_adds_of_one_name_admit_one
                a_conflict_leaves_concurrent_adds_alone
                members_are_no_instances
                a_new_store_has_no_runs
                a_run_comes_back_as_begun
                a_process_identity_keeps_all_its_bits
                run_ids_keep_63_bits
                beginning_a_run_twice_changes_nothing
                beginning_an_ended_run_does_not_reopen_it
                a_run_may_begin_with_its_end
                the_first_end_of_a_run_stays
                an_unknown_end_stays_too
                the_end_of_an_unknown_run_is_no_error
                every_exit_status_comes_back
                run_times_keep_microseconds
                open_runs_come_oldest_first
                ended_runs_are_not_open
                runs_come_newest_first
                runs_are_limited_to_the_newest
                runs_are_pruned_by_the_time_of_their_end
                runs_are_pruned_in_small_batches
                concurrent_runs_are_all_there
                a_new_store_has_no_events
                appending_nothing_is_no_error
                an_event_comes_back_as_appended
                every_transition_comes_back
                other_kinds_come_back_as_their_word
                an_event_may_be_of_the_fleet
                event_reasons_are_any_text
                event_times_keep_microseconds
                event_ids_grow_in_the_order_given
                event_ids_grow_from_call_to_call
                event_ids_grow_although_times_fall
                event_ids_grow_after_everything_was_pruned
                event_ids_are_not_those_of_crashes
                concurrent_appends_are_all_there_once
                a_later_append_has_larger_ids_than_concurrent_earlier_ones
                a_dropped_append_is_whole_or_nothing
                events_are_pruned_by_their_time
                the_oldest_events_are_pruned_first
                events_are_pruned_in_small_batches
                events_without_after_are_the_latest
                events_after_an_id_are_the_next
                events_after_the_ends_are_none_and_all
                pages_have_no_gaps_and_no_repetition
                a_limit_of_zero_finds_no_event
                a_limit_may_exceed_what_is_there
                since_includes_its_time
                until_excludes_its_time
                since_and_until_make_a_span
                a_limited_span_keeps_its_latest
                events_are_in_the_order_of_their_ids
                events_of_one_instance_are_its_own
                events_of_several_instances_are_merged
                events_of_an_unknown_instance_are_none
                a_query_may_name_thousands_of_instances
                conditions_of_a_query_add_up
                a_new_store_has_no_crashes
                a_crash_comes_back_as_added
                unknown_usage_is_not_zero_usage
                every_crash_status_comes_back
                crash_counters_keep_64_bits
                last_lines_come_back_in_order
                crash_times_keep_microseconds
                crash_ids_grow
                crashes_come_newest_first
                crashes_are_found_by_instance
                crashes_are_found_since_a_time
                crashes_are_pruned_in_small_batches
                pruning_touches_one_kind_of_record
                concurrent_crashes_are_all_there_once
            );
        }
    };
}
