//! One visit to a grant: reads how it is, does what is next, and says when to come again.
//!
//! A visit holds nothing over time. Whatever takes long (a settling provider, another process at work, a backoff) is a
//! time at which to come again, and what is known by then is in the store.

use std::{sync::Arc, time::Duration};

use super::{
    decide::{Case, Verdict},
    engine::{Checkpoint, Engine, rotation},
    flight::{Fate, Refusal, Wants},
    schedule::{Urgency, share, validate_point},
    upstream::Upstream,
};
use crate::{
    Error, Result, Timestamp,
    store::{Generation, GrantId, GrantRecord, GrantState, GrantStatus, RefreshRecord, TokenKind},
    vault::{GrantIdentity, Probed, RotationClass, VaultEventKind},
};

mod doubt;
mod exchange;
mod fresh;
mod tokens;

pub(crate) use tokens::find_token;

/// What comes of a visit.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// For those who wait. `None`: they go on waiting.
    pub(crate) fate: Option<Fate>,
    /// When to come again, if that is to be planned already.
    pub(crate) next: Option<(Duration, Urgency)>,
}

/// After a failure of the store.
const STORE_REST: Duration = Duration::from_secs(2);
/// How often one looks whether another process is done: while somebody waits, and otherwise.
const PEER_POLL: Duration = Duration::from_millis(100);
const PEER_POLL_IDLE: Duration = Duration::from_secs(2);
/// What is due later than this is found in the store again.
pub(crate) const HORIZON: Duration = Duration::from_mins(3);
/// An API that refuses what the provider calls good is not a reason to refresh more often than this.
const REFRESHED_LATELY: Duration = Duration::from_mins(1);
/// After a validation that said nothing.
const VALIDATE_AGAIN: Duration = Duration::from_mins(5);

/// A visit changes a grant a few times at most: refused, voted on, marked.
const STEPS: usize = 8;

/// What a visit comes to.
enum Step {
    /// It is as it is to be.
    Well(Box<GrantRecord>),
    /// Nothing can be done about it now.
    Refused(Box<GrantRecord>, Refusal),
    /// Those who wait go on waiting; come again after that.
    Again(Duration),
    /// It has changed by what was done: see what is next.
    Changed(Box<GrantRecord>),
    /// A refresh of it is under way, or was.
    UnderWay(Box<GrantRecord>),
}

pub(crate) struct Visit<'a> {
    engine: &'a Engine,
    upstream: Arc<dyn Upstream>,
    identity: GrantIdentity,
    /// What becomes of a token that is presented; a client's own secret stays good.
    rotation: RotationClass,
    wants: Wants,
}

/// Sees to a grant.
pub(crate) async fn visit(engine: &Engine, id: GrantId, wants: Wants) -> Outcome {
    let stepped = match engine.store.grant_by_id(id).await {
        Ok(Some(record)) => steps(engine, record, wants).await,
        Ok(None) => {
            let what = format!("grant {}", id.0);
            return Outcome { fate: Some(Err(Refusal::NotFound { what })), next: None };
        }
        Err(err) => Err(err),
    };
    match stepped {
        Ok(Step::Well(record)) => {
            let fate =
                if wants.is_empty() { Err(Refusal::Closed) } else { engine.open(&record).await };
            Outcome { fate: Some(fate), next: next(engine, &record) }
        }
        Ok(Step::Refused(record, refusal)) => {
            Outcome { fate: Some(Err(refusal)), next: next(engine, &record) }
        }
        Ok(Step::Changed(_) | Step::UnderWay(_)) => Outcome {
            fate: None,
            next: Some((engine.time.elapsed() + PEER_POLL, Urgency::Whenever)),
        },
        Ok(Step::Again(after)) => {
            let urgency = if wants.is_empty() { Urgency::Whenever } else { Urgency::Awaited };
            Outcome { fate: None, next: Some((engine.time.elapsed() + after, urgency)) }
        }
        // Somebody changed it at the same time, or the session is another's: see what it is now.
        Err(Error::Conflict { .. }) => {
            engine.session.verify().await;
            Outcome {
                fate: None,
                next: Some((engine.time.elapsed() + PEER_POLL, Urgency::Awaited)),
            }
        }
        Err(err) => {
            tracing::warn!(grant = id.0, error = %err.chain(), "a grant cannot be seen to");
            let rest = if err.is_transient() { STORE_REST } else { VALIDATE_AGAIN };
            let next = Some((engine.time.elapsed() + rest, Urgency::Whenever));
            Outcome { fate: Some(Err(Refusal::from(&err))), next }
        }
    }
}

fn next(engine: &Engine, record: &GrantRecord) -> Option<(Duration, Urgency)> {
    let due = due(&record.status)?;
    let now = engine.now();
    let after = due.since(now);
    (after <= HORIZON).then(|| (engine.time.elapsed() + after, Urgency::of(&record.expiry)))
}

/// When something is due for a grant by itself. What is in doubt is not validated: it is being found out already.
pub(crate) fn due(status: &GrantStatus) -> Option<Timestamp> {
    status.next_refresh_at.into_iter().chain(validated_at(status)).min()
}

/// When a grant is to be validated.
pub(crate) fn validated_at(status: &GrantStatus) -> Option<Timestamp> {
    let in_use = matches!(status.state, GrantState::Active { .. } | GrantState::Degraded { .. });
    status.next_validate_at.filter(|_| in_use)
}

async fn steps(engine: &Engine, record: GrantRecord, wants: Wants) -> Result<Step> {
    let Some(upstream) = engine.upstreams.get(&record.grant.key.provider) else {
        return Ok(unconfigured(record));
    };
    let rotation = rotation(&*upstream, &record);
    let identity = GrantIdentity::from(&record);
    let visit = Visit { engine, upstream, identity, rotation, wants };
    let mut step = Step::Changed(Box::new(record));
    for _ in 0..STEPS {
        step = match step {
            Step::Changed(record) => visit.step(*record).await?,
            Step::UnderWay(record) => visit.resume(*record).await?,
            ended => return Ok(ended),
        };
    }
    Ok(step)
}

/// Nothing can be asked of a provider that is not there; the next reading of what is due finds its grants again.
fn unconfigured(record: GrantRecord) -> Step {
    let refusal = Refusal::WrongState {
        what: format!("provider `{}`", record.grant.key.provider),
        state: "not configured".into(),
        help: "add it to the configuration, or remove its grants".into(),
    };
    let status = unplanned(&record.status);
    Step::Refused(Box::new(GrantRecord { status, ..record }), refusal)
}

/// A grant that nothing is to be done about before something else changes; it is found again by the next reading.
fn unplanned(status: &GrantStatus) -> GrantStatus {
    GrantStatus { next_refresh_at: None, next_validate_at: None, ..status.clone() }
}

/// Why a grant is neither refreshed nor handed out.
pub(crate) fn closed(record: &GrantRecord) -> Refusal {
    let key = &record.grant.key;
    let (state, help) = match &record.status.state {
        GrantState::Fenced { reason, .. } => (
            format!("fenced ({reason})"),
            "`kissops vault adopt` once no other copy of this vault is in use".into(),
        ),
        GrantState::NeedsReauth { reason, .. } => (
            format!("in need of a new authorization ({reason})"),
            format!("`kissops token authorize {} {}`", key.provider, key.account),
        ),
        GrantState::Revoked { reason, .. } => (
            format!("revoked ({reason})"),
            format!("`kissops token authorize {} {}` to use it again", key.provider, key.account),
        ),
        state => (
            state.name().as_str().to_owned(),
            format!("`kissops token authorize {} {}`", key.provider, key.account),
        ),
    };
    Refusal::WrongState { what: format!("grant `{key}`"), state, help }
}

impl Visit<'_> {
    async fn step(&self, record: GrantRecord) -> Result<Step> {
        let is_newer = |wanted: Generation| record.generation > wanted;
        let satisfied =
            self.wants.after.is_some_and(is_newer) && self.wants.check.is_none_or(is_newer);
        if satisfied && !self.wants.witness && !self.wants.left_behind {
            return Ok(Step::Well(Box::new(record)));
        }
        match &record.status.state {
            GrantState::Pending { .. }
            | GrantState::Revoked { .. }
            | GrantState::NeedsReauth { .. } => {
                let refusal = closed(&record);
                Ok(Step::Refused(Box::new(record), refusal))
            }
            GrantState::Fenced { .. } => self.fenced(record).await,
            GrantState::Ambiguous { .. } => Ok(Step::UnderWay(Box::new(record))),
            GrantState::Suspect { .. } => self.doubted(record).await,
            GrantState::Active { .. } | GrantState::Degraded { .. } => self.usual(record).await,
        }
    }

    /// Nothing is the matter so far.
    async fn usual(&self, record: GrantRecord) -> Result<Step> {
        let now = self.engine.now();
        let generation = record.generation;
        let due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        let asked_for =
            self.wants.after.is_some_and(|after| after >= generation) || self.wants.witness;
        if asked_for || due(record.status.next_refresh_at) {
            return self.refresh(record).await;
        }
        if self.wants.left_behind {
            return Ok(Step::UnderWay(Box::new(record)));
        }
        if self.wants.check.is_some_and(|checked| checked >= generation) {
            return self.check(record).await;
        }
        if due(record.status.next_validate_at) {
            return self.validate(record).await;
        }
        Ok(Step::Well(Box::new(record)))
    }

    /// An API has refused the access token: whether it is right is asked once for all who say so.
    async fn check(&self, record: GrantRecord) -> Result<Step> {
        if self.engine.was_checked(record.grant.id, record.generation) {
            return Ok(Step::Well(Box::new(record)));
        }
        match self.probe(&record).await? {
            Some(Probed::Dead { detail }) => self.dead(record, &detail).await,
            Some(Probed::Good { .. } | Probed::Unknown { .. }) => {
                self.engine.checked(record.grant.id, record.generation);
                Ok(Step::Well(Box::new(record)))
            }
            // Nobody can be asked: the API is believed, but not again and again.
            None => {
                let lately = |at: Timestamp| self.engine.now().since(at) < REFRESHED_LATELY;
                if record.refreshed_at.is_some_and(lately) {
                    return Ok(Step::Well(Box::new(record)));
                }
                self.refresh(record).await
            }
        }
    }

    /// The provider wants to be asked from time to time.
    async fn validate(&self, record: GrantRecord) -> Result<Step> {
        let now = self.engine.now();
        let probed = self.probe(&record).await?;
        let next = match (self.upstream.validate_every(), &probed) {
            (Some(every), Some(Probed::Good { .. } | Probed::Dead { .. })) => {
                Some(validate_point(record.grant.id, now, every))
            }
            (Some(_), Some(Probed::Unknown { .. })) => Some(now.plus(VALIDATE_AGAIN)),
            (None, _) | (_, None) => None,
        };
        // Before anything else: whatever comes of it, it is not validated again at once.
        let status = GrantStatus { next_validate_at: next, ..record.status.clone() };
        let record = self.set_status(record, status).await?;
        let Some(Probed::Dead { detail }) = probed else { return Ok(Step::Well(Box::new(record))) };
        let backs_off = record.status.failure.is_some()
            && record.status.next_refresh_at.is_some_and(|at| at > now);
        if backs_off {
            return Ok(Step::Well(Box::new(record)));
        }
        self.dead(record, &detail).await
    }

    /// Its access token is dead: a refresh brings another one, or there is nothing that does.
    async fn dead(&self, record: GrantRecord, detail: &str) -> Result<Step> {
        if self.request(&record).await?.is_some() {
            return self.refresh(record).await;
        }
        let verdict = self.case(&record).dead(&format!("its access token is refused: {detail}"));
        Ok(Step::Changed(Box::new(self.keep(record, verdict).await?)))
    }

    /// From a backup, or another host may use it. Where a token is not used up by being used, a probe shows enough.
    async fn fenced(&self, record: GrantRecord) -> Result<Step> {
        let refusal = closed(&record);
        let due = record.status.next_refresh_at.is_some_and(|at| at <= self.engine.now());
        if !due || self.rotation != RotationClass::Reusable {
            return Ok(Step::Refused(Box::new(record), refusal));
        }
        let now = self.engine.now();
        match self.probe(&record).await? {
            Some(Probed::Good { .. }) => {
                let status = GrantStatus {
                    state: GrantState::Active { since: now },
                    failure: None,
                    next_refresh_at: Some(now),
                    next_validate_at: record.status.next_validate_at,
                };
                let record = self.set_status(record, status).await?;
                let said = "the provider calls its token good, and a token of this provider may be used twice";
                self.engine.tell(&record.grant.key, VaultEventKind::Adopted, said.into());
                Ok(Step::Well(Box::new(record)))
            }
            Some(Probed::Unknown { .. }) => {
                let next = Some(now.plus(VALIDATE_AGAIN));
                let status = GrantStatus { next_refresh_at: next, ..record.status.clone() };
                Ok(Step::Refused(Box::new(self.set_status(record, status).await?), refusal))
            }
            Some(Probed::Dead { .. }) | None => {
                let status = unplanned(&record.status);
                Ok(Step::Refused(Box::new(self.set_status(record, status).await?), refusal))
            }
        }
    }

    /// Asks about the access token. `None`: nobody can be asked, or it has expired by itself.
    async fn probe(&self, record: &GrantRecord) -> Result<Option<Probed>> {
        let expired = record.expiry.access.is_some_and(|end| end <= self.engine.now());
        if expired || !self.upstream.can_probe() {
            return Ok(None);
        }
        let Some(access) = self.token(record, TokenKind::Access).await? else { return Ok(None) };
        self.engine.learn_one(&access, record.expiry.access)?;
        self.engine.pass(Checkpoint::BeforeProbe, record.grant.id);
        self.engine.sends(&record.grant.key.provider, record.grant.id);
        Ok(Some(self.upstream.probe(&access).await))
    }

    /// The grant as it is decided upon.
    fn case<'c>(&self, record: &'c GrantRecord) -> Case<'c> {
        let provider_down =
            self.engine.with_desk(&record.grant.key.provider, |desk| desk.health.is_troubled());
        // Another one for each round, the same in each process.
        let round = record.status.failure.map_or(0, |failure| i64::from(failure.count));
        Case {
            status: &record.status,
            expiry: record.expiry,
            rotation: self.rotation,
            settle: self.upstream.limits().settle,
            provider_down,
            now: self.engine.now(),
            jitter: share(GrantId(record.grant.id.0.wrapping_add(round))),
        }
    }

    /// Keeps a verdict, and tells it.
    async fn keep(&self, record: GrantRecord, verdict: Verdict) -> Result<GrantRecord> {
        let record = self.set_status(record, verdict.status).await?;
        if let Some((kind, message)) = verdict.tell {
            self.engine.tell(&record.grant.key, kind, message);
        }
        Ok(record)
    }

    async fn set_status(&self, record: GrantRecord, status: GrantStatus) -> Result<GrantRecord> {
        if record.status == status {
            return Ok(record);
        }
        let now = self.engine.now();
        let id = record.grant.id;
        let version =
            self.engine.store.set_grant_status(id, record.version, status.clone(), now).await?;
        Ok(GrantRecord { version, status, updated_at: now, ..record })
    }

    /// Ends the attempt without a new pair, with a verdict on the grant.
    async fn end(
        &self,
        record: &GrantRecord,
        intent: &RefreshRecord,
        verdict: Verdict,
    ) -> Result<GrantRecord> {
        let engine = self.engine;
        let right = engine.session.lasting(Duration::ZERO).await?;
        engine.pass(Checkpoint::BeforeEnd, record.grant.id);
        let seen = &record.status.state;
        let wanted = verdict.status.state.clone();
        let ended = engine
            .store
            .end_refresh(intent, &right.fence, seen, verdict.status, engine.now())
            .await?;
        engine.pass(Checkpoint::Ended, record.grant.id);
        engine.settle(intent).await;
        // Somebody may have decided otherwise meanwhile; then that was told.
        if let Some((kind, message)) = verdict.tell.filter(|_| ended.status.state == wanted) {
            engine.tell(&ended.grant.key, kind, message);
        }
        Ok(ended)
    }

    fn unavailable(&self, why: impl Into<String>) -> Refusal {
        Refusal::Unavailable {
            what: format!("a token of `{}`", self.identity.key),
            why: why.into(),
        }
    }

    fn poll(&self) -> Step {
        Step::Again(if self.wants.is_empty() { PEER_POLL_IDLE } else { PEER_POLL })
    }
}

pub(crate) fn ticket(intent: &RefreshRecord) -> crate::vault::Ticket {
    crate::vault::Ticket {
        grant: intent.refresh.grant,
        generation: intent.refresh.generation,
        attempt: intent.attempt,
    }
}
