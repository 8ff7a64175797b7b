//! A provider with its accounts, a clock that a test moves, and a vault over both.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{Notify, broadcast, watch};

use crate::{
    Error, Result, Timestamp,
    store::{
        GrantFlow, GrantKey, GrantQuery, GrantRecord, GrantStateName, Store, sqlite::SqliteStore,
    },
    vault::{
        Answer, ExchangeJob, Exchanged, Exchanger, Http, Kek, Keys, NewTokens, Probed,
        ProviderLimits, Providers, RawAnswer, RefreshWindow, RotationClass, Ticket, TokenRequest,
        TokenSet, TokenVault as _, Undecidable, Vault, VaultBuilder, VaultEvent, VaultEventKind,
        VaultTime,
        refresh::upstream::{Upstream, Upstreams},
    },
};

pub(super) const PROVIDER: &str = "mock";
pub(super) const LIFE: Duration = Duration::from_hours(4);
const BEGIN: Timestamp = Timestamp(1_790_000_000_000_000);

/// Moves when a test says so.
#[derive(Debug)]
pub(super) struct ManualTime {
    elapsed: watch::Sender<Duration>,
    /// By how much the wall clock was set, in microseconds.
    set: Mutex<i64>,
}

impl ManualTime {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            elapsed: watch::Sender::new(Duration::from_hours(1)),
            set: Mutex::default(),
        })
    }

    pub(super) fn go(&self, span: Duration) {
        self.elapsed.send_modify(|elapsed| *elapsed += span);
    }

    /// Sets the wall clock.
    pub(super) fn set(&self, by: i64) {
        *self.set.lock().unwrap() += by;
    }
}

#[async_trait]
impl VaultTime for ManualTime {
    fn now(&self) -> Timestamp {
        let at = BEGIN.plus(*self.elapsed.borrow());
        Timestamp(at.0 + *self.set.lock().unwrap())
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.borrow()
    }

    async fn sleep_until(&self, until: Duration) {
        let mut elapsed = self.elapsed.subscribe();
        // Never an error: the sender is ours.
        let _ = elapsed.wait_for(|elapsed| *elapsed >= until).await;
    }
}

/// How the provider answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// 503.
    Unavailable,
    /// 429: after ten minutes.
    Limited,
    /// Nobody can connect.
    Away,
    /// Carried out or not; no answer comes.
    Silent {
        carried_out: bool,
    },
    /// Every grant is refused although it is good; if so, its access token as well.
    Refusing {
        probes_too: bool,
    },
    /// The client is refused.
    ClientRefused,
    /// Carried out, and the answer says nothing.
    Garbled,
    /// The request is held until the test lets it go.
    Held,
}

#[derive(Debug)]
struct Account {
    /// How many pairs it was given.
    pairs: u32,
    revoked: bool,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    /// The same for one account alone.
    moods: HashMap<String, Mood>,
    accounts: BTreeMap<String, Account>,
    /// Each refresh token that was presented, in order.
    presented: Vec<String>,
    /// Used one-time tokens that were presented again.
    replays: Vec<String>,
    probes: u32,
    probe_works: bool,
    /// Accounts whose first access token is dead.
    dead_access: BTreeSet<String>,
}

/// What its profile says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    pub(super) validate_every: Option<Duration>,
    pub(super) per_second: Option<f64>,
    /// When refresh tokens end, whatever is done with them.
    pub(super) refresh_ends: Option<Timestamp>,
}

/// A provider.
pub(super) struct World {
    pub(super) time: Arc<ManualTime>,
    rotation: RotationClass,
    state: Mutex<State>,
    pub(super) let_go: Notify,
    /// Answers that came to nobody, by ticket: what an exchanger that outlives its daemon knows.
    pub(super) kept: Mutex<HashMap<Ticket, RawAnswer>>,
    pub(super) keeps: Mutex<bool>,
    /// What the exchanger keeps cannot be read.
    pub(super) corrupt: Mutex<bool>,
    pub(super) undecidable: Mutex<Undecidable>,
    /// How often the provider wants its tokens to be validated.
    pub(super) validate_every: Mutex<Option<Duration>>,
    /// Requests a second.
    pub(super) rate: Mutex<Option<f64>>,
    pub(super) terms: Mutex<Terms>,
    version: AtomicU64,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl World {
    pub(super) fn new(rotation: RotationClass) -> Arc<Self> {
        let state = State {
            mood: Mood::Well,
            moods: HashMap::new(),
            accounts: BTreeMap::new(),
            presented: vec![],
            replays: vec![],
            probes: 0,
            probe_works: true,
            dead_access: BTreeSet::new(),
        };
        Arc::new(Self {
            time: ManualTime::new(),
            rotation,
            state: Mutex::new(state),
            let_go: Notify::new(),
            kept: Mutex::default(),
            keeps: Mutex::default(),
            corrupt: Mutex::default(),
            undecidable: Mutex::new(Undecidable::Try),
            validate_every: Mutex::default(),
            rate: Mutex::default(),
            terms: Mutex::default(),
            version: AtomicU64::new(1),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    pub(super) fn mood_of(&self, account: &str, mood: Mood) {
        self.state().moods.insert(account.into(), mood);
    }

    pub(super) fn probe_works(&self, works: bool) {
        self.state().probe_works = works;
    }

    /// The configuration is read again.
    pub(super) fn reload(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// An access token dies by itself.
    pub(super) fn kill_access(&self, account: &str) {
        self.state().dead_access.insert(account.into());
    }

    /// The owner of an account takes the grant back.
    pub(super) fn revoke(&self, account: &str) {
        self.state().accounts.get_mut(account).unwrap().revoked = true;
    }

    pub(super) fn requests(&self) -> usize {
        self.state().presented.len()
    }

    pub(super) fn requests_of(&self, account: &str) -> usize {
        let state = self.state();
        state.presented.iter().filter(|token| token.split('-').nth(1) == Some(account)).count()
    }

    pub(super) fn probes(&self) -> u32 {
        self.state().probes
    }

    pub(super) fn replays(&self) -> Vec<String> {
        self.state().replays.clone()
    }

    /// The first pair of an account.
    pub(super) fn account(&self, name: &str) -> TokenSet {
        let mut state = self.state();
        state.accounts.insert(name.into(), Account { pairs: 1, revoked: false });
        drop(state);
        self.pair(name, 1)
    }

    fn pair(&self, account: &str, number: u32) -> TokenSet {
        let refresh = match self.rotation {
            RotationClass::Reusable => format!("refresh-{account}-1"),
            _ => format!("refresh-{account}-{number}"),
        };
        TokenSet {
            access: format!("access-{account}-{number}").into(),
            refresh: Some(refresh.into()),
            access_expires_at: Some(self.time.now().plus(LIFE)),
            refresh_expires_at: self.terms.lock().unwrap().refresh_ends,
            idle_expires_at: None,
            scopes: None,
        }
    }

    fn mood_for(&self, account: &str) -> Mood {
        let state = self.state();
        state.moods.get(account).copied().unwrap_or(state.mood)
    }

    /// What the provider does with a token: a pair's number, or a refusal.
    fn carry_out(&self, token: &str) -> Result<u32, &'static str> {
        let mut state = self.state();
        let mut parts = token.split('-').skip(1);
        let (name, number) = (parts.next().unwrap().to_owned(), parts.next().unwrap());
        let number: u32 = number.parse().unwrap();
        let account = state.accounts.get_mut(&name).unwrap();
        let used = self.rotation != RotationClass::Reusable && number != account.pairs;
        if used && self.rotation == RotationClass::OneTime {
            // As the strictest of them do: the whole family goes.
            account.revoked = true;
            state.replays.push(token.into());
            return Err("replayed");
        }
        if account.revoked || used {
            return Err("invalid_grant");
        }
        account.pairs += 1;
        Ok(account.pairs)
    }

    fn raw(&self, status: u16, body: &str) -> RawAnswer {
        let at = self.time.now();
        let body = body.as_bytes().to_vec().into();
        RawAnswer { status, retry_after: None, body, sent_at: at, at }
    }

    fn answer(&self, token: &str) -> RawAnswer {
        let account = token.split('-').nth(1).unwrap();
        match self.carry_out(token) {
            Ok(number) => self.raw(200, &format!("{account} {number}")),
            Err(why) => self.raw(400, why),
        }
    }
}

#[async_trait]
impl Exchanger for World {
    async fn exchange(&self, job: ExchangeJob) -> Exchanged {
        assert!(self.time.elapsed() <= job.send_before, "sent too late");
        let token = job.request.form[0].1.expose_secret().to_owned();
        let account = token.split('-').nth(1).unwrap().to_owned();
        let mood = self.mood_for(&account);
        if mood == Mood::Away {
            return Exchanged::NotSent(Error::unavailable("mock")("connection refused"));
        }
        self.state().presented.push(token.clone());
        match mood {
            Mood::Well | Mood::Away => Exchanged::Answered(self.answer(&token)),
            Mood::Unavailable => Exchanged::Answered(self.raw(503, "busy")),
            Mood::Limited => {
                let after = Some("600".to_owned());
                Exchanged::Answered(RawAnswer { retry_after: after, ..self.raw(429, "slow down") })
            }
            Mood::Silent { carried_out } => {
                if carried_out {
                    let raw = self.answer(&token);
                    if *self.keeps.lock().unwrap() {
                        self.kept.lock().unwrap().insert(job.ticket, raw);
                    }
                }
                Exchanged::Unanswered(Error::unavailable("mock")("reset"))
            }
            Mood::Refusing { .. } => Exchanged::Answered(self.raw(400, "invalid_grant")),
            Mood::ClientRefused => Exchanged::Answered(self.raw(401, "invalid_client")),
            Mood::Garbled => {
                drop(self.answer(&token));
                Exchanged::Answered(self.raw(200, "<html>"))
            }
            Mood::Held => {
                let raw = self.answer(&token);
                if *self.keeps.lock().unwrap() {
                    self.kept.lock().unwrap().insert(job.ticket, raw.clone());
                }
                self.let_go.notified().await;
                Exchanged::Answered(raw)
            }
        }
    }

    async fn recover(&self, ticket: Ticket) -> Result<Option<Exchanged>> {
        if *self.corrupt.lock().unwrap() {
            return Err(Error::Corrupt { what: "an answer".into(), detail: "no key fits".into() });
        }
        Ok(self.kept.lock().unwrap().get(&ticket).cloned().map(Exchanged::Answered))
    }

    async fn settled(&self, ticket: Ticket) {
        self.kept.lock().unwrap().remove(&ticket);
    }
}

/// The provider as the refresher sees it.
#[derive(Debug)]
struct Seen(Arc<World>);

#[async_trait]
impl Upstream for Seen {
    #[allow(clippy::unnecessary_literal_bound, reason = "as the trait has it")]
    fn client_id(&self) -> &str {
        "client"
    }

    fn rotation(&self) -> RotationClass {
        self.0.rotation
    }

    fn limits(&self) -> ProviderLimits {
        ProviderLimits {
            concurrency: 64,
            per_second: self.0.rate.lock().unwrap().or(self.0.terms.lock().unwrap().per_second),
            exchange_limit: Duration::from_secs(30),
            settle: Duration::from_secs(30),
        }
    }

    fn window(&self) -> RefreshWindow {
        RefreshWindow { from: 0.75, to: 0.85, lead: Duration::from_mins(10) }
    }

    fn undecidable(&self) -> Undecidable {
        *self.0.undecidable.lock().unwrap()
    }

    fn refresh_request(&self, refresh: &SecretString) -> TokenRequest {
        TokenRequest {
            url: "http://127.0.0.1/token".into(),
            headers: vec![],
            form: vec![("refresh_token".into(), refresh.clone())],
            insecure: false,
        }
    }

    fn client_credentials_request(&self, _: &BTreeSet<String>) -> TokenRequest {
        self.refresh_request(&"refresh-client-1".into())
    }

    fn read(&self, answer: &RawAnswer) -> Answer {
        let body = std::str::from_utf8(answer.body.expose_secret()).unwrap().to_owned();
        match answer.status {
            200 => match body.split_once(' ') {
                Some((account, number)) => Answer::Tokens(TokenSet {
                    access_expires_at: Some(answer.sent_at.plus(LIFE)),
                    ..self.0.pair(account, number.parse().unwrap())
                }),
                None => Answer::Unclear { detail: body },
            },
            400 => Answer::Terminal { detail: body },
            401 => Answer::Misconfigured { detail: body },
            _ => {
                let after = answer.retry_after.as_ref().and_then(|after| after.parse().ok());
                Answer::Retry { after: after.map(Duration::from_secs), detail: body }
            }
        }
    }

    fn can_probe(&self) -> bool {
        true
    }

    async fn probe(&self, access: &SecretString) -> Probed {
        let mut state = self.0.state();
        state.probes += 1;
        let mut parts = access.expose_secret().split('-').skip(1);
        let (name, number) = (parts.next().unwrap(), parts.next().unwrap());
        let account = &state.accounts[name];
        let lies = matches!(state.mood, Mood::Refusing { probes_too: true });
        // A provider that takes a token once kills the access token with it.
        let current =
            self.0.rotation != RotationClass::OneTime || number == account.pairs.to_string();
        let killed = number == "1" && state.dead_access.contains(name);
        if !state.probe_works || matches!(state.mood, Mood::Away | Mood::Unavailable) {
            Probed::Unknown { detail: "503".into() }
        } else if account.revoked || lies || !current || killed {
            Probed::Dead { detail: "401".into() }
        } else {
            Probed::Good { expires_at: None, scopes: None, account: vec![] }
        }
    }

    async fn revoke(&self, access: &SecretString, _: Option<&SecretString>) -> Result<()> {
        let name = access.expose_secret().split('-').nth(1).unwrap().to_owned();
        self.0.revoke(&name);
        Ok(())
    }

    fn validate_every(&self) -> Option<Duration> {
        let own = *self.0.validate_every.lock().unwrap();
        own.or(self.0.terms.lock().unwrap().validate_every)
    }
}

#[derive(Debug)]
struct One(Arc<World>);

impl Upstreams for One {
    fn get(&self, name: &str) -> Option<Arc<dyn Upstream>> {
        (name == PROVIDER).then(|| Arc::new(Seen(Arc::clone(&self.0))) as Arc<dyn Upstream>)
    }

    fn version(&self) -> u64 {
        self.0.version.load(Ordering::SeqCst)
    }
}

/// A vault, its provider and its clock.
pub(super) struct Stage {
    pub(super) world: Arc<World>,
    pub(super) store: Arc<dyn Store>,
    pub(super) vault: Vault,
    events: broadcast::Receiver<VaultEvent>,
    pub(super) told: Vec<VaultEvent>,
}

pub(super) fn keys() -> Result<Keys> {
    let kek =
        Kek::parse(&"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into())?;
    Ok(Keys { current: kek, previous: vec![] })
}

pub(super) fn builder(world: &Arc<World>, store: &Arc<dyn Store>) -> VaultBuilder {
    builder_with(world, store, keys())
}

/// Set up once: TLS takes longer than all else here.
static HTTP: LazyLock<Http> = LazyLock::new(|| Http::new().unwrap());

pub(super) fn builder_with(
    world: &Arc<World>,
    store: &Arc<dyn Store>,
    keys: Result<Keys>,
) -> VaultBuilder {
    Vault::builder(Arc::clone(store), keys, Arc::new(Providers::default()))
        .http(HTTP.clone())
        .upstreams_for_tests(Arc::new(One(Arc::clone(world))))
        .exchanger(Arc::clone(world) as _)
        .time(Arc::clone(&world.time) as _)
}

pub(super) fn key(account: impl fmt::Display) -> GrantKey {
    GrantKey { provider: PROVIDER.into(), account: account.to_string() }
}

pub(super) fn new_tokens(account: impl fmt::Display, tokens: TokenSet) -> NewTokens {
    let flow = GrantFlow::DeviceCode;
    NewTokens { key: key(account), flow, tokens, instances: None }
}

impl Stage {
    /// With `accounts` accounts, named by their numbers, each with its first pair.
    pub(super) async fn new(rotation: RotationClass, accounts: usize) -> Self {
        let world = World::new(rotation);
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        Self::over(world, store, accounts).await
    }

    pub(super) async fn over(world: Arc<World>, store: Arc<dyn Store>, accounts: usize) -> Self {
        let vault = builder(&world, &store).build().await.unwrap();
        for account in 0..accounts {
            let tokens = world.account(&account.to_string());
            vault.put(new_tokens(account, tokens)).await.unwrap();
        }
        let events = vault.events();
        vault.start();
        Self { world, store, vault, events, told: vec![] }
    }

    /// Goes on with another vault over the same store.
    pub(super) fn replace(&mut self, vault: Vault) {
        self.events = vault.events();
        vault.start();
        self.vault = vault;
    }

    /// Waits until nothing is left to be done at this moment.
    pub(super) async fn rest(&mut self) {
        let engine = self.vault.engine_for_tests();
        let wait = async {
            loop {
                let changed = engine.rests.changed.notified();
                let now = self.world.time.elapsed();
                let inbox = engine.inbox.lock().unwrap().is_empty();
                if inbox && engine.rests.until() > now {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it never rests");
        while let Ok(event) = self.events.try_recv() {
            self.told.push(event);
        }
    }

    /// Lets time pass, second by second.
    pub(super) async fn pass(&mut self, span: Duration) {
        self.pass_by(span, Duration::from_secs(1)).await;
    }

    pub(super) async fn pass_by(&mut self, span: Duration, step: Duration) {
        self.rest().await;
        let until = self.world.time.elapsed() + span;
        while self.world.time.elapsed() < until {
            self.world.time.go(step);
            self.rest().await;
        }
    }

    /// To the time at which all grants are due.
    pub(super) async fn pass_until_due(&mut self) {
        // Far from anything: nothing has to be done on the way.
        self.pass_by(LIFE / 2, Duration::from_mins(30)).await;
        self.pass_by(LIFE / 4 + Duration::from_mins(30), Duration::from_secs(20)).await;
    }

    pub(super) async fn record(&self, account: impl fmt::Display) -> GrantRecord {
        self.vault.grant(&key(account)).await.unwrap()
    }

    pub(super) async fn in_state(&self, state: GrantStateName) -> usize {
        let query = GrantQuery { state: Some(state), limit: 1_000_000, ..GrantQuery::default() };
        self.vault.grants(query).await.unwrap().len()
    }

    pub(super) fn told(&self, kind: VaultEventKind) -> usize {
        self.told.iter().filter(|event| event.kind == kind).count()
    }

    pub(super) async fn access(&self, account: impl fmt::Display) -> Result<String> {
        Ok(self.vault.token(&key(account)).await?.token.expose_secret().to_owned())
    }
}
