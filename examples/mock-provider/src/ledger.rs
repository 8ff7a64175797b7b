//! What was asked, and what came of it: the witness of tests.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    knobs::{Endpoint, Rotation},
    state::{Counts, Death, Kind, NEVER, State, index},
};

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing yet.
    Waiting,
    /// Tokens were exchanged or issued.
    Committed,
    /// A refresh token that was used before.
    Replayed,
    /// A token or code that was never issued.
    Unknown,
    /// A token that is dead for another reason, or expired.
    Dead,
    /// Another client's token, or a client that is not known or not authenticated.
    WrongClient,
    /// Nobody has approved the code yet.
    Pending,
    /// It cannot be understood.
    BadRequest,
    /// Refused by a storm or by a script; nothing happened.
    Refused,
    /// More than the rate allows.
    RateLimited,
    /// The token is good.
    Valid,
    /// The token was revoked.
    Revoked,
}

/// How its connection went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It is under way.
    Open,
    /// There was an answer, as far as this side can tell.
    Answered,
    /// The connection was closed without one, or in the middle of it.
    Dropped,
    /// Whoever asked had gone.
    Abandoned,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Presentation {
    pub(crate) at: i64,
    pub(crate) ended_at: i64,
    pub(crate) endpoint: Endpoint,
    pub(crate) token: Option<u32>,
    pub(crate) grant: Option<u32>,
    pub(crate) outcome: Outcome,
    pub(crate) ending: Ending,
    pub(crate) status: u16,
    /// It is one of those that `in_flight` of its grant counts.
    pub(crate) refresh: bool,
}

/// Which request; one from before a reset is nobody's any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId {
    epoch: u32,
    at: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Counts the resets.
    epoch: u32,
    pub(crate) presentations: Vec<Presentation>,
    /// Sums over them, since tests ask for those again and again.
    requests: BTreeMap<&'static str, u32>,
    outcomes: BTreeMap<&'static str, u32>,
    statuses: BTreeMap<u16, u32>,
    dropped: u32,
    abandoned: u32,
    pub(crate) counts: Counts,
    pub(crate) secrets_in_urls: u32,
    /// Refresh tokens that were presented while another request of their grant was under way.
    pub(crate) overlaps: u32,
}

impl Ledger {
    /// An empty one, in which no request from before is known.
    pub(crate) fn next_epoch(&self) -> Self {
        Self { epoch: self.epoch + 1, ..Self::default() }
    }
}

/// The ledger in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Requests by endpoint.
    pub requests: BTreeMap<&'static str, u32>,
    /// Requests by what came of them.
    pub outcomes: BTreeMap<&'static str, u32>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u32>,
    /// Of refresh tokens, over all grants.
    #[serde(flatten)]
    pub refreshes: Counts,
    /// Refresh tokens that were presented while another request of their grant was under way.
    pub overlaps: u32,
    /// Connections that were closed without a whole answer.
    pub dropped: u32,
    /// Requests whose sender had gone.
    pub abandoned: u32,
    /// Requests that had a secret in their URL. They are refused.
    pub secrets_in_urls: u32,
    /// Requests that stop now, until they are released.
    pub held: u32,
    /// Clients, accounts, grants, and tokens that were ever issued.
    pub clients: u32,
    /// Accounts.
    pub accounts: u32,
    /// Authorizations.
    pub grants: u32,
    /// Of both kinds.
    pub tokens: u32,
}

/// A token as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenView {
    /// Its number.
    pub id: u32,
    /// `access` or `refresh`.
    pub kind: &'static str,
    /// The token itself, for those who ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Of which grant.
    pub grant: u32,
    /// Of which client.
    pub client: String,
    /// Of which account.
    pub account: Option<String>,
    /// It is accepted now.
    pub live: bool,
    /// Why not, unless it has expired.
    pub dead: Option<Death>,
    /// It came in so often.
    pub presented: u32,
    /// It was exchanged so often.
    pub committed: u32,
    /// When, in microseconds since the epoch.
    pub issued_at: i64,
    /// When it died.
    pub ended_at: Option<i64>,
    /// When it expires.
    pub expires_at: Option<i64>,
}

/// A request as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestView {
    /// When it came, in microseconds since the epoch.
    pub at: i64,
    /// When it was over.
    pub ended_at: Option<i64>,
    /// Where.
    pub endpoint: Endpoint,
    /// With which token.
    pub token: Option<u32>,
    /// Of which grant.
    pub grant: Option<u32>,
    /// What came of it.
    pub outcome: Outcome,
    /// How it was answered.
    pub ending: Ending,
    /// With which status; 0 without one.
    pub status: u16,
}

/// A grant as the ledger has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrantView {
    /// Its number.
    pub id: u32,
    /// Of which client.
    pub client: String,
    /// Of which account.
    pub account: Option<String>,
    /// What becomes of its refresh tokens now.
    pub rotation: Rotation,
    /// What it allows.
    pub scopes: Vec<String>,
    /// It can still be refreshed.
    pub live: bool,
    /// What has happened to it.
    #[serde(flatten)]
    pub counts: Counts,
    /// The refresh token that is good now.
    pub refresh: Option<TokenView>,
    /// The access tokens that are good now.
    pub access: Vec<TokenView>,
}

/// An account as the ledger has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccountView {
    /// Its name.
    pub name: String,
    /// Its number, as the provider tells it.
    pub user_id: u64,
    /// Its authorizations.
    pub grants: Vec<GrantView>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LedgerView {
    /// In numbers.
    pub totals: Totals,
    /// Every token that was ever issued.
    pub tokens: Vec<TokenView>,
    /// Every request, in the order in which they came.
    pub requests: Vec<RequestView>,
}

/// Whether tokens themselves are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// They are.
    Shown,
    /// Only their numbers are.
    Hidden,
}

impl State {
    /// Notes a request that has arrived.
    pub(crate) fn arrived(&mut self, endpoint: Endpoint, token: Option<u32>) -> RequestId {
        let grant = token.map(|at| self.tokens[at as usize].grant);
        let kind = token.map(|at| self.tokens[at as usize].kind);
        let refresh = endpoint == Endpoint::Token && kind == Some(Kind::Refresh);
        if let Some(at) = token {
            self.tokens[at as usize].presented += 1;
        }
        if let (true, Some(at)) = (refresh, grant) {
            let counts = &mut self.grants[at as usize].counts;
            self.ledger.overlaps += u32::from(counts.in_flight > 0);
            for counts in [counts, &mut self.ledger.counts] {
                counts.presented += 1;
                counts.in_flight += 1;
                counts.most_in_flight = counts.most_in_flight.max(counts.in_flight);
            }
        }
        *self.ledger.requests.entry(endpoint.word()).or_default() += 1;
        self.ledger.presentations.push(Presentation {
            at: self.clock.now(),
            ended_at: NEVER,
            endpoint,
            token,
            grant,
            outcome: Outcome::Waiting,
            ending: Ending::Open,
            status: 0,
            refresh,
        });
        RequestId { epoch: self.ledger.epoch, at: index(self.ledger.presentations.len() - 1) }
    }

    fn presentation(&mut self, request: RequestId) -> Option<&mut Presentation> {
        let known = request.epoch == self.ledger.epoch;
        self.ledger.presentations.get_mut(request.at as usize).filter(|_| known)
    }

    /// Notes what has come of it.
    pub(crate) fn came_to(&mut self, request: RequestId, outcome: Outcome) {
        if let Some(presentation) = self.presentation(request) {
            presentation.outcome = outcome;
            *self.ledger.outcomes.entry(outcome.word()).or_default() += 1;
        }
    }

    /// Notes its end.
    pub(crate) fn ended(&mut self, request: RequestId, ending: Ending, status: u16) {
        let now = self.clock.now();
        let Some(presentation) = self.presentation(request) else { return };
        (presentation.ended_at, presentation.ending, presentation.status) = (now, ending, status);
        let grant = presentation.grant.filter(|_| presentation.refresh);
        match ending {
            Ending::Answered => *self.ledger.statuses.entry(status).or_default() += 1,
            Ending::Dropped => self.ledger.dropped += 1,
            Ending::Abandoned => self.ledger.abandoned += 1,
            Ending::Open => {}
        }
        if let Some(at) = grant {
            self.grants[at as usize].counts.in_flight -= 1;
            self.ledger.counts.in_flight -= 1;
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        let ledger = &self.ledger;
        Totals {
            requests: ledger.requests.clone(),
            outcomes: ledger.outcomes.clone(),
            statuses: ledger.statuses.clone(),
            refreshes: ledger.counts,
            overlaps: ledger.overlaps,
            dropped: ledger.dropped,
            abandoned: ledger.abandoned,
            secrets_in_urls: ledger.secrets_in_urls,
            held: self.held,
            clients: index(self.clients.len()),
            accounts: index(self.accounts.len()),
            grants: index(self.grants.len()),
            tokens: index(self.tokens.len()),
        }
    }

    pub(crate) fn token_view(&self, number: u32, secrets: Secrets) -> TokenView {
        let token = self.tokens[number as usize];
        let grant = &self.grants[token.grant as usize];
        TokenView {
            id: number,
            kind: if token.kind == Kind::Access { "access" } else { "refresh" },
            token: (secrets == Secrets::Shown).then(|| self.text(number)),
            grant: token.grant,
            client: self.clients[grant.client as usize].id.clone(),
            account: grant.account.map(|at| self.accounts[at as usize].name.clone()),
            live: self.is_live(number),
            dead: token.dead,
            presented: token.presented,
            committed: token.committed,
            issued_at: token.issued_at,
            ended_at: Some(token.ended_at).filter(|at| *at != NEVER),
            expires_at: Some(token.expires_at).filter(|at| *at != NEVER),
        }
    }

    pub(crate) fn grant_view(&self, number: u32, secrets: Secrets) -> GrantView {
        let grant = &self.grants[number as usize];
        let live = |at: &u32| self.is_live(*at);
        GrantView {
            id: number,
            client: self.clients[grant.client as usize].id.clone(),
            account: grant.account.map(|at| self.accounts[at as usize].name.clone()),
            rotation: self.rotation(self.owner(number)),
            scopes: grant.scopes.to_vec(),
            live: grant.refresh.as_ref().is_some_and(live),
            counts: grant.counts,
            refresh: grant.refresh.filter(live).map(|at| self.token_view(at, secrets)),
            access: grant
                .access
                .iter()
                .filter(|at| live(at))
                .map(|at| self.token_view(*at, secrets))
                .collect(),
        }
    }

    pub(crate) fn account_view(&self, name: &str, secrets: Secrets) -> Option<AccountView> {
        let account = &self.accounts[*self.names.get(name)? as usize];
        Some(AccountView {
            name: account.name.clone(),
            user_id: account.user_id,
            grants: account.grants.iter().map(|at| self.grant_view(*at, secrets)).collect(),
        })
    }

    pub(crate) fn ledger_view(&self, secrets: Secrets) -> LedgerView {
        let request = |one: &Presentation| RequestView {
            at: one.at,
            ended_at: Some(one.ended_at).filter(|at| *at != NEVER),
            endpoint: one.endpoint,
            token: one.token,
            grant: one.grant,
            outcome: one.outcome,
            ending: one.ending,
            status: one.status,
        };
        LedgerView {
            totals: self.totals(),
            tokens: (0..index(self.tokens.len())).map(|at| self.token_view(at, secrets)).collect(),
            requests: self.ledger.presentations.iter().map(request).collect(),
        }
    }
}

impl Endpoint {
    fn word(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Validate => "validate",
            Self::Revoke => "revoke",
            Self::Device => "device",
            Self::Api => "api",
        }
    }
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Committed => "committed",
            Self::Replayed => "replayed",
            Self::Unknown => "unknown",
            Self::Dead => "dead",
            Self::WrongClient => "wrong_client",
            Self::Pending => "pending",
            Self::BadRequest => "bad_request",
            Self::Refused => "refused",
            Self::RateLimited => "rate_limited",
            Self::Valid => "valid",
            Self::Revoked => "revoked",
        }
    }
}
