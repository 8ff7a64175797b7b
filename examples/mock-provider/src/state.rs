//! Clients, accounts, grants, tokens: what a provider knows.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    flow::Flows,
    knobs::{Endpoint, Knobs, Scope, Step, Storm, TokenStyle},
    ledger::Ledger,
    mint::{Minter, splitmix},
};

pub(crate) const ACCESS_LENGTH: usize = 30;
pub(crate) const REFRESH_LENGTH: usize = 50;
/// The end of what does not end.
pub(crate) const NEVER: i64 = i64::MAX;

/// A program that was registered with the provider.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Its id.
    pub id: String,
    /// Its secret; a public client has none.
    #[serde(default)]
    pub secret: Option<String>,
    /// What the provider is called where the tokens are imported.
    #[serde(default = "mock")]
    pub provider: String,
    /// What is set for it.
    #[serde(default)]
    pub knobs: Knobs,
}

fn mock() -> String {
    "mock".to_owned()
}

impl Client {
    /// With a secret.
    #[must_use]
    pub fn confidential(id: &str, secret: &str) -> Self {
        Self { secret: Some(secret.to_owned()), ..Self::public(id) }
    }

    /// Without one.
    #[must_use]
    pub fn public(id: &str) -> Self {
        Self { id: id.to_owned(), secret: None, provider: mock(), knobs: Knobs::default() }
    }

    /// With these knobs.
    #[must_use]
    pub fn knobs(self, knobs: Knobs) -> Self {
        Self { knobs, ..self }
    }
}

/// What is set, and what is to happen next.
#[derive(Debug, Default)]
pub(crate) struct Tuning {
    pub(crate) knobs: Knobs,
    pub(crate) script: VecDeque<Step>,
}

#[derive(Debug)]
pub(crate) struct ClientState {
    pub(crate) id: String,
    pub(crate) secret: Option<String>,
    pub(crate) provider: String,
    pub(crate) tuning: Tuning,
    /// In which second there were how many token requests.
    pub(crate) second: (i64, u32),
}

#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) user_id: u64,
    pub(crate) grants: Vec<u32>,
    /// Few of many have one.
    pub(crate) tuning: Option<Box<Tuning>>,
}

/// One authorization of a client by an account, or the client's own.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) client: u32,
    pub(crate) account: Option<u32>,
    pub(crate) scopes: Arc<[String]>,
    pub(crate) refresh: Option<u32>,
    pub(crate) access: VecDeque<u32>,
    pub(crate) counts: Counts,
    /// In which minute there were how many API calls.
    pub(crate) minute: (i64, u32),
}

/// What has happened to a grant at the token endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Refresh tokens of it were presented so often.
    pub presented: u32,
    /// And exchanged so often.
    pub committed: u32,
    /// One that was used before was presented.
    pub replays: u32,
    /// Its tokens were killed by a replay.
    pub families_killed: u32,
    /// Requests under way now.
    pub in_flight: u32,
    /// The most at once: above 1, somebody refreshed twice at a time.
    pub most_in_flight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Access,
    Refresh,
}

/// Why a token is no longer good, apart from its expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Death {
    /// A refresh token that was exchanged.
    Used,
    /// An access token from before a refresh.
    Replaced,
    /// A replay killed it.
    Killed,
    /// One of too many.
    Evicted,
    /// The client gave it up.
    Revoked,
    /// Its account withdrew the permission.
    Disconnected,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Token {
    pub(crate) grant: u32,
    pub(crate) kind: Kind,
    pub(crate) style: TokenStyle,
    pub(crate) dead: Option<Death>,
    pub(crate) presented: u32,
    pub(crate) committed: u32,
    pub(crate) issued_at: i64,
    pub(crate) ended_at: i64,
    pub(crate) expires_at: i64,
}

/// The provider's clock: the machine's, shifted or stopped. Microseconds since the epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    offset: i64,
    stopped: Option<i64>,
}

impl Clock {
    fn machine() -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(NEVER)
    }

    pub(crate) fn now(self) -> i64 {
        self.stopped.unwrap_or_else(|| Self::machine().saturating_add(self.offset))
    }

    pub(crate) fn is_true(self) -> bool {
        self.offset == 0 && self.stopped.is_none()
    }

    pub(crate) fn advance(&mut self, micros: i64) {
        match &mut self.stopped {
            Some(at) => *at = at.saturating_add(micros),
            None => self.offset = self.offset.saturating_add(micros),
        }
    }

    pub(crate) fn set(&mut self, now: i64) {
        match &mut self.stopped {
            Some(at) => *at = now,
            None => self.offset = now.saturating_sub(Self::machine()),
        }
    }

    pub(crate) fn stop(&mut self) {
        self.stopped = Some(self.now());
    }

    pub(crate) fn run(&mut self) {
        if let Some(at) = self.stopped.take() {
            self.offset = at.saturating_sub(Self::machine());
        }
    }
}

/// For whom a setting is looked up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Who {
    pub(crate) client: Option<u32>,
    pub(crate) account: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) minter: Minter,
    pub(crate) chance: u64,
    pub(crate) everywhere: Tuning,
    pub(crate) clients: Vec<ClientState>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) names: HashMap<String, u32>,
    pub(crate) grants: Vec<Grant>,
    pub(crate) tokens: Vec<Token>,
    pub(crate) flows: Flows,
    pub(crate) storm: Option<Storm>,
    pub(crate) ledger: Ledger,
    /// Requests that stop now.
    pub(crate) held: u32,
}

impl State {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            clock: Clock::default(),
            minter: Minter::new(seed),
            chance: seed,
            everywhere: Tuning::default(),
            clients: Vec::new(),
            accounts: Vec::new(),
            names: HashMap::new(),
            grants: Vec::new(),
            tokens: Vec::new(),
            flows: Flows::default(),
            storm: None,
            ledger: Ledger::default(),
            held: 0,
        }
    }

    /// Registers a client, in the place of one of that id.
    pub(crate) fn add_client(&mut self, client: Client) -> u32 {
        let Client { id, secret, provider, knobs } = client;
        let tuning = Tuning { knobs, script: VecDeque::new() };
        let state = ClientState { id, secret, provider, tuning, second: (0, 0) };
        if let Some(at) = self.client(&state.id) {
            self.clients[at as usize] = state;
            return at;
        }
        self.clients.push(state);
        index(self.clients.len() - 1)
    }

    pub(crate) fn client(&self, id: &str) -> Option<u32> {
        self.clients.iter().position(|client| client.id == id).map(index)
    }

    /// The account of that name, made where there is none.
    pub(crate) fn account(&mut self, name: &str) -> u32 {
        if let Some(at) = self.names.get(name) {
            return *at;
        }
        let at = index(self.accounts.len());
        self.accounts.push(Account {
            name: name.to_owned(),
            user_id: 1000 + u64::from(at),
            grants: Vec::new(),
            tuning: None,
        });
        self.names.insert(name.to_owned(), at);
        at
    }

    /// Where settings of `scope` are kept; `None` if there is nobody of that name.
    pub(crate) fn tuning(&mut self, scope: &Scope) -> Option<&mut Tuning> {
        match scope {
            Scope::All => Some(&mut self.everywhere),
            Scope::Client(id) => {
                let at = self.client(id)?;
                Some(&mut self.clients[at as usize].tuning)
            }
            Scope::Account(name) => {
                let at = *self.names.get(name)?;
                Some(self.accounts[at as usize].tuning.get_or_insert_default())
            }
        }
    }

    /// What is set for `who`, the account before the client before everybody.
    pub(crate) fn knob<T>(&self, who: Who, pick: impl Fn(&Knobs) -> Option<T>) -> Option<T> {
        let account = who.account.and_then(|at| self.accounts[at as usize].tuning.as_ref());
        let client = who.client.map(|at| &self.clients[at as usize].tuning.knobs);
        account
            .and_then(|tuning| pick(&tuning.knobs))
            .or_else(|| client.and_then(&pick))
            .or_else(|| pick(&self.everywhere.knobs))
    }

    /// The next step of a script for `who`, if there is one for that endpoint.
    pub(crate) fn next_step(&mut self, who: Who, on: Endpoint) -> Option<Step> {
        let account = who.account.and_then(|at| self.accounts[at as usize].tuning.as_deref_mut());
        if let Some(step) = account.and_then(|tuning| take_step(&mut tuning.script, on)) {
            return Some(step);
        }
        let client = who.client.map(|at| &mut self.clients[at as usize].tuning.script);
        if let Some(step) = client.and_then(|script| take_step(script, on)) {
            return Some(step);
        }
        take_step(&mut self.everywhere.script, on)
    }

    /// True in `share` of the calls.
    pub(crate) fn by_chance(&mut self, share: f64) -> bool {
        share >= 1.0 || spread(splitmix(&mut self.chance)) < share
    }

    /// The storm hits this account.
    pub(crate) fn in_storm(&self, account: Option<u32>) -> Option<Storm> {
        let storm = self.storm?;
        let mut state = u64::from(account?) ^ 0x5709;
        (storm.share >= 1.0 || spread(splitmix(&mut state)) < storm.share).then_some(storm)
    }

    pub(crate) fn forget_scripts(&mut self) {
        self.everywhere.script.clear();
        self.clients.iter_mut().for_each(|client| client.tuning.script.clear());
        for account in &mut self.accounts {
            account.tuning.iter_mut().for_each(|tuning| tuning.script.clear());
        }
    }

    /// Forgets everything but the clients. Tokens from before are not known again.
    pub(crate) fn reset(&mut self) {
        let mut seed = self.chance;
        let fresh = Self::new(splitmix(&mut seed));
        let clients = std::mem::take(&mut self.clients);
        let ledger = self.ledger.next_epoch();
        *self = Self { clients, held: self.held, ledger, ..fresh };
        self.clients.iter_mut().for_each(|client| client.tuning = Tuning::default());
    }

    pub(crate) fn owner(&self, grant: u32) -> Who {
        let grant = &self.grants[grant as usize];
        Who { client: Some(grant.client), account: grant.account }
    }

    pub(crate) fn text(&self, number: u32) -> String {
        let token = &self.tokens[number as usize];
        let length = if token.kind == Kind::Access { ACCESS_LENGTH } else { REFRESH_LENGTH };
        self.minter.text(number, length, token.style)
    }

    /// The number of a token that was once given out.
    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        let number = self.minter.number(text)?;
        ((number as usize) < self.tokens.len() && self.text(number) == text).then_some(number)
    }
}

/// From 0 to 1.
fn spread(random: u64) -> f64 {
    f64::from(u32::try_from(random >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

fn take_step(script: &mut VecDeque<Step>, on: Endpoint) -> Option<Step> {
    let at = script.iter().position(|step| step.on == on && step.times > 0)?;
    let step = script[at];
    script[at].times -= 1;
    if script[at].times == 0 {
        script.remove(at);
    }
    Some(step)
}

/// Nobody makes four billion of anything here.
pub(crate) fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
