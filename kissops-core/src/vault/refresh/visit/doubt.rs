//! Grants of which it is not known how they are: a refresh that somebody left behind, silence, a refusal.

use std::time::Duration;

use super::{
    super::{
        breaker::Witness,
        decide::{Before, Judged, Settled, Verdict},
        engine::{Checkpoint, Demand, Desk},
        flight::Call,
        schedule::Urgency,
        session::Owner,
        upkeep::Pages,
    },
    Step, Visit, closed, ticket,
};
use crate::{
    Error, Result, Timestamp,
    store::{
        GrantFlow, GrantQuery, GrantRecord, GrantState, GrantStateName, GrantStatus, RefreshPhase,
        RefreshRecord,
    },
    vault::{Exchanged, Probed, RotationClass},
};

/// Whoever never comes back with an answer is asked again.
const RECOVER_AGAIN: Duration = Duration::from_secs(1);
/// Until a witness has said something.
const WITNESS_TAKES: Duration = Duration::from_secs(2);
/// Until an incident may be over.
const INCIDENT_LASTS: Duration = Duration::from_secs(30);
/// A witness of which nothing is heard is given up: another one is asked.
const WITNESS_LASTS: Duration = Duration::from_mins(5);
/// Longer than any answer takes that is on its way.
const ANSWERS_WITHIN: Duration = Duration::from_mins(1);
/// So many attempts of a refresh are asked for, the latest first.
const ASKED_FOR: usize = 8;
const SILENCE: &str = "a refresh was sent and not answered: what became of it is being found out";
/// One of so many is the witness.
const WITNESSES: u32 = 32;

impl Visit<'_> {
    /// Goes on with the refresh that is under way, whoever began it.
    pub(super) async fn resume(&self, record: GrantRecord) -> Result<Step> {
        let engine = self.engine;
        let Some(intent) = engine.store.refresh(record.grant.id).await? else {
            return match record.status.state {
                // An earlier attempt is settled and has left nothing.
                GrantState::Ambiguous { .. } => self.after_silence(record).await,
                _ if self.wants.left_behind => Ok(Step::Well(Box::new(record))),
                // It is over by now.
                _ => Ok(self.poll()),
            };
        };
        if intent.refresh.generation != record.generation {
            return Ok(self.poll());
        }
        if let Owner::Other(_) = engine.session.owner(&intent.refresh.fence).await? {
            return Ok(self.poll());
        }
        match intent.phase {
            RefreshPhase::Landed => match self.stored_answer(&record).await? {
                Some(read) => {
                    let before = if intent.attempt > 1 { Before::Silence } else { Before::Known };
                    self.digest(record, intent, read, before, None).await
                }
                None => self.silent(record, intent).await,
            },
            RefreshPhase::Intended => self.send_again(record, intent, Before::Silence).await,
            RefreshPhase::Sent => self.ask_exchanger(record, intent).await,
            RefreshPhase::Unanswered => {
                let lately = engine.now().since(intent.updated_at) < ANSWERS_WITHIN;
                if !lately && self.is_early(&record) {
                    return Ok(Step::Refused(Box::new(record), self.unavailable(SILENCE)));
                }
                self.ask_exchanger(record, intent).await
            }
        }
    }

    /// Whoever sent it may have outlived the one who asked for it, or only the line between the two may be broken: then it
    /// has the answer, or is still at work.
    async fn ask_exchanger(&self, record: GrantRecord, intent: RefreshRecord) -> Result<Step> {
        for attempt in (1..=intent.attempt).rev().take(ASKED_FOR) {
            let asked = RefreshRecord { attempt, ..intent.clone() };
            match self.engine.exchanger.recover(ticket(&asked)).await {
                Ok(Some(Exchanged::Answered(raw))) => {
                    self.land(&asked, raw).await?;
                    return Ok(Step::Again(Duration::ZERO));
                }
                Ok(Some(Exchanged::NotSent(_))) if attempt == intent.attempt => {
                    let before = if attempt > 1 { Before::Silence } else { Before::Known };
                    return self.send_again(record, intent, before).await;
                }
                Ok(Some(_) | None) => {}
                // Nobody can read it: that is as if there were nothing.
                Err(err @ Error::Corrupt { .. }) => self.tell_unreadable(&record, &err),
                Err(err) => {
                    tracing::warn!(grant = record.grant.id.0, error = %err.chain(), "the exchanger does not say what became of a refresh");
                    return Ok(Step::Again(RECOVER_AGAIN));
                }
            }
        }
        self.silent(record, intent).await
    }

    fn tell_unreadable(&self, record: &GrantRecord, err: &Error) {
        let id = record.grant.id;
        let first = |desk: &mut Desk| desk.unreadable.insert(id);
        if self.engine.with_desk(&record.grant.key.provider, first) {
            tracing::error!(grant = id.0, error = %err.chain(), "what the exchanger keeps of a refresh cannot be read: it is taken as nothing");
        }
    }

    /// Nothing is due, and nobody waits.
    fn is_early(&self, record: &GrantRecord) -> bool {
        let later = record.status.next_refresh_at.is_some_and(|at| at > self.engine.now());
        later && self.wants.is_empty()
    }

    /// It was sent, and nobody knows what became of it.
    pub(super) async fn silent(&self, record: GrantRecord, intent: RefreshRecord) -> Result<Step> {
        if self.rotation == RotationClass::Reusable {
            return self.send_again(record, intent, Before::Known).await;
        }
        let (record, settles_at) = self.settling(record, intent.updated_at).await?;
        if self.engine.now() < settles_at || self.is_early(&record) {
            return Ok(Step::Refused(Box::new(record), self.unavailable(SILENCE)));
        }
        let probed = self.probe(&record).await?;
        match self.case(&record).settled(self.upstream.undecidable(), probed.as_ref()) {
            Settled::SendAgain => {
                // A provider that takes a token once kills the access token with it: this one is shown not to be used.
                let shown = matches!(probed, Some(Probed::Good { .. }))
                    && self.rotation == RotationClass::OneTime;
                let before = if shown { Before::Known } else { Before::Silence };
                self.send_again(record, intent, before).await
            }
            Settled::AskLater(verdict) => {
                let record = self.keep(record, verdict).await?;
                let why = "a refresh was not answered, and the provider does not say whether the old token is good";
                Ok(Step::Refused(Box::new(record), self.unavailable(why)))
            }
            Settled::Lost(reason) => {
                let since = record.status.state.since();
                self.mark(record, Some(intent), &reason, since).await
            }
        }
    }

    /// Ambiguous without anything under way: an attempt after the silence was refused for now.
    async fn after_silence(&self, record: GrantRecord) -> Result<Step> {
        if self.is_early(&record) {
            return Ok(Step::Refused(Box::new(record), self.unavailable(SILENCE)));
        }
        self.refresh(record).await
    }

    /// The grant as ambiguous, and when the provider can be asked. Counted from when it was sent, not from when somebody
    /// came to see: a loss is to be known soon after a restart.
    async fn settling(
        &self,
        record: GrantRecord,
        sent: Timestamp,
    ) -> Result<(GrantRecord, Timestamp)> {
        let (now, settle) = (self.engine.now(), self.upstream.limits().settle);
        if let GrantState::Ambiguous { settles_at, .. } = record.status.state {
            // A clock that went back is not to hold it up.
            return Ok((record, settles_at.min(now.plus(settle))));
        }
        let settles_at = sent.plus(settle).min(now.plus(settle));
        let verdict = self.case(&record).unanswered(SILENCE);
        let state = GrantState::Ambiguous { since: now, settles_at };
        let status = GrantStatus { state, next_refresh_at: Some(settles_at), ..verdict.status };
        let record = self.keep(record, Verdict { status, ..verdict }).await?;
        Ok((record, settles_at))
    }

    /// One more attempt. In two steps: an answer to the one before may come in between.
    async fn send_again(
        &self,
        record: GrantRecord,
        intent: RefreshRecord,
        before: Before,
    ) -> Result<Step> {
        let engine = self.engine;
        if intent.phase == RefreshPhase::Landed {
            // What was kept says nothing: it makes room for another beginning.
            let verdict = Verdict { status: record.status.clone(), tell: None };
            let record = self.end(&record, &intent, verdict).await?;
            return self.after_silence(record).await;
        }
        let Some(request) = self.request(&record).await? else {
            let since = record.status.state.since();
            return self.mark(record, Some(intent), "it has no refresh token", since).await;
        };
        let span = self.upstream.limits().exchange_limit + engine.session.margin();
        let right = engine.session.lasting(span).await?;
        engine.keyring.ready().await?;
        let now = engine.now();
        let retried = engine.store.retry_refresh(&intent, &right.fence, now).await?;
        engine.pass(Checkpoint::Retried, record.grant.id);
        let sent = engine.store.mark_sent(&retried, engine.now()).await?;
        self.exchange(record, sent, request, &right, before).await
    }

    /// Refused for good: confirmed by its access token, by a second vote, and by how other grants of the provider fare.
    pub(super) async fn doubted(&self, record: GrantRecord) -> Result<Step> {
        let GrantState::Suspect { since, reason } = &record.status.state else {
            // Somebody has decided otherwise meanwhile.
            return Ok(self.poll());
        };
        let (since, reason) = (*since, reason.clone());
        let now = self.engine.now();
        let due = record.status.next_refresh_at.is_none_or(|at| at <= now);
        if !due {
            return Ok(Step::Refused(Box::new(record), self.unavailable(reason)));
        }
        let provider = self.identity.key.provider.as_str();
        let elapsed = self.engine.time.elapsed();
        if self.engine.with_desk(provider, |desk| desk.health.refuses(elapsed)) {
            return self.in_incident(record, &reason).await;
        }
        let probed = self.probe(&record).await?;
        match self.case(&record).judge(&reason, probed.as_ref()) {
            Judged::Vote => self.refresh(record).await,
            Judged::Wait(verdict) => {
                let record = self.keep(record, verdict).await?;
                Ok(Step::Refused(Box::new(record), self.unavailable(reason)))
            }
            Judged::Condemned(reason) => self.mark(record, None, &reason, since).await,
        }
    }

    /// Refusals are not believed now. A suspect that was let in is the canary, each in its turn.
    async fn in_incident(&self, record: GrantRecord, reason: &str) -> Result<Step> {
        let (id, provider) = (record.grant.id, record.grant.key.provider.as_str());
        let elapsed = self.engine.time.elapsed();
        let lately = record
            .status
            .failure
            .is_some_and(|failure| self.engine.now().since(failure.at) < INCIDENT_LASTS);
        if !lately {
            return self.refresh(record).await;
        }
        let turn = |desk: &mut Desk| desk.health.turn(elapsed, id);
        if self.engine.with_desk(provider, turn).wants_probe
            && let Some(Probed::Dead { .. }) = self.probe(&record).await?
        {
            self.engine.with_desk(provider, |desk| desk.health.is_dead(id));
        }
        let turn = self.engine.with_desk(provider, turn);
        if turn.may_be_right && self.is_unanimous(&record).await? {
            self.engine.believe(provider);
            return Ok(Step::Changed(Box::new(record)));
        }
        self.hold(record, reason, turn.rest).await
    }

    /// Whether every grant of the provider that is in use is as lost as this one. One that was not asked is.
    async fn is_unanimous(&self, record: &GrantRecord) -> Result<bool> {
        let engine = self.engine;
        let provider = record.grant.key.provider.as_str();
        let mut pages = Pages::of(Some(provider), None);
        while let Some(page) = pages.next(engine).await? {
            for other in
                page.iter().filter(|other| other.grant.flow != GrantFlow::ClientCredentials)
            {
                let id = other.grant.id;
                let (is_lost, is_mute) = engine
                    .with_desk(provider, |desk| (desk.health.is_lost(id), desk.mute.contains(&id)));
                let speaks_for_it = match other.status.state {
                    GrantState::Active { .. } | GrantState::Degraded { .. } => {
                        !is_mute && self.call_witness(record).await?
                    }
                    GrantState::Suspect { .. } | GrantState::Ambiguous { .. } => !is_lost,
                    _ => false,
                };
                if speaks_for_it {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Marks a grant as lost, unless its provider errs: then another grant is refused as well.
    async fn mark(
        &self,
        record: GrantRecord,
        intent: Option<RefreshRecord>,
        reason: &str,
        since: Timestamp,
    ) -> Result<Step> {
        let engine = self.engine;
        let now = engine.time.elapsed();
        let doubted = now.saturating_sub(engine.now().since(since));
        let provider = record.grant.key.provider.clone();
        match engine.with_desk(&provider, |desk| desk.health.witness(now, doubted)) {
            Witness::Vouched => {}
            Witness::Incident => return self.hold(record, reason, INCIDENT_LASTS).await,
            Witness::Wanted => {
                if self.call_witness(&record).await? {
                    return self.hold(record, reason, WITNESS_TAKES).await;
                }
            }
        }
        engine.pass(Checkpoint::BeforeMark, record.grant.id);
        let verdict = self.case(&record).needs_reauth(reason);
        let record = match intent {
            Some(intent) => self.end(&record, &intent, verdict).await?,
            None => self.keep(record, verdict).await?,
        };
        let refusal = closed(&record);
        Ok(Step::Refused(Box::new(record), refusal))
    }

    async fn hold(&self, record: GrantRecord, reason: &str, span: Duration) -> Result<Step> {
        let next = Some(self.engine.now().plus(span));
        let status = GrantStatus { next_refresh_at: next, ..record.status.clone() };
        let record = self.set_status(record, status).await?;
        Ok(Step::Refused(Box::new(record), self.unavailable(reason)))
    }

    /// Has another grant of the provider refreshed. `false`: there is none that could tell.
    async fn call_witness(&self, record: &GrantRecord) -> Result<bool> {
        let engine = self.engine;
        let provider = &record.grant.key.provider;
        let now = engine.time.elapsed();
        let is_called = |desk: &mut Desk| {
            desk.witness.is_some_and(|(_, at)| now < at + WITNESS_LASTS).then_some(())
        };
        if engine.with_desk(provider, is_called).is_some() {
            return Ok(true);
        }
        let mute = engine.with_desk(provider, |desk| desk.mute.clone());
        let query = GrantQuery {
            provider: Some(provider.clone()),
            state: Some(GrantStateName::Active),
            limit: WITNESSES,
            ..GrantQuery::default()
        };
        let others = engine.store.grants(query).await?;
        let able = |other: &&GrantRecord| {
            other.grant.id != record.grant.id
                && other.grant.flow != GrantFlow::ClientCredentials
                && other.status.next_refresh_at.is_some()
                && !mute.contains(&other.grant.id)
        };
        // Whoever is due soonest loses least by it.
        let soonest = |other: &&GrantRecord| other.status.next_refresh_at;
        let Some(other) = others.iter().filter(able).min_by_key(soonest) else { return Ok(false) };
        let id = other.grant.id;
        engine.with_desk(provider, |desk| desk.witness = Some((id, now)));
        engine.flights.call(id, provider, Call::Witness);
        engine.demand(Demand {
            id,
            provider: provider.as_str().into(),
            due: now,
            urgency: Urgency::Awaited,
        });
        Ok(true)
    }
}
