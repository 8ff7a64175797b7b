//! What all parts of the refresher share.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use secrecy::SecretString;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use super::{
    breaker::{Health, Pace, Said},
    flight::{Flights, Refusal, Want},
    schedule::{Gate, Urgency},
    session::Session,
    upstream::{Upstream, Upstreams},
    visit::HORIZON,
    watch::{Opened, Watchers},
};
use crate::{
    Error, Result, Timestamp,
    id::IdMaker,
    redact::Redactor,
    store::{Generation, GrantFlow, GrantId, GrantKey, GrantRecord, Store},
    vault::{
        Exchanger, Keyring, ProviderLimits, ProviderTally, RotationClass, TokenSet, VaultEvent,
        VaultEventKind, VaultTime, metrics::Tallies, witness::Witness as WitnessFile,
    },
};

/// Where a refresh is, for tests that kill the process there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checkpoint {
    /// Nothing is written yet.
    BeforeIntent,
    /// The intent is durable; nothing was sent.
    Intended,
    /// There is an answer, in memory alone.
    Answered,
    /// The answer is durable; nobody has read it.
    Landed,
    /// The new pair is sealed and not yet the grant's.
    BeforeCommit,
    /// The new pair is the grant's; nobody has it.
    Committed,
    /// A refusal is about to be stored.
    BeforeEnd,
    /// It is stored.
    Ended,
    /// Another attempt is durable; nothing was sent.
    Retried,
    /// The old access token is about to be asked about.
    BeforeProbe,
    /// The grant is about to be marked as lost.
    BeforeMark,
}

impl Checkpoint {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::BeforeIntent,
        Self::Intended,
        Self::Answered,
        Self::Landed,
        Self::BeforeCommit,
        Self::Committed,
        Self::BeforeEnd,
        Self::Ended,
        Self::Retried,
        Self::BeforeProbe,
        Self::BeforeMark,
    ];
}

/// Called at each [`Checkpoint`] of each grant.
pub type CheckpointHook = Arc<dyn Fn(Checkpoint, GrantId) + Send + Sync>;

/// What a report of an invalid token is not asked about again within.
const CHECKED_FOR: Duration = Duration::from_mins(1);
/// So many are remembered before the old ones are dropped.
const CHECKED: usize = 8192;

/// For so long after it has expired a token may still be printed: what a bot keeps in memory comes out when it crashes.
const PRINTED_FOR: Duration = Duration::from_hours(7 * 24);

/// What is to be done about a grant.
#[derive(Debug)]
pub(crate) struct Demand {
    pub(crate) id: GrantId,
    pub(crate) provider: Arc<str>,
    pub(crate) due: Duration,
    pub(crate) urgency: Urgency,
}

pub(crate) struct Engine {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keyring: Keyring,
    pub(crate) upstreams: Arc<dyn Upstreams>,
    pub(crate) exchanger: Arc<dyn Exchanger>,
    pub(crate) time: Arc<dyn VaultTime>,
    pub(crate) redactor: Arc<Redactor>,
    pub(crate) session: Session,
    pub(crate) witness_file: Option<Arc<WitnessFile>>,
    pub(crate) hook: Option<CheckpointHook>,
    pub(crate) flights: Flights,
    pub(crate) watchers: Watchers,
    pub(crate) opened: Opened,
    pub(crate) events: broadcast::Sender<VaultEvent>,
    /// Nothing new is begun once it is cancelled.
    pub(crate) stop: CancellationToken,
    /// There is something in the inbox, or a gate may have opened.
    pub(crate) wake: Notify,
    pub(crate) inbox: Mutex<Vec<Demand>>,
    pub(crate) desks: Mutex<HashMap<Arc<str>, Desk>>,
    pub(crate) tallies: Tallies,
    pub(crate) checked: Mutex<HashMap<GrantId, (Generation, Duration)>>,
    /// The grants to which a visit is under way, and how many requests it has sent.
    pub(crate) seen_to: Mutex<HashMap<GrantId, u32>>,
    /// How many grants are being seen to, or are due.
    pub(crate) busy: AtomicUsize,
    /// Makes the numbers of new grants.
    pub(crate) ids: Mutex<IdMaker>,
    /// Until when nothing is to be done, so that a test's clock may go on.
    #[cfg(test)]
    pub(crate) rests: super::tests::Rests,
}

/// How a provider is doing, and what of it is under way.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) health: Health,
    pub(crate) pace: Pace,
    pub(crate) running: usize,
    /// The grant whose refresh is to tell how the provider is doing, and since when.
    pub(crate) witness: Option<(GrantId, Duration)>,
    /// Witnesses that had nothing to say: others are asked until one has.
    pub(crate) mute: HashSet<GrantId>,
    /// Grants of which the exchanger keeps something that no key opens: told.
    pub(crate) unreadable: HashSet<GrantId>,
    /// It fails as a whole, which those who wait for it are yet to be told.
    pub(crate) to_refuse: bool,
    /// Its suspects are to vote anew.
    pub(crate) to_vote_anew: bool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn now(&self) -> Timestamp {
        self.time.now()
    }

    pub(crate) fn pass(&self, checkpoint: Checkpoint, id: GrantId) {
        if let Some(hook) = &self.hook {
            hook(checkpoint, id);
        }
    }

    /// Puts something on the plan.
    pub(crate) fn demand(&self, demand: Demand) {
        lock(&self.inbox).push(demand);
        self.wake.notify_one();
    }

    /// Has a grant seen to after that time.
    pub(crate) fn plan(&self, record: &GrantRecord, after: Duration) {
        if after <= HORIZON {
            self.demand(Demand {
                id: record.grant.id,
                provider: record.grant.key.provider.as_str().into(),
                due: self.time.elapsed() + after,
                urgency: Urgency::of(&record.expiry),
            });
        }
    }

    /// Brings to the witness file what was committed.
    pub(crate) async fn write_witness(&self) -> Result<()> {
        let Some(witness) = self.witness_file.clone() else { return Ok(()) };
        let written = tokio::task::spawn_blocking(move || witness.write()).await;
        written.unwrap_or(Err(Error::Closed { what: "the runtime" }))
    }

    pub(crate) fn next_grant_id(&self) -> GrantId {
        GrantId(lock(&self.ids).next(self.now()))
    }

    /// Whether a visit to a grant is under way here.
    pub(crate) fn is_seen_to(&self, id: GrantId) -> bool {
        lock(&self.seen_to).contains_key(&id)
    }

    pub(crate) fn reloaded(&self) {
        let now = self.time.elapsed();
        lock(&self.desks).values_mut().for_each(|desk| desk.health.reloaded(now));
        self.wake.notify_one();
    }

    /// Asks for something that somebody waits for.
    pub(crate) async fn ask(&self, id: GrantId, provider: &str, want: Want) -> super::flight::Fate {
        if self.stop.is_cancelled() {
            return Err(Refusal::Closed);
        }
        if let Some(refusal) = self.trouble(provider) {
            return Err(refusal);
        }
        let fate = self.flights.join(id, provider, want);
        let due = self.time.elapsed();
        self.demand(Demand { id, provider: provider.into(), due, urgency: Urgency::Awaited });
        fate.await.unwrap_or(Err(Refusal::Closed))
    }

    /// Why nothing is to be expected of a provider at the moment.
    pub(crate) fn trouble(&self, provider: &str) -> Option<Refusal> {
        let desks = lock(&self.desks);
        let why = desks.get(provider)?.health.trouble()?;
        Some(trouble_of(provider, why))
    }

    /// Tells everybody who listens. The words go to the log as well.
    pub(crate) fn tell(&self, key: &GrantKey, kind: VaultEventKind, message: String) {
        self.announce(&key.provider, Some(key.account.clone()), kind, message);
    }

    pub(crate) fn announce(
        &self,
        provider: &str,
        account: Option<String>,
        kind: VaultEventKind,
        message: String,
    ) {
        let event =
            VaultEvent { at: self.now(), provider: provider.into(), account, kind, message };
        match kind {
            VaultEventKind::Refreshed => {
                tracing::debug!(provider, account = event.account, "{}", kind.as_str());
            }
            VaultEventKind::NeedsReauth
            | VaultEventKind::Degraded
            | VaultEventKind::ProviderDown
            | VaultEventKind::ProviderRefuses
            | VaultEventKind::ClientRefused
            | VaultEventKind::Fenced => {
                tracing::warn!(
                    provider,
                    account = event.account,
                    "{}: {}",
                    kind.as_str(),
                    event.message
                );
            }
            _ => tracing::info!(
                provider,
                account = event.account,
                "{}: {}",
                kind.as_str(),
                event.message
            ),
        }
        // Nobody has to listen.
        let _ = self.events.send(event);
    }

    /// What was counted of each provider, and what is the matter with it now.
    pub(crate) fn tallied(&self) -> BTreeMap<Arc<str>, ProviderTally> {
        let mut all = self.tallies.all();
        for (provider, desk) in lock(&self.desks).iter() {
            all.entry(Arc::clone(provider)).or_default().troubles = desk.health.troubles();
        }
        all
    }

    /// What a request that was sent at `asked` said of its provider.
    pub(crate) fn hear(&self, provider: &str, id: GrantId, asked: Duration, said: Said) {
        let now = self.time.elapsed();
        let told = self.with_desk(provider, |desk| {
            let was_witness = desk.witness.is_some_and(|(known, _)| known == id);
            if was_witness {
                desk.witness = None;
            }
            desk.mute.clear();
            let refused = desk.health.refuses(now);
            let mut told = desk.health.hear(now, id, asked, said);
            if was_witness && said == Said::Refusal && told.is_none() {
                told = desk.health.witness_refused(now);
            }
            desk.to_vote_anew |= refused && !desk.health.refuses(now);
            desk.to_refuse |= told.is_some() && desk.health.is_troubled();
            told
        });
        if let Some(kind) = told {
            self.announce(provider, None, kind, words(kind).into());
            self.wake.notify_one();
        }
    }

    /// A provider's refusals are true, so its incident is over.
    pub(crate) fn believe(&self, provider: &str) {
        let now = self.time.elapsed();
        self.with_desk(provider, |desk| desk.health.believe(now));
        let said =
            "it has refused every account for long, and their tokens are dead: it is believed";
        self.announce(provider, None, VaultEventKind::ProviderUp, said.into());
        self.wake.notify_one();
    }

    pub(crate) fn with_desk<T>(&self, provider: &str, work: impl FnOnce(&mut Desk) -> T) -> T {
        let mut desks = lock(&self.desks);
        if let Some(desk) = desks.get_mut(provider) {
            return work(desk);
        }
        work(desks.entry(provider.into()).or_default())
    }

    /// Whether something may be begun with a provider.
    pub(crate) fn gate(&self, provider: &str, now: Duration) -> Gate {
        let limits = self.limits(provider);
        self.with_desk(provider, |desk| {
            if desk.running >= limits.concurrency.max(1) {
                return Gate::Full;
            }
            match desk.health.gate(now) {
                Gate::Open => desk.pace.gate(now, limits.per_second),
                shut => shut,
            }
        })
    }

    pub(crate) fn begin(&self, provider: &str, id: GrantId, now: Duration) {
        let limits = self.limits(provider);
        lock(&self.seen_to).insert(id, 0);
        self.with_desk(provider, |desk| {
            desk.running += 1;
            desk.pace.begin(now, limits.per_second);
            desk.health.begin(now, id);
        });
    }

    /// A visit sends something: the first is paid for by its beginning.
    pub(crate) fn sends(&self, provider: &str, id: GrantId) {
        let is_first = {
            let mut seen_to = lock(&self.seen_to);
            let sent = seen_to.entry(id).or_default();
            *sent += 1;
            *sent == 1
        };
        if !is_first {
            let (now, limits) = (self.time.elapsed(), self.limits(provider));
            self.with_desk(provider, |desk| desk.pace.begin(now, limits.per_second));
        }
    }

    pub(crate) fn end(&self, provider: &str, id: GrantId) {
        let now = self.time.elapsed();
        let sent = lock(&self.seen_to).remove(&id).unwrap_or(0);
        let limits = self.limits(provider);
        self.with_desk(provider, |desk| {
            desk.running = desk.running.saturating_sub(1);
            if sent == 0 {
                desk.pace.give_back(limits.per_second);
            }
            desk.health.end(now, id);
            if desk.witness.is_some_and(|(known, _)| known == id) {
                // It said nothing: another one is asked.
                desk.witness = None;
                desk.mute.insert(id);
            }
        });
    }

    /// Masks tokens wherever they may be printed from now on, and for as long as somebody may print them.
    pub(crate) fn learn(&self, tokens: &TokenSet) -> Result<()> {
        let all = [Some(&tokens.access), tokens.refresh.as_ref()];
        self.redactor.learn_until(
            all.into_iter().flatten().cloned(),
            self.printed_until(tokens.access_expires_at),
        )
    }

    pub(crate) fn learn_one(
        &self,
        token: &SecretString,
        expires_at: Option<Timestamp>,
    ) -> Result<()> {
        self.redactor.learn_until([token.clone()], self.printed_until(expires_at))
    }

    fn printed_until(&self, expires_at: Option<Timestamp>) -> Timestamp {
        expires_at.unwrap_or_default().max(self.now()).plus(PRINTED_FOR)
    }

    /// Whether that pair was found good a moment ago.
    pub(crate) fn was_checked(&self, id: GrantId, generation: Generation) -> bool {
        let now = self.time.elapsed();
        let checked = lock(&self.checked);
        checked.get(&id).is_some_and(|(known, at)| *known == generation && now < *at + CHECKED_FOR)
    }

    pub(crate) fn checked(&self, id: GrantId, generation: Generation) {
        let now = self.time.elapsed();
        let mut checked = lock(&self.checked);
        if checked.len() >= CHECKED {
            checked.retain(|_, (_, at)| now < *at + CHECKED_FOR);
        }
        checked.insert(id, (generation, now));
    }

    /// Whether what is presented for the grant stays good.
    pub(crate) fn may_present_twice(&self, record: &GrantRecord) -> bool {
        let upstream = self.upstreams.get(&record.grant.key.provider);
        upstream.is_some_and(|upstream| rotation(&*upstream, record) == RotationClass::Reusable)
    }

    fn limits(&self, provider: &str) -> ProviderLimits {
        self.upstreams.get(provider).map_or(
            // Nothing is sent for a provider that is not configured; its grants are looked at, one by one.
            ProviderLimits {
                concurrency: 1,
                per_second: None,
                exchange_limit: crate::vault::EXCHANGE_LIMIT,
                settle: Duration::from_secs(30),
            },
            |upstream| upstream.limits(),
        )
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What becomes of a token that is presented; a client's own secret stays good.
pub(crate) fn rotation(upstream: &dyn Upstream, record: &GrantRecord) -> RotationClass {
    match record.grant.flow {
        GrantFlow::ClientCredentials => RotationClass::Reusable,
        _ => upstream.rotation(),
    }
}

pub(crate) fn trouble_of(provider: &str, why: &str) -> Refusal {
    Refusal::Unavailable {
        what: format!("provider `{provider}`"),
        why: format!(
            "{why}: it is asked again by itself, `kissops token list` shows how the grants are doing"
        ),
    }
}

fn words(kind: VaultEventKind) -> &'static str {
    match kind {
        VaultEventKind::ProviderDown => {
            "refreshes of several accounts fail: bots run on with their tokens until these expire"
        }
        VaultEventKind::ProviderRefuses => {
            "it refuses several accounts at once, which is hardly their owners' doing: none is marked before it is over"
        }
        VaultEventKind::ClientRefused => {
            "it does not know the client or its secret: nothing more is sent; correct client_id and client_secret, then reload"
        }
        _ => "it works again",
    }
}
