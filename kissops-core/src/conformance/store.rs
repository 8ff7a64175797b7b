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
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::{Duration, Instant},
};

use crate::{
    Error, Result, Timestamp,
    id::{BootId, InstanceName, ProcessIdentity, RecordId, RunId},
    store::{EventKind, EventRecord, NewEvent, RunRecord, Store},
};

mod alert_history;
mod alerts;
mod backups;
mod catalog;
mod channels;
mod crashes;
mod drills;
mod events;
mod health;
mod incidents;
mod instances;
mod jobs;
mod members;
mod outbox;
mod outbox_lists;
mod paging;
mod runs;
mod silences;

pub use self::{
    alert_history::*, alerts::*, backups::*, catalog::*, channels::*, crashes::*, drills::*,
    events::*, health::*, incidents::*, instances::*, jobs::*, members::*, outbox::*,
    outbox_lists::*, paging::*, runs::*, silences::*,
};

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

fn conflicts<T: fmt::Debug>(result: Result<T>) {
    let err = result.unwrap_err();
    assert!(matches!(err, Error::Conflict { .. }), "{err:?}");
}

fn is_not_found<T: fmt::Debug>(result: Result<T>) {
    let err = result.unwrap_err();
    assert!(matches!(err, Error::NotFound { .. }), "{err:?}");
}

/// Tries until there is an answer, for as long as a busy machine may take.
async fn eventually<T>(attempt: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = attempt().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not after 30 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
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
                a_new_store_has_no_alerts
                an_alert_comes_back_as_opened
                alert_text_is_unicode
                an_alert_may_lack_runbook_and_labels
                every_severity_comes_back
                alert_times_keep_microseconds
                an_open_alert_that_fires_again_is_counted
                the_last_firing_never_moves_back
                an_alert_that_fires_at_many_places_at_once_opens_one_incident
                alerts_of_other_keys_are_other_incidents
                a_resolved_alert_that_fires_again_is_a_new_incident
                an_update_changes_what_an_alert_says
                an_acknowledgement_comes_back
                a_resolved_alert_keeps_its_acknowledgement
                an_unknown_alert_cannot_be_changed
                a_resolved_alert_cannot_be_changed
                a_change_of_an_old_revision_conflicts
                firing_again_does_not_disturb_a_change
                concurrent_changes_of_one_revision_admit_one
                concurrent_changes_that_read_again_are_all_made
                opening_an_alert_queues_its_notifications
                firing_again_queues_nothing
                a_change_queues_its_notifications
                a_refused_change_queues_nothing
                open_alerts_come_oldest_first
                alert_ids_grow
                alerts_come_newest_first
                pages_of_alerts_have_no_gaps
                alerts_are_found_by_what_they_are
                alerts_are_pruned_by_the_time_of_their_end
                alerts_are_pruned_in_small_batches
                an_alert_is_not_pruned_before_it_was_told
                alert_ids_grow_after_everything_was_pruned
                a_new_outbox_is_empty
                a_notification_comes_back_as_queued
                every_kind_of_notification_comes_back
                notification_ids_grow
                a_notification_of_an_unknown_alert_is_refused
                a_reminder_carries_the_revision_of_its_alert
                a_claim_shows_who_holds_it
                only_what_is_due_is_claimed
                notifications_are_claimed_oldest_first
                a_claim_takes_from_one_channel
                two_workers_never_claim_one_notification
                a_claimed_notification_is_not_claimed_again
                a_claim_that_ran_out_is_taken_by_another
                the_answer_of_an_overtaken_worker_is_refused
                a_late_answer_counts_while_nobody_took_over
                a_delivery_comes_back
                a_retry_waits_for_its_time
                a_delivered_notification_has_no_error
                a_dead_notification_rests
                a_claim_is_answered_once
                an_answer_without_a_claim_is_refused
                a_failure_queues_the_fallback
                a_fallback_may_be_without_an_alert
                the_order_of_an_alert_is_kept_on_each_channel
                an_alert_holds_up_no_other
                an_unsent_fire_and_its_resolve_become_one
                an_unsent_fire_and_its_update_become_a_fire
                a_whole_unsent_incident_becomes_one
                a_resolve_after_a_delivered_fire_stays_a_resolve
                a_fire_that_failed_and_its_resolve_become_one
                what_was_merged_keeps_to_the_strictest_times
                only_one_alert_and_channel_is_merged
                a_digest_takes_the_place_of_what_it_holds
                a_digest_of_a_lost_claim_is_refused
                a_digest_keeps_the_order_of_its_alerts
                a_digest_may_be_part_of_another
                the_next_time_is_when_something_is_due
                the_next_time_passes_over_what_is_held_up
                the_last_delivered_can_be_edited
                the_backlog_counts_what_waits
                the_backlog_knows_a_dead_channel
                a_dead_notification_can_be_revived
                only_a_dead_notification_is_revived
                an_alert_that_nobody_could_be_told_of_is_known
                an_alert_in_a_digest_is_heard_with_it
                notifications_are_found_by_what_they_are
                notifications_are_pruned_when_they_are_done
                pruning_an_alert_takes_its_notifications
                concurrent_incidents_are_told_in_order
                a_new_store_knows_no_channel
                channels_are_sorted_by_name
                a_delivery_shows_that_a_channel_works
                a_failure_does_not_disable_a_channel
                a_disabled_channel_says_why
                disabling_again_keeps_since_when
                a_delivery_enables_a_channel
                a_failure_does_not_enable_a_channel
                a_forgotten_channel_is_gone_alone
                rate_buckets_come_back
                rate_buckets_never_allow_too_much
                a_new_store_has_no_silences
                a_silence_comes_back_as_made
                a_silence_without_a_matcher_is_refused
                a_silence_ends_after_its_start
                a_silence_holds_from_its_start_to_before_its_end
                silences_may_overlap
                a_silence_can_be_ended_early
                a_silence_ended_before_its_start_never_holds
                a_silence_that_is_over_cannot_be_ended
                an_unknown_silence_cannot_be_ended
                silences_come_newest_first
                silences_are_pruned_in_small_batches
                a_new_store_has_no_jobs
                a_new_job_begins_when_it_is_first_seen
                a_known_job_keeps_its_last_due_time
                a_changed_schedule_begins_anew
                a_removed_job_keeps_its_history
                a_run_of_a_job_comes_back_as_begun
                every_cause_of_a_job_comes_back
                every_outcome_of_a_job_comes_back
                a_due_time_has_one_run
                other_due_times_have_other_runs
                a_due_time_that_ran_does_not_run_again
                a_run_whose_host_vanished_is_taken_over
                an_overtaken_host_is_refused
                a_renewed_run_is_not_taken_over
                a_run_of_a_job_ends_once
                an_unknown_run_of_a_job_cannot_end
                the_last_due_time_moves_on_with_runs
                a_refused_claim_leaves_the_last_due_time
                a_manual_run_leaves_the_last_due_time
                a_due_time_can_be_skipped
                a_due_time_that_runs_is_not_skipped
                runs_of_vanished_hosts_are_ended_as_lost
                a_lost_run_is_ended_once
                running_jobs_come_oldest_first
                runs_of_jobs_come_newest_first
                runs_of_jobs_are_pruned_in_small_batches
                pruning_runs_keeps_the_last_due_time
                job_run_ids_grow_after_everything_was_pruned
                a_new_store_has_no_backups
                a_backup_comes_back_as_begun
                every_kind_of_backup_comes_back
                every_end_of_a_backup_comes_back
                a_manifest_comes_back
                copies_of_a_backup_come_back
                a_copy_of_a_backup_is_replaced_alone
                one_backup_of_a_plan_is_made_at_a_time
                other_plans_are_not_held_up
                a_backup_name_is_taken_once
                a_backup_whose_maker_vanished_has_failed
                a_maker_that_was_given_up_is_refused
                a_renewed_backup_is_not_given_up
                a_backup_ends_once
                a_found_backup_is_taken_in
                a_found_backup_is_taken_in_once
                a_backup_is_taken_in_beside_a_running_one
                backups_come_newest_first
                the_last_good_backup_can_be_relied_on
                a_chain_leads_from_the_base_to_the_backup
                dependants_are_all_that_build_on_a_backup
                a_backup_builds_on_what_is_there
                a_removed_backup_is_gone_alone
                a_backup_with_dependants_is_kept
                a_running_backup_is_not_removed
                a_backup_is_not_removed_under_a_new_child
                a_verified_backup_says_when
                a_backup_may_become_suspect
                backup_ids_grow_after_removal
                a_new_store_has_no_drills
                a_drill_comes_back_as_begun
                the_end_of_a_drill_comes_back
                a_drill_may_have_measured_nothing
                a_drill_is_of_a_backup_of_its_plan
                a_drill_ends_once
                an_unknown_drill_cannot_end
                a_backup_is_drilled_when_a_drill_passes
                a_drill_outlives_its_backup
                drills_come_newest_first
                the_last_passed_drill_is_found
                pruning_drills_leaves_the_last_passed
                a_new_store_has_no_results
                a_result_comes_back_as_recorded
                measured_values_keep_all_their_bits
                a_value_that_is_no_number_is_refused
                every_probe_status_comes_back
                the_latest_results_are_one_of_each_probe
                a_late_result_is_not_the_latest
                a_result_of_the_same_time_replaces_nothing
                concurrent_results_are_all_there
                samples_are_found_by_their_time
                a_forgotten_probe_has_no_latest_result
                minutes_sum_up_their_results
                roll_ups_sum_up_measured_values
                hours_equal_what_the_samples_say
                probes_are_rolled_up_apart
                a_part_of_an_hour_rolls_up_all_of_it
                rolling_up_can_be_repeated
                a_roll_up_outlives_its_samples
                roll_ups_are_found_by_their_time
                uptime_is_a_share_of_what_could_be_told
                samples_are_pruned_oldest_first
                roll_ups_are_pruned_oldest_first
            );
        }
    };
}
