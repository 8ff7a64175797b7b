//! What becomes of a grant after something happened to it: decisions as values. No clock, no store, no network.
//!
//! | what happened | reusable | rotating, one-time |
//! |---|---|---|
//! | refused for now, or not sent | again after 1 s, 5 s, 15 s, then 1 to 15 min; degraded from the third on | same |
//! | sent, no answer | the same as refused for now | ambiguous: settle, probe, then again or lost |
//! | refused for good | suspect: probe, a second vote, a witness, then `needs_reauth` | same; used up if it follows silence |
//! | the client is refused | nothing is wrong with the grant: it waits | same |

use std::time::Duration;

use crate::{
    Timestamp,
    store::{FailureClass, GrantExpiry, GrantFailure, GrantState, GrantStatus},
    vault::{Probed, RotationClass, Undecidable, VaultEventKind},
};

/// Delays after the first failures; the third one degrades the grant.
const ROUNDS: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];
/// The delay after those; it doubles up to [`SLOWEST`].
const SLOW: Duration = Duration::from_mins(1);
const SLOWEST: Duration = Duration::from_mins(15);
/// No provider is believed that wants to be left alone for longer.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);
/// Between two votes that say that a grant is dead.
pub(crate) const VOTES_APART: Duration = Duration::from_mins(1);
/// So many failures, the asking in vain included, are some minutes: then somebody is told.
pub(crate) const IN_VAIN: u32 = 6;
/// How long tokens are kept although the grant needs a new authorization.
const KEPT: Duration = Duration::from_hours(30 * 24);

/// A grant as it is when something happens to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case<'a> {
    pub(crate) status: &'a GrantStatus,
    pub(crate) expiry: GrantExpiry,
    pub(crate) rotation: RotationClass,
    /// How long the provider may still carry out what it did not answer.
    pub(crate) settle: Duration,
    /// The provider fails as a whole: that is not the grant's failure.
    pub(crate) provider_down: bool,
    pub(crate) now: Timestamp,
    /// From 0 to 1: spreads delays.
    pub(crate) jitter: f64,
}

/// What to keep of a grant, and what to tell of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) status: GrantStatus,
    pub(crate) tell: Option<(VaultEventKind, String)>,
}

impl Verdict {
    fn quiet(status: GrantStatus) -> Self {
        Self { status, tell: None }
    }
}

/// What was known when a token was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// All earlier attempts: each was answered, never sent, or shown not to have been carried out.
    Known,
    /// Nobody could tell what became of an earlier attempt.
    Silence,
}

/// What to do about a refresh whose answer never came, or said nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Settled {
    /// It was not carried out, or nobody can tell: once more.
    SendAgain,
    /// Not known yet.
    AskLater(Verdict),
    /// It was carried out, and its answer is lost: the grant is.
    Lost(String),
}

/// What to do about a grant that was refused for good.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Judged {
    /// Present its token once more: that is a vote.
    Vote,
    /// Nothing before that time.
    Wait(Verdict),
    /// It is dead, unless the provider errs: no other grant of it may be refused as well.
    Condemned(String),
}

impl Case<'_> {
    /// It was refused for now, or never sent.
    pub(crate) fn retryable(&self, after: Option<Duration>, detail: &str) -> Verdict {
        self.failed(FailureClass::Retryable, after, detail)
    }

    /// It was sent, and no answer came, or one that does not say what became of it.
    pub(crate) fn unanswered(&self, detail: &str) -> Verdict {
        if self.rotation == RotationClass::Reusable {
            return self.failed(FailureClass::Ambiguous, None, detail);
        }
        let settles_at = self.now.plus(self.settle);
        let failure = self.round(FailureClass::Ambiguous);
        let next = settles_at.max(self.now.plus(self.delay(failure.count)));
        let status = GrantStatus {
            state: GrantState::Ambiguous { since: self.now, settles_at },
            failure: Some(failure),
            next_refresh_at: Some(next),
            ..self.status.clone()
        };
        // It stays ambiguous, which says more than that it is degraded; who looks after it is told the same.
        let degrades = is_degrading(failure.count) && !is_degrading(self.count());
        let tell = degrades.then(|| (VaultEventKind::Degraded, self.degraded(&failure, detail)));
        Verdict { status, tell }
    }

    /// The client is not known to the provider, or not its secret.
    pub(crate) fn misconfigured(&self) -> Verdict {
        let failure = self.failure(FailureClass::Misconfigured);
        Verdict::quiet(GrantStatus {
            // Not counted: nothing is wrong with the grant.
            failure: Some(GrantFailure { count: self.count(), ..failure }),
            next_refresh_at: Some(self.now.plus(VOTES_APART)),
            ..self.status.clone()
        })
    }

    /// It was refused for good.
    pub(crate) fn refused(&self, detail: &str, before: Before) -> Verdict {
        let class = match before {
            Before::Known => FailureClass::Terminal,
            Before::Silence => FailureClass::Ambiguous,
        };
        let since = match &self.status.state {
            GrantState::Suspect { since, .. } => *since,
            _ => self.now,
        };
        let failure = self.failure(class);
        Verdict::quiet(GrantStatus {
            state: GrantState::Suspect { since, reason: detail.to_owned() },
            failure: Some(GrantFailure { votes: failure.votes.saturating_add(1), ..failure }),
            next_refresh_at: Some(self.now),
            ..self.status.clone()
        })
    }

    /// A suspect, after its access token was asked about (`None`: nobody can be asked, or it has expired by itself).
    pub(crate) fn judge(&self, reason: &str, probed: Option<&Probed>) -> Judged {
        let known = self.status.failure;
        let votes = known.map_or(0, |known| known.votes);
        let one_time = self.rotation == RotationClass::OneTime;
        if votes > 0 && known.is_some_and(|known| known.class == FailureClass::Ambiguous) {
            let used = "the token was used up by a refresh whose answer was lost";
            return Judged::Condemned(format!("{used}: {reason}"));
        }
        let next = known.map_or(self.now, |known| known.at.plus(VOTES_APART));
        let vote =
            || if next <= self.now || votes == 0 { Judged::Vote } else { self.wait_until(next) };
        match probed {
            Some(Probed::Dead { detail }) if votes > 0 || one_time => Judged::Condemned(format!(
                "{reason}; the access token is refused as well: {detail}"
            )),
            Some(Probed::Good { .. }) if votes >= 2 => self.refused_but_good(reason),
            // A probe can decide, so a token that may be used up is not presented before it has.
            Some(Probed::Unknown { detail }) if votes >= 2 || one_time => {
                let said =
                    format!("{reason}, and whether the access token is good is not said: {detail}");
                Judged::Wait(self.asked_in_vain(&said, Some(VOTES_APART)))
            }
            None if votes >= 2 || (one_time && votes > 0) => Judged::Condemned(reason.to_owned()),
            _ => vote(),
        }
    }

    /// Refused twice, while the access token is good: the owner is told early, the bots may run on.
    fn refused_but_good(&self, reason: &str) -> Judged {
        let voted_at = self.status.failure.map_or(self.now, |known| known.at);
        let again = voted_at.plus(SLOWEST);
        let next = self.expiry.access.map_or(again, |end| end.min(again));
        if next <= self.now {
            return Judged::Vote;
        }
        // As the second vote has left it: what comes later is of another time.
        let untold = self.status.next_refresh_at.is_some_and(|at| at <= voted_at);
        let second = self.status.failure.is_some_and(|known| known.votes == 2);
        let said = format!("{reason}; the access token is good until it expires");
        let tell = (second && untold).then_some((VaultEventKind::Degraded, said));
        let status = GrantStatus { next_refresh_at: Some(next), ..self.status.clone() };
        Judged::Wait(Verdict { status, tell })
    }

    /// What to do about silence, after the old access token was asked about (`None`: nobody can be asked, or it has
    /// expired by itself). A provider that carries out a refresh kills the old access token.
    pub(crate) fn settled(&self, undecidable: Undecidable, probed: Option<&Probed>) -> Settled {
        match probed {
            Some(Probed::Good { .. }) => Settled::SendAgain,
            Some(Probed::Dead { detail }) => Settled::Lost(format!(
                "a refresh was sent, its answer was lost, and the old token is dead: {detail}"
            )),
            Some(Probed::Unknown { detail }) => {
                let said = "a refresh was not answered, and the provider does not say whether the old token is good";
                Settled::AskLater(self.asked_in_vain(&format!("{said}: {detail}"), None))
            }
            None => match undecidable {
                Undecidable::Try => Settled::SendAgain,
                Undecidable::Flag => Settled::Lost(
                    "a refresh was sent, its answer was lost, and nobody can tell whether it was carried out".into(),
                ),
            },
        }
    }

    /// Only the account's owner can help.
    pub(crate) fn needs_reauth(&self, reason: &str) -> Verdict {
        let keep_until = self.now.plus(KEPT);
        let state =
            GrantState::NeedsReauth { since: self.now, reason: reason.to_owned(), keep_until };
        let status = GrantStatus {
            state,
            failure: self.status.failure,
            next_refresh_at: None,
            next_validate_at: None,
        };
        Verdict { status, tell: Some((VaultEventKind::NeedsReauth, reason.to_owned())) }
    }

    /// Its access token is dead, and it has nothing to get another one with.
    pub(crate) fn dead(&self, detail: &str) -> Verdict {
        self.refused(&format!("it has no refresh token, and {detail}"), Before::Known)
    }

    fn failed(&self, class: FailureClass, after: Option<Duration>, detail: &str) -> Verdict {
        let failure = self.round(class);
        let delay =
            after.map_or_else(|| self.delay(failure.count), |after| after.min(LONGEST_RETRY_AFTER));
        let state = match &self.status.state {
            // What became of the attempt before is known, or makes no difference any more: this one was refused for now.
            GrantState::Ambiguous { .. } => GrantState::Active { since: self.now },
            state => state.clone(),
        };
        let status = GrantStatus {
            state,
            failure: Some(failure),
            next_refresh_at: Some(self.now.plus(delay)),
            ..self.status.clone()
        };
        if !matches!(status.state, GrantState::Active { .. }) || !is_degrading(failure.count) {
            return Verdict::quiet(status);
        }
        // Silence may have counted as far, and told it.
        let untold = !is_degrading(self.count());
        let tell = untold.then(|| (VaultEventKind::Degraded, self.degraded(&failure, detail)));
        let state = GrantState::Degraded { since: self.now };
        Verdict { status: GrantStatus { state, ..status }, tell }
    }

    /// The words for a grant that was not refreshed for so long.
    fn degraded(&self, failure: &GrantFailure, detail: &str) -> String {
        let runs_on = match self.expiry.access {
            Some(at) if at <= self.now => format!("its access token has expired on {at}"),
            Some(at) => format!("the access token is good until it expires, which is on {at}"),
            None => "the access token is good until it expires".into(),
        };
        format!("refreshing failed {} times: {detail}; {runs_on}", failure.count)
    }

    /// One more failed round. A provider that is down is no grant's failure.
    fn round(&self, class: FailureClass) -> GrantFailure {
        let failure = self.failure(class);
        let count = if self.provider_down { self.count() } else { failure.count };
        GrantFailure { count, ..failure }
    }

    /// The failure counted once more.
    fn failure(&self, class: FailureClass) -> GrantFailure {
        counted(self.status, class, self.now)
    }

    fn count(&self) -> u32 {
        self.status.failure.map_or(0, |known| known.count)
    }

    fn wait_until(&self, at: Timestamp) -> Judged {
        Judged::Wait(Verdict::quiet(GrantStatus {
            next_refresh_at: Some(at),
            ..self.status.clone()
        }))
    }

    /// The delay after the `count`th failure, spread by a fifth to both sides.
    fn delay(&self, count: u32) -> Duration {
        let at = usize::try_from(count.saturating_sub(1)).unwrap_or(usize::MAX);
        let plain = ROUNDS.get(at).copied().unwrap_or_else(|| {
            let doubled = u32::try_from(at - ROUNDS.len()).unwrap_or(u32::MAX).min(8);
            SLOW.saturating_mul(1 << doubled).min(SLOWEST)
        });
        plain.mul_f64(0.8 + 0.4 * self.jitter.clamp(0.0, 1.0)).min(SLOWEST)
    }

    /// The provider does not say how the grant is. Told once if that lasts, unless the provider as a whole is away.
    fn asked_in_vain(&self, said: &str, every: Option<Duration>) -> Verdict {
        let known = self.status.failure.unwrap_or_else(|| self.failure(FailureClass::Ambiguous));
        let count = known.count.saturating_add(u32::from(!self.provider_down));
        let later = self.now.plus(every.unwrap_or_else(|| self.delay(count.max(2))));
        let tell = (count == IN_VAIN && !self.provider_down)
            .then(|| (VaultEventKind::Degraded, said.to_owned()));
        let status = GrantStatus {
            failure: Some(GrantFailure { count, ..known }),
            // Once the access token has expired, nobody is asked any more: then it is decided.
            next_refresh_at: Some(
                self.expiry
                    .access
                    .filter(|end| *end > self.now)
                    .map_or(later, |end| end.min(later)),
            ),
            ..self.status.clone()
        };
        Verdict { status, tell }
    }
}

/// The provider errs, or it is over: what was held against a suspect does not count any more.
pub(crate) fn vote_anew(status: &GrantStatus, now: Timestamp) -> Option<GrantStatus> {
    let GrantState::Suspect { reason, .. } = &status.state else { return None };
    let failure = GrantFailure { votes: 0, ..counted(status, FailureClass::Terminal, now) };
    Some(GrantStatus {
        state: GrantState::Suspect { since: now, reason: reason.clone() },
        failure: Some(failure),
        next_refresh_at: Some(now),
        ..status.clone()
    })
}

/// So many failed rounds are told.
pub(crate) fn is_degrading(rounds: u32) -> bool {
    usize::try_from(rounds).is_ok_and(|rounds| rounds >= ROUNDS.len())
}

fn counted(status: &GrantStatus, class: FailureClass, at: Timestamp) -> GrantFailure {
    let (count, votes) = status.failure.map_or((0, 0), |known| (known.count, known.votes));
    GrantFailure { class, count: count.saturating_add(1), votes, at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RotationClass::{OneTime, Reusable, Rotating};

    const NOW: Timestamp = Timestamp(1_790_000_000_000_000);
    const MINUTE: Duration = Duration::from_mins(1);

    fn active() -> GrantStatus {
        GrantStatus {
            state: GrantState::Active { since: Timestamp(0) },
            failure: None,
            next_refresh_at: Some(NOW),
            next_validate_at: None,
        }
    }

    fn case(status: &GrantStatus, rotation: RotationClass) -> Case<'_> {
        let expiry = GrantExpiry { access: Some(NOW.plus(30 * MINUTE)), ..GrantExpiry::default() };
        Case {
            status,
            expiry,
            rotation,
            settle: Duration::from_secs(30),
            provider_down: false,
            now: NOW,
            jitter: 0.5,
        }
    }

    fn suspect(votes: u32, ago: Duration, class: FailureClass) -> GrantStatus {
        let at = NOW.minus(ago);
        GrantStatus {
            state: GrantState::Suspect { since: at, reason: "refused".into() },
            failure: Some(GrantFailure { class, count: votes, votes, at }),
            next_refresh_at: Some(at),
            next_validate_at: None,
        }
    }

    fn good() -> Probed {
        Probed::Good { expires_at: None, scopes: None, account: vec![] }
    }

    fn dead() -> Probed {
        Probed::Dead { detail: "401".into() }
    }

    fn unknown() -> Probed {
        Probed::Unknown { detail: "503".into() }
    }

    #[test]
    fn the_third_failed_round_degrades_once_and_then_it_gets_slower() {
        for rotation in [Reusable, Rotating, OneTime] {
            let (mut status, mut delays, mut told) = (active(), vec![], vec![]);
            for round in 0..10 {
                let verdict = case(&status, rotation).retryable(None, "503");
                delays.push(verdict.status.next_refresh_at.unwrap().since(NOW).as_secs());
                told.extend(verdict.tell.map(|(kind, _)| (round, kind)));
                status = verdict.status;
            }
            assert_eq!(delays, [1, 5, 15, 60, 120, 240, 480, 900, 900, 900]);
            assert_eq!(told, [(2, VaultEventKind::Degraded)]);
            assert!(matches!(status.state, GrantState::Degraded { .. }));
        }
    }

    #[test]
    fn a_provider_that_is_down_degrades_nobody() {
        let mut status = active();
        for _ in 0..20 {
            let case = Case { provider_down: true, ..case(&status, Rotating) };
            let verdict = case.retryable(None, "connection refused");
            assert_eq!(verdict.tell, None);
            status = verdict.status;
        }
        assert_eq!(status.state, active().state);
    }

    #[test]
    fn what_the_provider_asks_for_wins_within_reason() {
        let next = |after: Duration| {
            case(&active(), Reusable)
                .retryable(Some(after), "429")
                .status
                .next_refresh_at
                .unwrap()
                .since(NOW)
        };
        assert_eq!(next(Duration::from_secs(77)), Duration::from_secs(77));
        assert_eq!(next(Duration::MAX), LONGEST_RETRY_AFTER);
    }

    #[test]
    fn silence_is_a_failure_of_what_may_be_sent_again_and_a_question_for_all_else() {
        let verdict = case(&active(), Reusable).unanswered("reset");
        assert_eq!(verdict.status.state, active().state);
        assert_eq!(verdict.status.next_refresh_at, Some(NOW.plus(Duration::from_secs(1))));
        for rotation in [Rotating, OneTime] {
            let verdict = case(&active(), rotation).unanswered("reset");
            let settles_at = NOW.plus(Duration::from_secs(30));
            assert_eq!(verdict.status.state, GrantState::Ambiguous { since: NOW, settles_at });
            assert_eq!(verdict.status.next_refresh_at, Some(settles_at));
        }
    }

    #[test]
    fn the_third_silence_is_told_once_and_then_it_gets_slower() {
        for rotation in [Rotating, OneTime] {
            let (mut status, mut delays, mut told) = (active(), vec![], vec![]);
            for round in 0..7 {
                let verdict = case(&status, rotation).unanswered("reset");
                delays.push(verdict.status.next_refresh_at.unwrap().since(NOW).as_secs());
                told.extend(verdict.tell.map(|(kind, _)| (round, kind)));
                status = verdict.status;
            }
            assert_eq!(delays, [30, 30, 30, 60, 120, 240, 480]);
            assert_eq!(told, [(2, VaultEventKind::Degraded)]);
            let refused = case(&status, rotation).retryable(None, "503");
            assert!(matches!(refused.status.state, GrantState::Degraded { .. }));
            assert_eq!(refused.tell, None, "it was told");
        }
    }

    #[test]
    fn after_silence_the_old_access_token_tells() {
        let settled = |undecidable, probed: Option<Probed>| {
            case(&active(), OneTime).settled(undecidable, probed.as_ref())
        };
        for undecidable in [Undecidable::Try, Undecidable::Flag] {
            assert_eq!(settled(undecidable, Some(good())), Settled::SendAgain);
            assert!(matches!(settled(undecidable, Some(dead())), Settled::Lost(_)));
            assert!(
                matches!(settled(undecidable, Some(unknown())), Settled::AskLater(verdict) if verdict.status.next_refresh_at > Some(NOW))
            );
        }
        assert_eq!(settled(Undecidable::Try, None), Settled::SendAgain);
        assert!(matches!(settled(Undecidable::Flag, None), Settled::Lost(_)));
    }

    #[test]
    fn a_refusal_makes_a_suspect_whatever_the_class() {
        for rotation in [Reusable, Rotating, OneTime] {
            let verdict = case(&active(), rotation).refused("invalid_grant", Before::Known);
            assert!(matches!(verdict.status.state, GrantState::Suspect { .. }));
            assert_eq!(verdict.status.failure.unwrap().votes, 1);
            assert_eq!(verdict.tell, None, "nothing is told before it is confirmed");
        }
    }

    /// Each row of the matrix: class, votes, when the latest was, what the probe said, what is done.
    #[test]
    fn judging_a_suspect() {
        let long_ago = VOTES_APART;
        let lately = Duration::from_secs(5);
        let rows = [
            ("confirmed by the probe", Reusable, 1, lately, Some(dead()), "condemned"),
            ("confirmed by the probe", Rotating, 1, lately, Some(dead()), "condemned"),
            ("confirmed by the probe", OneTime, 1, lately, Some(dead()), "condemned"),
            ("a second vote comes later", Reusable, 1, lately, Some(good()), "wait"),
            ("a second vote", Reusable, 1, long_ago, Some(good()), "vote"),
            ("not used up, says the probe", OneTime, 1, long_ago, Some(good()), "vote"),
            ("the probe is down", OneTime, 1, long_ago, Some(unknown()), "wait"),
            ("the probe is down", Reusable, 1, long_ago, Some(unknown()), "vote"),
            ("nobody can be asked", Reusable, 1, lately, None, "wait"),
            ("nobody can be asked", Reusable, 1, long_ago, None, "vote"),
            ("never presented again", OneTime, 1, lately, None, "condemned"),
            ("two votes", Reusable, 2, lately, None, "condemned"),
            ("two votes, but it is good", Rotating, 2, lately, Some(good()), "wait"),
            ("two votes, the probe is down", Rotating, 2, long_ago, Some(unknown()), "wait"),
            ("anew after an incident", Reusable, 0, lately, Some(dead()), "vote"),
            ("anew after an incident", OneTime, 0, lately, None, "vote"),
            ("used up, says the probe", OneTime, 0, lately, Some(dead()), "condemned"),
        ];
        for (why, rotation, votes, ago, probed, expected) in rows {
            let status = suspect(votes, ago, FailureClass::Terminal);
            let judged = match case(&status, rotation).judge("refused", probed.as_ref()) {
                Judged::Vote => "vote",
                Judged::Wait(_) => "wait",
                Judged::Condemned(_) => "condemned",
            };
            assert_eq!(judged, expected, "{why}: {rotation:?}, {votes} votes, {probed:?}");
        }
    }

    #[test]
    fn a_refusal_after_silence_says_what_the_silence_was() {
        let ambiguous = case(&active(), Rotating).unanswered("reset").status;
        let verdict = case(&ambiguous, Rotating).refused("invalid_grant", Before::Silence);
        let judged = case(&verdict.status, Rotating).judge("invalid_grant", Some(&good()));
        assert!(matches!(judged, Judged::Condemned(why) if why.contains("used up")));
    }

    #[test]
    fn a_good_token_of_a_refused_grant_runs_on_and_is_told_once() {
        let first = case(&active(), Reusable).refused("refused", Before::Known).status;
        let second = case(&first, Reusable).refused("refused", Before::Known).status;
        let Judged::Wait(verdict) = case(&second, Reusable).judge("refused", Some(&good())) else {
            panic!()
        };
        assert_eq!(verdict.tell.as_ref().unwrap().0, VaultEventKind::Degraded);
        assert_eq!(verdict.status.next_refresh_at, Some(NOW.plus(SLOWEST)));
        let later = Case { now: NOW.plus(MINUTE), ..case(&verdict.status, Reusable) };
        let Judged::Wait(again) = later.judge("refused", Some(&good())) else { panic!() };
        assert_eq!(again.tell, None);
        let expired = Case { now: NOW.plus(30 * MINUTE), ..case(&verdict.status, Reusable) };
        assert!(matches!(expired.judge("refused", None), Judged::Condemned(_)));
    }

    #[test]
    fn a_refused_client_is_nobodys_failure() {
        let mut status = active();
        for _ in 0..9 {
            let verdict = case(&status, OneTime).misconfigured();
            assert_eq!((&verdict.status.state, verdict.tell), (&active().state, None));
            status = verdict.status;
        }
        assert_eq!(status.failure.unwrap().count, 0);
    }

    #[test]
    fn a_suspect_votes_anew_and_nothing_is_held_against_it() {
        let status = suspect(3, MINUTE, FailureClass::Ambiguous);
        let anew = vote_anew(&status, NOW).unwrap();
        assert_eq!(anew.failure.unwrap().votes, 0);
        assert_eq!(case(&anew, Rotating).judge("refused", Some(&good())), Judged::Vote);
        assert_eq!(vote_anew(&active(), NOW), None);
    }

    #[test]
    fn who_needs_the_owner_keeps_the_ciphertext_for_a_month() {
        let verdict = case(&active(), OneTime).needs_reauth("revoked");
        let keep_until = NOW.plus(KEPT);
        let state = GrantState::NeedsReauth { since: NOW, reason: "revoked".into(), keep_until };
        assert_eq!((verdict.status.state, verdict.status.next_refresh_at), (state, None));
        assert_eq!(verdict.tell.unwrap().0, VaultEventKind::NeedsReauth);
    }

    #[test]
    fn a_provider_that_does_not_say_is_told_of_once_after_some_minutes() {
        let mut status = case(&active(), OneTime).unanswered("no answer").status;
        let (mut now, mut told) = (NOW, vec![]);
        for _ in 0..20 {
            let case = Case { now, expiry: GrantExpiry::default(), ..case(&status, OneTime) };
            let unknown = Probed::Unknown { detail: "503".into() };
            let Settled::AskLater(verdict) = case.settled(Undecidable::Try, Some(&unknown)) else {
                panic!("it may be known later")
            };
            told.extend(verdict.tell.map(|_| now.since(NOW)));
            status = verdict.status;
            now = status.next_refresh_at.unwrap();
        }
        assert!(matches!(told[..], [at] if at > MINUTE && at < 5 * MINUTE), "{told:?}");
        assert!(now.since(NOW) > 60 * MINUTE, "it is asked ever more seldom");
        let down = Case { provider_down: true, ..case(&status, OneTime) };
        let kept = down.settled(Undecidable::Try, Some(&Probed::Unknown { detail: String::new() }));
        assert!(
            matches!(kept, Settled::AskLater(Verdict { tell: None, status: kept }) if kept.failure == status.failure)
        );
    }
}
