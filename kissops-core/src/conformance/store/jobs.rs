//! Rules of [`JobStore`](crate::store::JobStore).

use std::time::Duration;

use super::{
    UNICODE, at, conflicts, eventually,
    fixtures::INSANE_TERMS,
    is_invalid, is_not_found,
    outbox::{claimant, hasty},
    together,
};
use crate::{
    Timestamp,
    store::{
        Claimant, JobCause, JobClaim, JobDue, JobEnd, JobName, JobOutcome, JobRecord, JobRun,
        JobRunId, JobRunQuery, JobRunState, Overlap, Store,
    },
};

fn due(job: &str, second: u64) -> JobDue {
    JobDue { job: job.into(), due: at(second), cause: JobCause::Schedule }
}

fn end(second: u64, outcome: JobOutcome) -> JobEnd {
    JobEnd { at: at(second), outcome, output: "done\n".into() }
}

async fn claim(store: &dyn Store, job: &str, second: u64) -> JobRun {
    store.claim_job(due(job, second), Overlap::Allow, &claimant("host"), at(second)).await.unwrap()
}

/// Runs a job at second `second` and ends it at `ended`.
async fn ran(store: &dyn Store, job: &str, second: u64, ended: u64) -> JobRunId {
    let run = claim(store, job, second).await;
    store.end_job(run.claim(), end(ended, JobOutcome::Succeeded)).await.unwrap();
    run.id
}

async fn all(store: &dyn Store) -> Vec<JobRun> {
    let query = JobRunQuery { limit: u32::MAX, ..JobRunQuery::default() };
    store.job_runs(query).await.unwrap()
}

fn ids(runs: &[JobRun]) -> Vec<JobRunId> {
    runs.iter().map(|run| run.id).collect()
}

async fn last_due(store: &dyn Store) -> Timestamp {
    store.jobs().await.unwrap()[0].last_due
}

/// Empty lists, not errors.
pub async fn a_new_store_has_no_jobs(store: &dyn Store) {
    assert_eq!(store.jobs().await.unwrap(), []);
    assert_eq!(all(store).await, []);
    assert_eq!(store.running_jobs().await.unwrap(), []);
    assert_eq!(store.end_lost_jobs(at(0), 9).await.unwrap(), []);
    store.remove_job(&"x".into()).await.unwrap();
}

/// Nothing is due before a job was known; all 64 bits of its schedule are kept.
pub async fn a_new_job_begins_when_it_is_first_seen(store: &dyn Store) {
    for (name, fingerprint) in [("b", u64::MAX), ("a", 0), (UNICODE, 1 << 63)] {
        let job = store.put_job(&name.into(), fingerprint, at(3)).await.unwrap();
        let expected = JobRecord { name: name.into(), fingerprint, last_due: at(3) };
        assert_eq!(job, expected);
    }
    let names: Vec<_> = store.jobs().await.unwrap().into_iter().map(|job| job.name.0).collect();
    assert_eq!(names, ["a", "b", UNICODE]);
}

/// A restart of the daemon forgets no due time.
pub async fn a_known_job_keeps_its_last_due_time(store: &dyn Store) {
    let name = JobName::from("a");
    store.put_job(&name, 7, at(3)).await.unwrap();
    ran(store, "a", 5, 6).await;
    assert_eq!(store.put_job(&name, 7, at(90)).await.unwrap().last_due, at(5));
}

/// What the old schedule had due is not caught up on.
pub async fn a_changed_schedule_begins_anew(store: &dyn Store) {
    let name = JobName::from("a");
    store.put_job(&name, 7, at(3)).await.unwrap();
    let job = store.put_job(&name, 8, at(90)).await.unwrap();
    assert_eq!((job.fingerprint, job.last_due), (8, at(90)));
    assert_eq!(store.jobs().await.unwrap(), [job]);
}

/// Its runs stay.
pub async fn a_removed_job_keeps_its_history(store: &dyn Store) {
    store.put_job(&"a".into(), 7, at(3)).await.unwrap();
    store.put_job(&"b".into(), 7, at(3)).await.unwrap();
    let run = ran(store, "a", 5, 6).await;
    store.remove_job(&"a".into()).await.unwrap();
    let left: Vec<_> = store.jobs().await.unwrap().into_iter().map(|job| job.name.0).collect();
    assert_eq!(left, ["b"]);
    assert_eq!(ids(&all(store).await), [run]);
}

/// Every field is kept.
pub async fn a_run_of_a_job_comes_back_as_begun(store: &dyn Store) {
    let due = JobDue {
        job: UNICODE.into(),
        due: Timestamp(1_790_000_000_123_457),
        cause: JobCause::CatchUp,
    };
    let now = Timestamp(1_790_000_000_123_458);
    let run = store.claim_job(due.clone(), Overlap::Allow, &claimant(UNICODE), now).await.unwrap();
    assert_eq!((&run.due, run.host.as_str(), run.started_at, run.attempt), (&due, UNICODE, now, 1));
    assert!(matches!(run.state, JobRunState::Running { .. }), "{run:?}");
    assert_eq!(all(store).await, std::slice::from_ref(&run));
    assert_eq!(store.running_jobs().await.unwrap(), [run]);
}

/// Each of them.
pub async fn every_cause_of_a_job_comes_back(store: &dyn Store) {
    for (second, cause) in (0..).zip(JobCause::ALL) {
        let due = JobDue { cause: *cause, ..due("a", second) };
        store.claim_job(due, Overlap::Allow, &claimant("host"), at(second)).await.unwrap();
    }
    let mut found: Vec<_> = all(store).await.iter().map(|run| run.due.cause).collect();
    found.reverse();
    assert_eq!(found, JobCause::ALL);
}

/// Each of them, with what it says and what was printed.
pub async fn every_outcome_of_a_job_comes_back(store: &dyn Store) {
    let why = || UNICODE.to_owned();
    let outcomes = [
        JobOutcome::Succeeded,
        JobOutcome::Failed { why: why() },
        JobOutcome::Failed { why: String::new() },
        JobOutcome::TimedOut,
        JobOutcome::Replaced,
        JobOutcome::Skipped { why: why() },
        JobOutcome::Lost,
    ];
    for (second, outcome) in (0..).zip(outcomes) {
        let run = claim(store, "a", second).await;
        let end = JobEnd { at: Timestamp(at(second).0 + 7), outcome, output: why() };
        store.end_job(run.claim(), end.clone()).await.unwrap();
        assert_eq!(all(store).await[0].state, JobRunState::Ended(end));
    }
    assert_eq!(store.running_jobs().await.unwrap(), []);
}

/// However many hosts ask for it at once.
pub async fn a_due_time_has_one_run(store: &dyn Store) {
    let by: Vec<_> = (0..12).map(|i| claimant(&i.to_string())).collect();
    let calls = by.iter().map(|by| store.claim_job(due("a", 5), Overlap::Allow, by, at(5)));
    let (won, lost): (Vec<_>, Vec<_>) = together(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 11));
    lost.into_iter().for_each(conflicts);
    assert_eq!(all(store).await.len(), 1);
}

/// The same due time of another job, and another due time of the same.
pub async fn other_due_times_have_other_runs(store: &dyn Store) {
    let mut made = Vec::new();
    for (job, second) in [("a", 1), ("b", 1), ("a", 2), ("A", 1)] {
        made.push(claim(store, job, second).await.id);
    }
    assert!(made.is_sorted_by(|one, next| one < next), "{made:?}");
    assert_eq!(store.running_jobs().await.unwrap().len(), 4);
}

/// On whichever hosts; another job's runs are no matter.
pub async fn a_run_may_forbid_another_of_its_job(store: &dyn Store) {
    for job in ["a", "b"] {
        store.put_job(&job.into(), 1, at(0)).await.unwrap();
    }
    let alone = async |job, second| {
        store.claim_job(due(job, second), Overlap::Forbid, &claimant("x"), at(second)).await
    };
    let first = claim(store, "a", 5).await;
    conflicts(alone("a", 6).await);
    assert_eq!(last_due(store).await, at(5));
    let other = alone("b", 6).await.unwrap();
    store.end_job(first.claim(), end(7, JobOutcome::Succeeded)).await.unwrap();
    let second = alone("a", 8).await.unwrap();
    assert_eq!(second.attempt, 1);
    // Whoever allows it runs beside it.
    let third = claim(store, "a", 9).await;
    assert_eq!(ids(&store.running_jobs().await.unwrap()), [other.id, second.id, third.id]);
    is_not_found(alone("c", 6).await);
}

/// However many hosts come for however many due times.
pub async fn of_runs_that_forbid_each_other_one_begins(store: &dyn Store) {
    store.put_job(&"a".into(), 1, at(0)).await.unwrap();
    let by = claimant("x");
    let calls =
        (1..=12).map(|second| store.claim_job(due("a", second), Overlap::Forbid, &by, at(second)));
    let (won, lost): (Vec<_>, Vec<_>) = together(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 11));
    lost.into_iter().for_each(conflicts);
    assert_eq!(all(store).await.len(), 1);
}

/// Its host may be late, not gone: it is told to stop.
pub async fn a_run_whose_host_vanished_forbids_none(store: &dyn Store) {
    store.put_job(&"a".into(), 1, at(0)).await.unwrap();
    let (by, soon) = (claimant("x"), hasty("first"));
    let first = store.claim_job(due("a", 5), Overlap::Forbid, &soon, at(5)).await.unwrap();
    let next = async || store.claim_job(due("a", 6), Overlap::Forbid, &by, at(6)).await.ok();
    let second = eventually(next).await;
    conflicts(store.renew_job(first.claim(), Duration::from_mins(10)).await);
    let found = all(store).await;
    assert_eq!(ids(&found), [second.id, first.id]);
    let JobRunState::Ended(end) = &found[1].state else { panic!("{found:?}") };
    assert_eq!((end.at, &end.outcome), (at(6), &JobOutcome::Lost));
}

/// Whatever came of it.
pub async fn a_due_time_that_ran_does_not_run_again(store: &dyn Store) {
    ran(store, "a", 5, 6).await;
    conflicts(store.claim_job(due("a", 5), Overlap::Allow, &claimant("other"), at(9)).await);
    assert_eq!(all(store).await.len(), 1);
}

/// It is the same run, a further attempt, and the new host's.
pub async fn a_run_whose_host_vanished_is_taken_over(store: &dyn Store) {
    let first = store.claim_job(due("a", 5), Overlap::Allow, &hasty("first"), at(5)).await.unwrap();
    let by = claimant("second");
    let second =
        eventually(async || store.claim_job(due("a", 5), Overlap::Allow, &by, at(9)).await.ok())
            .await;
    assert_eq!((second.id, second.attempt, second.started_at), (first.id, 2, at(9)));
    assert_eq!(second.host, "second");
    assert_eq!(all(store).await, [second]);
}

/// Neither ends nor renews what another has taken over.
pub async fn an_overtaken_host_is_refused(store: &dyn Store) {
    let first = store.claim_job(due("a", 5), Overlap::Allow, &hasty("first"), at(5)).await.unwrap();
    let by = claimant("second");
    let second =
        eventually(async || store.claim_job(due("a", 5), Overlap::Allow, &by, at(9)).await.ok())
            .await;
    let late = end(9, JobOutcome::Succeeded);
    conflicts(store.end_job(first.claim(), late).await);
    conflicts(store.renew_job(first.claim(), Duration::from_secs(9)).await);
    assert_eq!(all(store).await, std::slice::from_ref(&second));
    store.end_job(second.claim(), end(10, JobOutcome::TimedOut)).await.unwrap();
}

/// Its claim lasts longer then than it would have.
pub async fn a_renewed_run_is_not_taken_over(store: &dyn Store) {
    let first = store.claim_job(due("a", 5), Overlap::Allow, &hasty("first"), at(5)).await.unwrap();
    store.renew_job(first.claim(), Duration::from_mins(10)).await.unwrap();
    let other = store.claim_job(due("b", 5), Overlap::Allow, &hasty("other"), at(5)).await.unwrap();
    // When the other's claim has run out, the first one's would have, too.
    let lost = eventually(async || store.end_lost_jobs(at(9), 9).await.unwrap().pop()).await;
    assert_eq!(lost.id, other.id);
    conflicts(store.claim_job(due("a", 5), Overlap::Allow, &claimant("second"), at(9)).await);
}

/// The first end stays.
pub async fn a_run_of_a_job_ends_once(store: &dyn Store) {
    let run = claim(store, "a", 5).await;
    let first = end(6, JobOutcome::Failed { why: "exit code 1".into() });
    store.end_job(run.claim(), first.clone()).await.unwrap();
    conflicts(store.end_job(run.claim(), end(7, JobOutcome::Succeeded)).await);
    conflicts(store.renew_job(run.claim(), Duration::from_secs(1)).await);
    assert_eq!(all(store).await[0].state, JobRunState::Ended(first));
}

/// Nor a claim that nobody made.
pub async fn an_unknown_run_of_a_job_cannot_end(store: &dyn Store) {
    let run = claim(store, "a", 5).await;
    for (id, attempt) in [(run.id, 0), (run.id, 2), (JobRunId(run.id.0 + 9), 1)] {
        let claim = JobClaim { run: id, attempt };
        conflicts(store.end_job(claim, end(6, JobOutcome::Succeeded)).await);
    }
    assert_eq!(all(store).await, [run]);
}

/// It moves on with what is begun, never back.
pub async fn the_last_due_time_moves_on_with_runs(store: &dyn Store) {
    store.put_job(&"a".into(), 7, at(1)).await.unwrap();
    for (second, expected) in [(5, 5), (9, 9), (7, 9)] {
        claim(store, "a", second).await;
        assert_eq!(last_due(store).await, at(expected));
    }
}

/// A claim that is refused does not pass for a run.
pub async fn a_refused_claim_leaves_the_last_due_time(store: &dyn Store) {
    store.put_job(&"a".into(), 7, at(1)).await.unwrap();
    claim(store, "a", 5).await;
    store.put_job(&"a".into(), 8, at(2)).await.unwrap();
    conflicts(store.claim_job(due("a", 5), Overlap::Allow, &claimant("x"), at(5)).await);
    assert_eq!(last_due(store).await, at(2));
}

/// What somebody asks for takes the place of no due time.
pub async fn a_manual_run_leaves_the_last_due_time(store: &dyn Store) {
    store.put_job(&"a".into(), 7, at(1)).await.unwrap();
    for (second, cause) in (5..).zip([JobCause::Manual, JobCause::Start, JobCause::Retry]) {
        let due = JobDue { cause, ..due("a", second) };
        store.claim_job(due, Overlap::Allow, &claimant("host"), at(second)).await.unwrap();
        assert_eq!(last_due(store).await, at(1), "{cause}");
    }
}

/// It is dealt with, and history says why it did not run.
pub async fn a_due_time_can_be_skipped(store: &dyn Store) {
    store.put_job(&"a".into(), 7, at(1)).await.unwrap();
    store.skip_job(due("a", 5), "host", at(6), UNICODE).await.unwrap();
    assert_eq!(last_due(store).await, at(5));
    let found = all(store).await.pop().unwrap();
    let outcome = JobOutcome::Skipped { why: UNICODE.into() };
    let state = JobRunState::Ended(JobEnd { at: at(6), outcome, output: String::new() });
    assert_eq!((found.state, found.due, found.host.as_str()), (state, due("a", 5), "host"));
    conflicts(store.claim_job(due("a", 5), Overlap::Allow, &claimant("x"), at(7)).await);
}

/// Another host runs it: that is no error, and stays.
pub async fn a_due_time_that_runs_is_not_skipped(store: &dyn Store) {
    let run = claim(store, "a", 5).await;
    store.skip_job(due("a", 5), "host", at(6), "overlap").await.unwrap();
    assert_eq!(all(store).await, [run]);
}

/// Oldest first, at most so many, and none whose host still holds it.
pub async fn runs_of_vanished_hosts_are_ended_as_lost(store: &dyn Store) {
    let mut gone = Vec::new();
    for second in 1..4 {
        gone.push(
            store
                .claim_job(due("a", second), Overlap::Allow, &hasty("x"), at(second))
                .await
                .unwrap()
                .id,
        );
    }
    let held = claim(store, "a", 9).await;
    let mut lost = Vec::new();
    while lost.len() < 3 {
        lost.extend(
            eventually(async || {
                let found = store.end_lost_jobs(at(20), 2).await.unwrap();
                assert!(found.len() <= 2, "{found:?}");
                (!found.is_empty()).then_some(found)
            })
            .await,
        );
    }
    assert_eq!(ids(&lost), gone);
    let state = JobEnd { at: at(20), outcome: JobOutcome::Lost, output: String::new() };
    assert!(lost.iter().all(|run| run.state == JobRunState::Ended(state.clone())), "{lost:?}");
    assert_eq!(store.running_jobs().await.unwrap(), [held]);
}

/// Even if several look after them at once.
pub async fn a_lost_run_is_ended_once(store: &dyn Store) {
    for second in 0..6 {
        store.claim_job(due("a", second), Overlap::Allow, &hasty("x"), at(second)).await.unwrap();
    }
    let ended = std::cell::Cell::new(0);
    eventually(async || {
        let calls = (0..4).map(|_| store.end_lost_jobs(at(9), 3));
        for found in together(calls).await {
            ended.set(ended.get() + found.unwrap().len());
        }
        (store.running_jobs().await.unwrap().is_empty()).then_some(())
    })
    .await;
    assert_eq!(ended.get(), 6);
}

/// Oldest first, of all jobs.
pub async fn running_jobs_come_oldest_first(store: &dyn Store) {
    let first = claim(store, "b", 9).await;
    ran(store, "a", 3, 4).await;
    let second = claim(store, "a", 5).await;
    assert_eq!(store.running_jobs().await.unwrap(), [first, second]);
}

/// Of one job or of all, page by page.
pub async fn runs_of_jobs_come_newest_first(store: &dyn Store) {
    let mut made = Vec::new();
    for (job, second) in [("a", 1), ("b", 2), ("a", 3), ("a", 4), ("b", 5)] {
        made.push(ran(store, job, second, second).await);
    }
    let page = async |job: Option<&str>, before, limit| {
        let query = JobRunQuery { job: job.map(Into::into), before, limit };
        ids(&store.job_runs(query).await.unwrap())
    };
    assert_eq!(page(None, None, 2).await, [made[4], made[3]]);
    assert_eq!(page(None, Some(made[3]), 9).await, [made[2], made[1], made[0]]);
    assert_eq!(page(Some("a"), None, 2).await, [made[3], made[2]]);
    assert_eq!(page(Some("a"), Some(made[2]), 2).await, [made[0]]);
    assert_eq!(page(Some("c"), None, 9).await, []);
    assert_eq!(page(None, None, 0).await, []);
}

/// By the time of their end, in small batches; what runs stays however old it is.
pub async fn runs_of_jobs_are_pruned_in_small_batches(store: &dyn Store) {
    let open = claim(store, "a", 0).await.id;
    let mut made = Vec::new();
    for (second, ended) in [(1, 30), (2, 10), (3, 20), (4, 40)] {
        made.push(ran(store, "a", second, ended).await);
    }
    assert_eq!(store.prune_job_runs(at(40), 2).await.unwrap(), 2);
    assert_eq!(ids(&all(store).await), [made[3], made[0], open]);
    assert_eq!(store.prune_job_runs(at(40), u32::MAX).await.unwrap(), 1);
    assert_eq!(store.prune_job_runs(at(40), 9).await.unwrap(), 0);
    assert_eq!(ids(&all(store).await), [made[3], open]);
}

/// What was dealt with stays dealt with.
pub async fn pruning_runs_keeps_the_last_due_time(store: &dyn Store) {
    store.put_job(&"a".into(), 7, at(1)).await.unwrap();
    ran(store, "a", 5, 6).await;
    assert_eq!(store.prune_job_runs(at(99), 9).await.unwrap(), 1);
    assert_eq!(last_due(store).await, at(5));
}

/// Although the rows that had them are gone.
pub async fn job_run_ids_grow_after_everything_was_pruned(store: &dyn Store) {
    let first = ran(store, "a", 1, 2).await;
    store.prune_job_runs(at(99), 9).await.unwrap();
    assert!(first < ran(store, "a", 2, 3).await);
}

/// A claim lasts from 1 µs to 366 days, as a lease does.
pub async fn a_claim_of_a_job_has_a_sane_term(store: &dyn Store) {
    let run = claim(store, "a", 1).await;
    for ttl in INSANE_TERMS {
        let by = Claimant { name: "host".into(), ttl };
        is_invalid(store.claim_job(due("b", 1), Overlap::Allow, &by, at(1)).await);
        is_invalid(store.renew_job(run.claim(), ttl).await);
    }
    assert_eq!(all(store).await, [run]);
}
