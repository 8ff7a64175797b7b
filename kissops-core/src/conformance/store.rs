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
mod api_keys;
mod audit;
mod backups;
mod catalog;
mod channels;
mod crashes;
mod data_keys;
mod drills;
mod events;
mod fencing;
mod fixtures;
mod generations;
mod grants;
mod health;
mod hosts;
mod incidents;
mod instances;
mod jobs;
mod leases;
mod maintenance;
mod members;
mod outbox;
mod outbox_lists;
mod paging;
mod refreshes;
mod runs;
mod sealing;
mod secrets;
mod silences;
mod tokens;
mod users;

pub use self::{
    alert_history::*, alerts::*, api_keys::*, audit::*, backups::*, catalog::*, channels::*,
    crashes::*, data_keys::*, drills::*, events::*, fencing::*, generations::*, grants::*,
    health::*, hosts::*, incidents::*, instances::*, jobs::*, leases::*, maintenance::*,
    members::*, outbox::*, outbox_lists::*, paging::*, refreshes::*, runs::*, sealing::*,
    secrets::*, silences::*, tokens::*, users::*,
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

fn is_invalid<T: fmt::Debug>(result: Result<T>) {
    let err = result.unwrap_err();
    assert!(matches!(err, Error::InvalidConfig { .. }), "{err:?}");
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
                a_new_store_is_sound
                a_check_counts_the_rows
                a_vacuum_loses_nothing
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
                a_new_store_has_no_users
                a_user_comes_back_as_added
                every_role_comes_back
                users_are_sorted_by_name
                a_second_user_of_a_name_conflicts
                a_second_user_of_a_number_conflicts
                concurrent_users_of_one_name_admit_one
                a_user_gets_another_role
                a_user_gets_another_password
                a_disabled_user_can_be_enabled_again
                every_change_of_a_user_ends_their_sessions
                concurrent_changes_of_a_user_all_count
                concurrent_changes_of_role_and_password_are_both_there
                changing_an_unknown_user_is_not_found
                a_better_hash_ends_no_session
                a_better_hash_of_a_former_password_is_refused
                the_latest_login_stays
                a_removed_user_is_gone_alone
                a_user_of_a_former_users_name_is_somebody_else
                user_times_keep_microseconds
                a_password_hash_is_not_shown
                a_new_store_has_no_api_keys
                an_api_key_comes_back_as_added
                every_access_of_a_key_comes_back
                api_keys_are_sorted_by_name
                a_second_api_key_of_a_name_conflicts
                a_second_api_key_of_a_prefix_conflicts
                concurrent_api_keys_of_one_name_admit_one
                a_revoked_api_key_is_not_valid
                an_expired_api_key_is_not_valid
                the_name_of_a_revoked_api_key_is_free
                revoking_an_unknown_api_key_is_not_found
                uses_of_an_api_key_are_noted_coarsely
                useless_api_keys_are_pruned
                the_hash_of_an_api_key_is_not_shown
                a_new_store_has_an_empty_audit
                auditing_nothing_is_no_error
                an_audit_entry_comes_back_as_appended
                every_actor_comes_back
                every_outcome_comes_back
                audit_entries_are_counted_without_gaps
                each_audit_hash_covers_the_one_before
                equal_audit_entries_have_different_hashes
                an_audit_entry_with_nul_verifies
                concurrent_audit_entries_make_one_chain
                audit_without_after_is_the_latest
                audit_pages_have_no_gaps_and_no_repetition
                audit_is_found_by_each_of_its_conditions
                the_audit_is_pruned_from_its_oldest_end
                pruning_the_audit_stops_at_the_first_entry_that_is_not_old
                pruning_keeps_the_anchor_of_the_audit
                an_audit_that_was_pruned_to_nothing_goes_on
                pruning_and_appending_at_once_leave_a_chain
                the_audit_verifies_from_a_known_link_on
                the_audit_verifies_from_a_pruned_link_on
                another_audit_than_the_known_one_is_found_out
                a_long_audit_verifies
                a_new_store_has_no_data_keys
                a_data_key_comes_back_as_added
                data_keys_come_oldest_first
                a_second_data_key_of_a_number_conflicts
                a_data_key_is_rewrapped
                concurrent_rewraps_admit_one
                an_unknown_data_key_is_not_found
                concurrent_reservations_of_seals_add_up
                a_retired_data_key_seals_nothing_more
                a_data_key_in_force_cannot_be_removed
                a_data_key_that_sealed_a_token_stays
                a_data_key_that_sealed_a_secret_stays
                sealed_bytes_are_not_shown
                a_new_store_has_no_grants
                the_newest_commit_is_known
                grants_in_use_are_fenced_together
                a_status_from_before_a_fencing_is_refused
                a_grant_comes_back_as_added
                every_flow_of_a_grant_comes_back
                a_second_grant_of_an_account_conflicts
                a_second_grant_of_a_number_conflicts
                an_account_may_have_grants_of_two_providers
                concurrent_grants_of_one_account_admit_one
                every_state_of_a_grant_comes_back
                every_failure_of_a_grant_comes_back
                a_status_of_an_older_version_is_refused
                concurrent_statuses_of_one_version_admit_one
                the_status_of_an_unknown_grant_is_refused
                grant_pages_have_no_gaps_and_no_repetition
                grants_are_found_by_each_of_their_conditions
                grants_are_counted_by_provider_and_state
                binding_a_grant_replaces_its_instances
                concurrent_bindings_leave_one_whole_set
                due_grants_come_in_the_order_of_their_times
                validations_are_due_on_their_own
                tokens_are_found_by_the_key_that_sealed_them
                a_token_is_resealed_once
                grants_come_back_with_their_first_tokens
                a_grant_that_is_there_is_not_overwritten_by_many
                many_grants_and_their_tokens_are_read_at_once
                grants_are_added_by_the_hundred
                many_grants_under_an_unknown_key_are_refused_whole
                a_shredded_grant_has_nothing_left_to_steal
                a_commit_after_a_shred_is_refused
                the_tokens_of_abandoned_grants_are_shredded_in_time
                nothing_of_an_abandoned_grant_is_left_to_steal
                abandoned_grants_are_shredded_in_small_batches
                a_removed_grant_leaves_nothing_behind
                a_new_store_has_no_refreshes
                a_refresh_may_begin_as_sent
                a_refresh_comes_back_as_begun
                a_second_refresh_of_a_generation_conflicts
                concurrent_refreshes_of_one_grant_admit_one
                a_refresh_of_an_old_generation_is_refused
                a_stale_holder_cannot_begin_a_refresh
                a_released_lease_guards_nothing
                an_unknown_lease_guards_nothing
                a_lease_that_ran_out_still_guards_while_nobody_took_it
                a_refresh_is_sent_once
                concurrent_sendings_admit_one
                a_stale_holder_cannot_send
                a_sent_refresh_may_stay_unanswered
                a_refresh_is_retried_by_the_next_holder
                concurrent_retries_admit_one
                an_answer_comes_back_as_it_landed
                answers_are_found_by_the_key_that_sealed_them
                an_answer_is_resealed_once
                a_refresh_that_landed_is_not_retried
                a_retry_and_an_answer_see_each_other
                an_answer_may_land_twice
                a_stale_holders_answer_is_kept
                an_answer_that_nobody_waits_for_is_refused
                an_answer_under_an_unknown_key_is_refused_whole
                a_data_key_that_sealed_an_answer_stays
                an_ended_refresh_leaves_the_pair
                an_ended_refresh_overrules_no_decision
                a_refresh_that_landed_meanwhile_is_not_ended
                a_stale_holder_cannot_end_a_refresh
                a_generation_is_committed_whole
                a_generation_without_scopes_keeps_them
                a_commit_overrules_no_decision
                a_commit_tells_a_decision_from_another_change
                a_commit_counts_as_a_change_of_the_grant
                the_previous_pair_is_kept_where_it_is_still_good
                the_previous_pair_is_removed_where_it_is_used_up
                a_generation_may_have_one_token
                a_generation_has_one_token_of_a_kind
                concurrent_commits_of_one_generation_admit_one
                a_commit_of_an_old_generation_changes_nothing
                a_stale_holders_commit_changes_nothing
                a_commit_and_a_take_over_exclude_each_other
                a_commit_under_an_unknown_key_changes_nothing
                open_refreshes_are_found_after_a_crash
                refreshes_of_two_grants_do_not_meet
                a_new_store_has_no_secrets
                a_secret_comes_back_as_added
                a_second_secret_of_a_name_conflicts
                a_secret_under_an_unknown_key_is_refused
                secret_pages_have_no_gaps_and_no_repetition
                a_rotated_secret_has_the_next_version
                concurrent_rotations_of_a_secret_admit_one
                a_rotation_of_an_old_version_is_refused
                the_age_of_a_secret_can_be_changed
                the_age_of_a_secret_has_an_end
                due_secrets_come_in_the_order_of_their_times
                reuse_of_a_secret_is_found
                secrets_are_resealed_under_another_key
                a_removed_secret_is_gone_alone
                a_secret_is_not_shown
                a_new_store_has_no_leases
                a_lease_comes_back_as_granted
                a_held_lease_is_not_granted_to_another
                a_held_lease_is_not_granted_to_its_holder_again
                leases_of_different_names_do_not_meet
                a_released_lease_is_free
                a_lease_runs_out
                a_lease_lasts_as_long_as_granted
                a_lease_that_ran_out_has_nothing_remaining
                a_token_grows_after_a_release
                a_token_grows_after_a_lease_ran_out
                a_token_grows_after_a_lease_was_removed
                no_token_is_granted_twice_while_leases_are_removed
                concurrent_acquirers_of_a_new_lease_admit_one
                concurrent_acquirers_of_a_lease_that_ran_out_admit_one
                renewing_keeps_the_token
                a_lease_that_ran_out_can_be_renewed
                a_lease_that_was_granted_again_cannot_be_renewed
                an_earlier_lease_of_the_same_holder_cannot_be_renewed
                a_released_lease_cannot_be_renewed
                releasing_anothers_lease_does_nothing
                a_renewal_and_a_new_holder_exclude_each_other
                only_idle_leases_are_pruned
                a_lease_has_a_sane_term
                a_new_store_has_no_hosts
                a_host_comes_back_as_registered
                hosts_are_sorted_by_name
                a_host_with_a_session_is_not_registered_again
                a_restarted_host_takes_its_row_back
                a_host_whose_time_is_over_can_be_registered_again
                concurrent_registrations_of_one_host_admit_one
                two_hosts_have_two_names
                a_renewal_counts_and_moves_the_end
                a_renewal_whose_answer_was_lost_is_recognized
                a_copied_host_loses_the_race
                a_host_whose_time_is_over_can_renew
                every_state_of_a_host_comes_back
                a_fenced_host_is_out
                a_host_is_not_fenced_before_its_time
                a_host_that_has_moved_is_not_fenced
                concurrent_fencings_admit_one
                a_renewal_and_a_fencing_exclude_each_other
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
                a_reminder_dated_later_holds_up_no_fire
                a_reminder_dated_later_holds_up_no_resolve
                what_was_put_off_stays_so_through_every_merge
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
                a_claim_of_notifications_has_a_sane_term
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
                a_run_may_forbid_another_of_its_job
                of_runs_that_forbid_each_other_one_begins
                a_run_whose_host_vanished_forbids_none
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
                a_claim_of_a_job_has_a_sane_term
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
                backups_whose_makers_vanished_are_ended
                an_imported_older_backup_is_not_the_newest
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
                a_claim_of_a_backup_has_a_sane_term
                a_new_store_has_no_drills
                a_drill_comes_back_as_begun
                the_end_of_a_drill_comes_back
                a_drill_may_have_measured_nothing
                a_drill_is_of_a_backup_of_its_plan
                a_drill_ends_once
                a_drill_whose_maker_vanished_is_ended
                a_renewed_drill_is_not_lost
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
                many_results_are_recorded_at_once
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
