//! How a provider is doing as a whole: it may be down, may refuse grants by the dozen, may refuse the client. Then nothing
//! is held against a single grant, one request at a time finds out whether it is over, and one event is told.
//!
//! Times are spans of the boot clock. No clock and no I/O here.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::schedule::Gate;
use crate::{
    store::GrantId,
    vault::{VaultEventKind, metrics::TROUBLES},
};

/// So many failures in a row are the provider's, unless they are all of one grant.
const DOWN_AT: usize = 5;
/// Canaries while the provider is down.
const DOWN_CANARIES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
];
const REFUSING_CANARY: Duration = Duration::from_secs(30);
/// However many there are, each is a canary so often.
const LONGEST_TURN: Duration = Duration::from_mins(30);
const FROZEN_CANARY: Duration = Duration::from_mins(5);
/// What counts as a burst of refusals: so many grants, within that time, more than half of those asked.
const BURST: usize = 3;
const BURST_WITHIN: Duration = Duration::from_mins(5);
/// A provider that errs for longer is believed: without a success nobody else can tell.
const LONGEST_INCIDENT: Duration = Duration::from_hours(24);
/// After so long it is believed if it has refused everybody again, whose access tokens are dead as well.
const UNANIMOUS_INCIDENT: Duration = Duration::from_hours(1);
/// So many canaries of a grant say that it is refused again.
const REFUSED_AGAIN: u32 = 2;
/// A canary of which nothing is heard is given up.
const CANARY_LASTS: Duration = Duration::from_secs(90);
/// Enough to tell the share of refusals.
const REMEMBERED: usize = 4096;

/// What a request said about the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// It gave tokens.
    Success,
    /// It refused for now, or did not answer.
    Trouble,
    /// It refused a grant for good.
    Refusal,
    /// It refused the client.
    ClientRefused,
}

/// What nobody may be marked in the face of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Witness {
    /// Another grant was refreshed meanwhile: the provider works.
    Vouched,
    /// The provider is not to be believed now.
    Incident,
    /// Nobody knows: another grant is to be refreshed.
    Wanted,
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    since: Duration,
    next_canary: Duration,
    canaries: usize,
}

impl Trouble {
    fn begins(now: Duration, first: Duration) -> Self {
        Self { since: now, next_canary: now + first, canaries: 0 }
    }
}

/// A request that is to tell whether a trouble is over.
#[derive(Clone, Copy, Debug)]
struct Canary {
    id: GrantId,
    at: Duration,
    /// It has said something.
    is_heard: bool,
}

/// A grant that was refused in an incident.
#[derive(Clone, Copy, Debug, Default)]
struct Refused {
    canaries: u32,
    /// Its access token is dead as well.
    is_dead: bool,
}

/// What a suspect is to do in an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Until it is its turn again: each canary of the incident is another grant's.
    pub(crate) rest: Duration,
    /// It was refused again: whether its access token is dead is to be found out.
    pub(crate) wants_probe: bool,
    /// If all others fare like this one, the provider is to be believed.
    pub(crate) may_be_right: bool,
}

/// How a provider is doing.
#[derive(Debug, Default)]
pub(crate) struct Health {
    down: Option<Trouble>,
    refusing: Option<Trouble>,
    frozen: Option<Trouble>,
    /// How often something failed since the last success, and for whom.
    row: usize,
    failing: HashSet<GrantId>,
    /// What was said lately, by whom.
    lately: VecDeque<(Duration, GrantId, Said)>,
    /// When the latest request was sent that had success: what it says is true of then, not of when its answer came.
    worked_at: Option<Duration>,
    canary: Option<Canary>,
    /// Who was refused in the incident.
    refused: HashMap<GrantId, Refused>,
}

impl Health {
    /// Whether something may be sent now.
    pub(crate) fn gate(&self, now: Duration) -> Gate {
        let troubles = [self.down, self.refusing, self.frozen];
        let Some(next) = troubles.iter().flatten().map(|trouble| trouble.next_canary).max() else {
            return Gate::Open;
        };
        if let Some(canary) = self.canary
            && now < canary.at + CANARY_LASTS
        {
            return Gate::Until(canary.at + CANARY_LASTS);
        }
        if next <= now { Gate::Open } else { Gate::Until(next) }
    }

    /// Something is sent for `id`. In a trouble it is the canary.
    pub(crate) fn begin(&mut self, now: Duration, id: GrantId) {
        if self.is_troubled() {
            self.canary = Some(Canary { id, at: now, is_heard: false });
        }
    }

    /// What was begun for `id` has ended. One that said nothing is no canary: the next may be one at once.
    pub(crate) fn end(&mut self, now: Duration, id: GrantId) {
        let Some(canary) = self.canary.filter(|canary| canary.id == id) else { return };
        self.canary = None;
        if canary.is_heard {
            let steps = [
                (&mut self.down, DOWN_CANARIES.as_slice()),
                (&mut self.refusing, &[REFUSING_CANARY]),
                (&mut self.frozen, &[FROZEN_CANARY]),
            ];
            for (trouble, delays) in steps {
                if let Some(trouble) = trouble {
                    trouble.canaries += 1;
                    trouble.next_canary = now + delays[trouble.canaries.min(delays.len() - 1)];
                }
            }
        }
    }

    /// What a request for `id`, sent at `asked`, said. Gives what is to be told, each once.
    pub(crate) fn hear(
        &mut self,
        now: Duration,
        id: GrantId,
        asked: Duration,
        said: Said,
    ) -> Option<VaultEventKind> {
        self.remember(now, id, said);
        if let Some(canary) = self.canary.as_mut().filter(|canary| canary.id == id) {
            canary.is_heard = true;
        }
        match said {
            Said::Success => self.works(asked),
            Said::Trouble => {
                self.row += 1;
                // Two are enough to tell the provider's failures from a grant's.
                if self.failing.len() < 2 {
                    self.failing.insert(id);
                }
                let fails = self.row >= DOWN_AT && self.failing.len() >= 2;
                (fails && self.down.is_none()).then(|| {
                    self.down = Some(Trouble::begins(now, DOWN_CANARIES[0]));
                    VaultEventKind::ProviderDown
                })
            }
            Said::Refusal => {
                // It answers, so it is not down.
                self.row = 0;
                self.failing.clear();
                let was_down = self.down.take().is_some();
                if self.refusing.is_some() {
                    self.refused.entry(id).or_default().canaries += 1;
                }
                if self.refusing.is_none() && self.bursts() {
                    return Some(self.refuse(now));
                }
                (was_down && !self.is_troubled()).then_some(VaultEventKind::ProviderUp)
            }
            Said::ClientRefused => self.frozen.is_none().then(|| {
                self.frozen = Some(Trouble::begins(now, FROZEN_CANARY));
                VaultEventKind::ClientRefused
            }),
        }
    }

    /// A grant that was refused since `since` is about to be marked.
    pub(crate) fn witness(&mut self, now: Duration, since: Duration) -> Witness {
        if let Some(trouble) = self.refusing {
            return if now < trouble.since + LONGEST_INCIDENT {
                Witness::Incident
            } else {
                Witness::Vouched
            };
        }
        if self.down.is_some() || self.frozen.is_some() {
            return Witness::Incident;
        }
        match self.worked_at {
            Some(at) if at >= since => Witness::Vouched,
            _ => Witness::Wanted,
        }
    }

    /// The witness was refused as well: an incident, whatever the numbers.
    pub(crate) fn witness_refused(&mut self, now: Duration) -> Option<VaultEventKind> {
        self.refusing.is_none().then(|| self.refuse(now))
    }

    /// The configuration is another: what was refused may be right now.
    pub(crate) fn reloaded(&mut self, now: Duration) {
        for trouble in [&mut self.down, &mut self.refusing, &mut self.frozen].into_iter().flatten()
        {
            trouble.next_canary = now;
        }
    }

    /// Failures are the provider's at the moment.
    pub(crate) fn is_troubled(&self) -> bool {
        self.down.is_some() || self.refusing.is_some() || self.frozen.is_some()
    }

    /// Refusals are not believed at the moment.
    pub(crate) fn refuses(&self, now: Duration) -> bool {
        self.refusing.is_some_and(|trouble| now < trouble.since + LONGEST_INCIDENT)
    }

    /// How a suspect fares in an incident.
    pub(crate) fn turn(&self, now: Duration, id: GrantId) -> Turn {
        let others = u32::try_from(self.refused.len()).unwrap_or(u32::MAX).max(1);
        let known = self.refused.get(&id).copied().unwrap_or_default();
        let long = self.refusing.is_some_and(|trouble| now >= trouble.since + UNANIMOUS_INCIDENT);
        Turn {
            rest: REFUSING_CANARY.saturating_mul(others).min(LONGEST_TURN),
            wants_probe: known.canaries >= REFUSED_AGAIN && !known.is_dead,
            may_be_right: long && self.is_lost(id),
        }
    }

    /// The access token of a grant that was refused is dead as well.
    pub(crate) fn is_dead(&mut self, id: GrantId) {
        if let Some(known) = self.refused.get_mut(&id) {
            known.is_dead = true;
        }
    }

    /// Refused again and again, and its access token is dead.
    pub(crate) fn is_lost(&self, id: GrantId) -> bool {
        self.refused.get(&id).is_some_and(|known| known.canaries >= REFUSED_AGAIN && known.is_dead)
    }

    /// Its refusals are true: it works, and those whom it has refused are lost.
    pub(crate) fn believe(&mut self, now: Duration) {
        *self = Self { worked_at: Some(now), ..Self::default() };
    }

    /// All that is the matter, in the words of metrics.
    pub(crate) fn troubles(&self) -> Vec<&'static str> {
        let all = [self.down, self.refusing, self.frozen];
        TROUBLES.into_iter().zip(all).filter_map(|(word, trouble)| trouble.map(|_| word)).collect()
    }

    /// What is the matter, for people.
    pub(crate) fn trouble(&self) -> Option<&'static str> {
        let named = [
            (self.frozen.is_some(), "it refuses the client"),
            (self.refusing.is_some(), "it refuses grants by the dozen"),
            (self.down.is_some(), "it is down"),
        ];
        named.into_iter().find_map(|(is, name)| is.then_some(name))
    }

    fn works(&mut self, asked: Duration) -> Option<VaultEventKind> {
        let troubled = self.is_troubled();
        *self = Self {
            worked_at: self.worked_at.max(Some(asked)),
            lately: std::mem::take(&mut self.lately),
            ..Self::default()
        };
        if troubled {
            // What was refused meanwhile was refused in error: it is not to begin the next incident.
            self.lately.retain(|(_, _, said)| *said == Said::Success);
        }
        troubled.then_some(VaultEventKind::ProviderUp)
    }

    fn refuse(&mut self, now: Duration) -> VaultEventKind {
        self.refusing = Some(Trouble::begins(now, REFUSING_CANARY));
        let refused = self.lately.iter().filter(|(.., said)| *said == Said::Refusal);
        self.refused = refused.map(|(_, id, _)| (*id, Refused::default())).collect();
        VaultEventKind::ProviderRefuses
    }

    fn remember(&mut self, now: Duration, id: GrantId, said: Said) {
        if matches!(said, Said::Success | Said::Refusal) {
            self.lately.push_back((now, id, said));
        }
        while self.lately.len() > REMEMBERED
            || self.lately.front().is_some_and(|(at, ..)| *at + BURST_WITHIN < now)
        {
            self.lately.pop_front();
        }
    }

    /// At least three grants were refused, and more than half of those that were asked. The latest word of each counts.
    fn bursts(&self) -> bool {
        let latest: HashMap<_, _> = self.lately.iter().map(|(_, id, said)| (*id, *said)).collect();
        let refused = latest.values().filter(|said| **said == Said::Refusal).count();
        refused >= BURST && refused * 2 > latest.len()
    }
}

/// A provider's rate: so many a second, at most a second's worth at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// When the next would be due if all came evenly.
    next: Duration,
}

impl Pace {
    pub(crate) fn gate(&self, now: Duration, per_second: Option<f64>) -> Gate {
        let Some(gap) = gap(per_second) else { return Gate::Open };
        let allowed = self.next.saturating_sub(Duration::from_secs(1).saturating_sub(gap));
        if allowed <= now { Gate::Open } else { Gate::Until(allowed) }
    }

    pub(crate) fn begin(&mut self, now: Duration, per_second: Option<f64>) {
        if let Some(gap) = gap(per_second) {
            self.next = self.next.max(now) + gap;
        }
    }

    /// What was begun has sent nothing.
    pub(crate) fn give_back(&mut self, per_second: Option<f64>) {
        if let Some(gap) = gap(per_second) {
            self.next = self.next.saturating_sub(gap);
        }
    }
}

fn gap(per_second: Option<f64>) -> Option<Duration> {
    let rate = per_second.filter(|rate| rate.is_finite() && *rate > 0.0)?;
    Some(Duration::from_secs_f64((1.0 / rate).min(3600.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GrantId = GrantId(1);

    fn s(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn hear(health: &mut Health, at: u64, id: i64, said: Said) -> Option<VaultEventKind> {
        health.hear(s(at), GrantId(id), s(at), said)
    }

    #[test]
    fn five_failures_in_a_row_are_the_providers_failure_and_told_once() {
        let mut health = Health::default();
        let told: Vec<_> =
            (0..9).filter_map(|id| hear(&mut health, 1, id, Said::Trouble)).collect();
        assert_eq!(told, [VaultEventKind::ProviderDown]);
        assert_eq!(health.gate(s(1)), Gate::Until(s(2)));
        assert_eq!(hear(&mut health, 3, 1, Said::Success), Some(VaultEventKind::ProviderUp));
        assert_eq!(health.gate(s(3)), Gate::Open);
    }

    #[test]
    fn one_grant_that_fails_again_and_again_is_its_own_failure() {
        let mut health = Health::default();
        assert!((0..99).all(|at| hear(&mut health, at, 1, Said::Trouble).is_none()));
        assert_eq!(health.gate(s(99)), Gate::Open);
    }

    #[test]
    fn one_canary_at_a_time_finds_out_ever_more_seldom() {
        let mut health = Health::default();
        for id in 0..5 {
            let _ = hear(&mut health, 0, id, Said::Trouble);
        }
        let mut at = 1;
        for delay in [5, 15, 30, 30] {
            assert_eq!(health.gate(s(at)), Gate::Open);
            health.begin(s(at), A);
            assert_ne!(health.gate(s(at)), Gate::Open, "a second canary");
            assert_eq!(hear(&mut health, at, 1, Said::Trouble), None);
            health.end(s(at), A);
            assert_eq!(health.gate(s(at)), Gate::Until(s(at + delay)));
            at += delay;
        }
        health.begin(s(at), A);
        assert_eq!(health.gate(s(at) + CANARY_LASTS), Gate::Open, "a lost canary holds up nothing");
    }

    #[test]
    fn a_burst_of_refusals_is_an_incident_and_a_few_among_many_are_not() {
        let mut health = Health::default();
        let told: Vec<_> =
            (0..9).filter_map(|id| hear(&mut health, 1, id, Said::Refusal)).collect();
        assert_eq!(told, [VaultEventKind::ProviderRefuses]);
        assert_eq!(health.witness(s(1), s(0)), Witness::Incident);
        assert_eq!(hear(&mut health, 40, 1, Said::Success), Some(VaultEventKind::ProviderUp));
        // Refused in error: they begin no second incident.
        assert_eq!(hear(&mut health, 41, 2, Said::Refusal), None);

        let mut health = Health::default();
        for id in 0..9 {
            let _ = hear(&mut health, 1, id, Said::Success);
        }
        assert!((10..18).all(|id| hear(&mut health, 2, id, Said::Refusal).is_none()));
        assert!(hear(&mut health, 2 + 301, 18, Said::Refusal).is_none(), "a single one later");
    }

    #[test]
    fn only_a_request_sent_after_the_refusal_vouches() {
        let mut health = Health::default();
        assert_eq!(health.witness(s(9), s(5)), Witness::Wanted);
        health.hear(s(9), A, s(4), Said::Success);
        assert_eq!(health.witness(s(9), s(5)), Witness::Wanted);
        health.hear(s(9), A, s(6), Said::Success);
        assert_eq!(health.witness(s(9), s(5)), Witness::Vouched);
        health.hear(s(9), A, s(3), Said::Success);
        assert_eq!(
            health.witness(s(9), s(5)),
            Witness::Vouched,
            "a slower answer takes nothing back"
        );
    }

    #[test]
    fn an_incident_is_believed_in_the_end_by_suspects_as_well() {
        let mut health = Health::default();
        assert_eq!(health.witness_refused(s(1)), Some(VaultEventKind::ProviderRefuses));
        assert!(health.refuses(s(2)));
        assert!(!health.refuses(s(1) + LONGEST_INCIDENT));
    }

    #[test]
    fn who_was_refused_by_two_canaries_and_is_dead_may_be_lost_after_an_hour() {
        let mut health = Health::default();
        let _ = health.witness_refused(s(0));
        for at in [30, 60] {
            assert!(!health.turn(s(at), A).wants_probe);
            let _ = hear(&mut health, at, 1, Said::Refusal);
        }
        assert!(health.turn(s(60), A).wants_probe && !health.is_lost(A));
        health.is_dead(A);
        assert!(health.is_lost(A) && !health.is_lost(GrantId(2)));
        assert!(!health.turn(s(3599), A).may_be_right);
        assert!(health.turn(s(3600), A).may_be_right);
        health.believe(s(3600));
        assert_eq!(health.witness(s(3601), s(60)), Witness::Vouched);
        assert!(!health.is_troubled());
    }

    #[test]
    fn what_says_nothing_is_no_canary() {
        let mut health = Health::default();
        let _ = hear(&mut health, 0, 1, Said::ClientRefused);
        let at = s(0) + FROZEN_CANARY;
        health.begin(at, A);
        health.end(at, A);
        assert_eq!(health.gate(at), Gate::Open);
        health.begin(at, A);
        let _ = health.hear(at, A, at, Said::ClientRefused);
        health.end(at, A);
        assert_eq!(health.gate(at), Gate::Until(at + FROZEN_CANARY));
    }

    #[test]
    fn a_refused_witness_is_an_incident_which_is_not_believed_for_ever() {
        let mut health = Health::default();
        assert_eq!(health.witness_refused(s(1)), Some(VaultEventKind::ProviderRefuses));
        assert_eq!(health.witness_refused(s(2)), None);
        assert_eq!(health.witness(s(2), s(0)), Witness::Incident);
        assert_eq!(health.witness(s(1) + LONGEST_INCIDENT, s(0)), Witness::Vouched);
    }

    #[test]
    fn a_refused_client_is_asked_seldom_or_after_a_reload() {
        let mut health = Health::default();
        assert_eq!(
            hear(&mut health, 0, 1, Said::ClientRefused),
            Some(VaultEventKind::ClientRefused)
        );
        assert_eq!(hear(&mut health, 0, 2, Said::ClientRefused), None);
        assert_eq!(health.gate(s(1)), Gate::Until(FROZEN_CANARY));
        health.reloaded(s(2));
        assert_eq!(health.gate(s(2)), Gate::Open);
    }

    #[test]
    fn a_rate_allows_a_second_at_once_and_then_its_pace() {
        let (mut pace, rate) = (Pace::default(), Some(4.0));
        let mut sent = 0;
        for tick in 0..=40 {
            let now = s(100) + Duration::from_millis(tick * 50);
            while pace.gate(now, rate) == Gate::Open {
                pace.begin(now, rate);
                sent += 1;
            }
        }
        assert_eq!(sent, 4 + 2 * 4);
        assert_eq!(pace.gate(s(0), None), Gate::Open);
    }
}
