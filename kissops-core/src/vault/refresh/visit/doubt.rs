//! Grants of which it is not known how they are: a refresh that somebody left behind, silence, a refusal.

use std::time::Duration;

use super::{
    super::{
        breaker::Witness,
        decide::{Before, Judged, Settled, Verdict},
        engine::{Checkpoint, Demand},
        flight::Call,
        schedule::Urgency,
        session::Owner,
    },
    Step, Visit, closed, ticket,
};
use crate::{
    Result, Timestamp,
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
            RefreshPhase::Unanswered => self.silent(record, intent).await,
        }
    }

    /// Whoever sent it may have outlived the one who asked for it.
    async fn ask_exchanger(&self, record: GrantRecord, intent: RefreshRecord) -> Result<Step> {
        match self.engine.exchanger.recover(ticket(&intent)).await {
            Ok(Some(Exchanged::Answered(raw))) => {
                self.land(&intent, raw).await?;
                Ok(Step::Again(Duration::ZERO))
            }
            Ok(Some(Exchanged::NotSent(_))) => self.send_again(record, intent, Before::Known).await,
            Ok(Some(Exchanged::Unanswered(_)) | None) => self.silent(record, intent).await,
            Err(err) => {
                tracing::warn!(grant = record.grant.id.0, error = %err.chain(), "the exchanger does not say what became of a refresh");
                Ok(Step::Again(RECOVER_AGAIN))
            }
        }
    }

    /// It was sent, and nobody knows what became of it.
    pub(super) async fn silent(&self, record: GrantRecord, intent: RefreshRecord) -> Result<Step> {
        if self.rotation == RotationClass::Reusable {
            return self.send_again(record, intent, Before::Known).await;
        }
        let (record, settles_at) = self.settling(record, intent.updated_at).await?;
        let now = self.engine.now();
        if now < settles_at {
            let why = "a refresh was sent and not answered: what became of it is being found out";
            return Ok(Step::Refused(Box::new(record), self.unavailable(why)));
        }
        // Whoever comes between two times at which the provider is asked learns nothing by asking once more.
        if record.status.next_refresh_at.is_some_and(|at| at > now) {
            let why =
                "a refresh was not answered, and the provider does not say yet what became of it";
            return Ok(Step::Refused(Box::new(record), self.unavailable(why)));
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
        let due = record.status.next_refresh_at.is_none_or(|at| at <= self.engine.now());
        if !due && self.wants.is_empty() {
            return Ok(Step::Refused(
                Box::new(record),
                self.unavailable("a refresh was not answered"),
            ));
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
        let status = GrantStatus {
            next_refresh_at: Some(settles_at),
            ..self.case(&record).unanswered("").status
        };
        let state = GrantState::Ambiguous { since: now, settles_at };
        let record = self.set_status(record, GrantStatus { state, ..status }).await?;
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
        if self.engine.with_desk(provider, |desk| desk.health.refuses()) {
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

    /// Refusals are not believed now. A suspect that was let in is the canary.
    async fn in_incident(&self, record: GrantRecord, reason: &str) -> Result<Step> {
        let lately = record
            .status
            .failure
            .is_some_and(|failure| self.engine.now().since(failure.at) < INCIDENT_LASTS);
        if !lately {
            return self.refresh(record).await;
        }
        let next = Some(self.engine.now().plus(INCIDENT_LASTS));
        let status = GrantStatus { next_refresh_at: next, ..record.status.clone() };
        let record = self.set_status(record, status).await?;
        Ok(Step::Refused(Box::new(record), self.unavailable(reason)))
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
        if engine.with_desk(provider, |desk| desk.witness.is_some()) {
            return Ok(true);
        }
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
        };
        // Whoever is due soonest loses least by it.
        let soonest = |other: &&GrantRecord| other.status.next_refresh_at;
        let Some(other) = others.iter().filter(able).min_by_key(soonest) else { return Ok(false) };
        let (id, now) = (other.grant.id, engine.time.elapsed());
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
