//! When to start again, and when to give up: pure decisions over exits and times.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{Definition, ExitStatus, Kind, RestartPolicy};

/// What to do after the end of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start it again at once: it asked for that.
    Again,
    /// Start it again after a delay.
    Retry,
    /// Leave it down: it is done, or asked to stay down.
    Rest,
    /// Give up.
    GiveUp,
}

/// Whether an end was what the bot wanted.
#[must_use]
pub(super) fn is_success(definition: &Definition, status: ExitStatus) -> bool {
    let asked = &definition.restart;
    match status {
        ExitStatus::Code(code) => {
            code == 0
                || [&asked.success_exit_codes, &asked.restart_exit_codes, &asked.stop_exit_codes]
                    .iter()
                    .any(|list| list.contains(&code))
        }
        ExitStatus::Signal { .. } | ExitStatus::Unknown => false,
    }
}

/// Judges an end that nobody asked for. A death by signal is a failure like any other (an unknown status too).
#[must_use]
pub(super) fn judge(definition: &Definition, status: ExitStatus) -> Verdict {
    let asked = &definition.restart;
    if let ExitStatus::Code(code) = status {
        if asked.stop_exit_codes.contains(&code) {
            return Verdict::Rest;
        }
        if asked.restart_exit_codes.contains(&code) && asked.policy != RestartPolicy::Never {
            return Verdict::Again;
        }
    }
    match (asked.policy, is_success(definition, status), definition.kind) {
        // A one-shot that has succeeded is done; starting it again would never let those that require it start.
        (_, true, Kind::Oneshot) | (RestartPolicy::OnFailure | RestartPolicy::Never, true, _) => {
            Verdict::Rest
        }
        (RestartPolicy::Never, false, _) => Verdict::GiveUp,
        (RestartPolicy::Always, ..) | (RestartPolicy::OnFailure, false, _) => Verdict::Retry,
    }
}

/// The memory of past starts: start limit and backoff (SUP-7).
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Automatic starts within the start limit's window, oldest first.
    starts: VecDeque<Instant>,
    /// Failures in a row, each after less than a stable uptime.
    pub(super) attempt: u32,
    /// Restarts that the bot asked for in a row, each after a quick end.
    asked: u32,
}

/// Ends sooner than this count as a crash loop whatever the configuration says.
const QUICK: Duration = Duration::from_secs(1);
/// So many quick ends in a row are let through without a delay of ours.
const QUICK_FREE: u32 = 10;
/// The first enforced delay, doubled with each further quick end.
const QUICK_BASE: Duration = Duration::from_millis(100);
/// The longest enforced delay: 100 looping instances then cost ten starts a second.
const QUICK_CAP: Duration = Duration::from_secs(10);

impl Tally {
    /// Forgets everything: an operator has stepped in.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Notes a start that the supervisor itself decided on.
    pub(super) fn started(&mut self, definition: &Definition, now: Instant) {
        if let Some(limit) = definition.start_limit {
            self.forget_before(now, limit.within);
            self.starts.push_back(now);
        }
    }

    /// One more start would break the start limit.
    pub(super) fn is_exhausted(&mut self, definition: &Definition, now: Instant) -> bool {
        let Some(limit) = definition.start_limit else { return false };
        self.forget_before(now, limit.within);
        self.starts.len() >= limit.starts.get() as usize
    }

    fn forget_before(&mut self, now: Instant, within: Duration) {
        while self.starts.front().is_some_and(|first| now.duration_since(*first) >= within) {
            self.starts.pop_front();
        }
    }

    /// The delay before the next start after a failure at an age of `uptime`; `random` is from 0 to 1.
    ///
    /// Where `base` is tiny or zero, a loop of quick deaths is slowed down all the same: it may never cost more than
    /// a few percent of a core.
    pub(super) fn delay(
        &mut self,
        definition: &Definition,
        uptime: Duration,
        random: f64,
    ) -> Duration {
        let backoff = &definition.backoff;
        if uptime >= backoff.reset_after() {
            self.attempt = 0;
        }
        let wanted = backoff.jittered(self.attempt, random);
        self.attempt = self.attempt.saturating_add(1);
        if uptime < QUICK { wanted.max(enforced(self.attempt)) } else { wanted }
    }

    /// The delay before a start that the bot itself asked for: none, unless it asks in a loop. Its start is forgotten:
    /// it was no failure.
    pub(super) fn asked(&mut self, uptime: Duration) -> Duration {
        self.starts.pop_back();
        self.asked = if uptime < QUICK { self.asked.saturating_add(1) } else { 0 };
        enforced(self.asked)
    }
}

/// The delay that so many quick ends in a row get at least.
fn enforced(quick: u32) -> Duration {
    match quick.checked_sub(QUICK_FREE + 1) {
        Some(doublings) => (QUICK_BASE * 2u32.pow(doublings.min(10))).min(QUICK_CAP),
        None => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Backoff,
        supervisor::{Restart, Signal, StartLimit},
    };

    fn definition(policy: RestartPolicy) -> Definition {
        let restart = Restart {
            policy,
            success_exit_codes: vec![3],
            restart_exit_codes: vec![75],
            stop_exit_codes: vec![64],
        };
        Definition { restart, ..Definition::new("bot", ["true"]).unwrap() }
    }

    #[test]
    fn sup_6_every_policy_and_every_kind_of_end() {
        let killed = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
        let table = [
            (RestartPolicy::Always, ExitStatus::Code(0), Verdict::Retry),
            (RestartPolicy::Always, ExitStatus::Code(1), Verdict::Retry),
            (RestartPolicy::Always, killed, Verdict::Retry),
            (RestartPolicy::Always, ExitStatus::Code(75), Verdict::Again),
            (RestartPolicy::Always, ExitStatus::Code(64), Verdict::Rest),
            (RestartPolicy::OnFailure, ExitStatus::Code(0), Verdict::Rest),
            (RestartPolicy::OnFailure, ExitStatus::Code(3), Verdict::Rest),
            (RestartPolicy::OnFailure, ExitStatus::Code(1), Verdict::Retry),
            (RestartPolicy::OnFailure, killed, Verdict::Retry),
            (RestartPolicy::OnFailure, ExitStatus::Unknown, Verdict::Retry),
            (RestartPolicy::OnFailure, ExitStatus::Code(75), Verdict::Again),
            (RestartPolicy::Never, ExitStatus::Code(0), Verdict::Rest),
            (RestartPolicy::Never, ExitStatus::Code(1), Verdict::GiveUp),
            (RestartPolicy::Never, ExitStatus::Code(75), Verdict::Rest),
            (RestartPolicy::Never, ExitStatus::Code(64), Verdict::Rest),
        ];
        for (policy, status, verdict) in table {
            assert_eq!(judge(&definition(policy), status), verdict, "{policy:?} {status}");
        }
    }

    #[test]
    fn sup_16_a_one_shot_that_succeeded_is_not_started_again() {
        let once = Definition { kind: Kind::Oneshot, ..definition(RestartPolicy::Always) };
        assert_eq!(judge(&once, ExitStatus::Code(0)), Verdict::Rest);
        assert_eq!(judge(&once, ExitStatus::Code(1)), Verdict::Retry);
    }

    #[tokio::test(start_paused = true)]
    async fn sup_7_the_start_limit_counts_starts_within_its_window() {
        let limit = StartLimit { starts: 3.try_into().unwrap(), within: Duration::from_mins(1) };
        let bot = Definition { start_limit: Some(limit), ..definition(RestartPolicy::Always) };
        let mut tally = Tally::default();
        for _ in 0..3 {
            assert!(!tally.is_exhausted(&bot, Instant::now()));
            tally.started(&bot, Instant::now());
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        assert!(tally.is_exhausted(&bot, Instant::now()));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(!tally.is_exhausted(&bot, Instant::now()), "the first start left the window");
    }

    #[test]
    fn sup_7_delays_grow_and_a_stable_uptime_resets_them() {
        let bot = definition(RestartPolicy::Always);
        let mut tally = Tally::default();
        let mut next = |uptime| tally.delay(&bot, Duration::from_secs(uptime), 1.0).as_secs();
        assert_eq!([next(5), next(5), next(5), next(60), next(5)], [1, 2, 4, 1, 2]);
    }

    #[test]
    fn sup_7_a_loop_without_backoff_is_slowed_down() {
        let backoff = Backoff::new(Duration::ZERO, Duration::ZERO).unwrap();
        let bot = Definition { backoff, start_limit: None, ..definition(RestartPolicy::Always) };
        let mut tally = Tally::default();
        let delays: Vec<_> =
            (0..40).map(|_| tally.delay(&bot, Duration::from_millis(3), 1.0)).collect();
        assert!(delays[..10].iter().all(Duration::is_zero));
        assert_eq!(delays[10], QUICK_BASE);
        assert_eq!(delays[39], QUICK_CAP);
        assert!(tally.delay(&bot, Duration::from_secs(2), 1.0).is_zero(), "not a quick end");
    }

    #[test]
    fn sup_7_a_loop_of_restarts_that_the_bot_asks_for_is_slowed_down_too() {
        let mut tally = Tally::default();
        let delays: Vec<_> = (0..30).map(|_| tally.asked(Duration::from_millis(3))).collect();
        assert!(delays[..10].iter().all(Duration::is_zero));
        assert_eq!((delays[10], delays[29]), (QUICK_BASE, QUICK_CAP));
        assert!(tally.asked(Duration::from_secs(2)).is_zero(), "not a quick end");
    }
}
