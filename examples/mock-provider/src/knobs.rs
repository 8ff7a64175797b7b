//! What can be set: for everybody, for a client, for an account. The narrower one wins.

use serde::{Deserialize, Serialize};

pub use crate::mint::TokenStyle;

/// What becomes of a refresh token when it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rotation {
    /// It stays good, and is given back again.
    Reusable,
    /// Another takes its place; using the old one again is refused, without a penalty.
    Rotating,
    /// Another takes its place; using the old one again kills what its user has with this client.
    OneTime,
}

/// How far a replay of a one-time token reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kill {
    /// Every token of that account and client, as with public clients of Twitch.
    #[default]
    User,
    /// The tokens of that authorization, as RFC 9700 suggests.
    Family,
}

/// Where a request stops until [`release`](crate::MockProvider::release).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// It has arrived; nothing has happened.
    BeforeCommit,
    /// It has been carried out; nothing has been answered.
    AfterCommit,
}

/// Which request a step is meant for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// Tokens are exchanged.
    #[default]
    Token,
    /// A token is checked.
    Validate,
    /// A token is revoked.
    Revoke,
    /// A device code is asked for.
    Device,
    /// The provider's API is used.
    Api,
}

#[cfg(test)]
impl Endpoint {
    pub(crate) const ALL: [Self; 5] =
        [Self::Token, Self::Validate, Self::Revoke, Self::Device, Self::Api];
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// As it should be.
    #[default]
    Ok,
    /// The connection is closed; nothing has happened.
    DropBeforeCommit,
    /// The request is carried out, then the connection is closed without an answer.
    CommitThenDrop,
    /// Carried out; half of the body comes, then the connection is closed.
    HalfBody,
    /// Carried out; the body comes in drops, over `slow_ms`.
    SlowBody,
    /// 400: the grant is said to be invalid.
    InvalidGrant,
    /// The client is said to be unknown or its secret wrong.
    InvalidClient,
    /// 401 in the provider's shape.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404, as HTML.
    NotFound,
    /// 429, with `Retry-After` if `retry_after_s` is set.
    TooManyRequests,
    /// 500.
    ServerError,
    /// 502, as a proxy says it: HTML.
    BadGateway,
    /// 503, with `Retry-After` if `retry_after_s` is set.
    Unavailable,
    /// 307 to another place of this server.
    Redirect,
    /// 200, but the body is an error.
    OkWithError,
    /// 200 without a body.
    Empty,
    /// 200, and what follows is not even text.
    Garbage,
    /// 200, and a body of a megabyte.
    Huge,
    /// 200 with tokens, one of them the empty string.
    EmptyAccessToken,
    /// Carried out; `expires_in` is left out.
    MissingExpiresIn,
    /// Carried out without a rotation; `refresh_token` is left out, which means: keep yours.
    MissingRefreshToken,
    /// Carried out; `scope` is left out.
    MissingScope,
    /// Carried out; `scope` (or `scopes`) is null.
    NullScopes,
    /// Carried out; `token_type` is left out.
    MissingTokenType,
}

impl Reply {
    /// The request is carried out unless a step says otherwise.
    pub(crate) fn commits(self) -> bool {
        matches!(
            self,
            Self::Ok
                | Self::CommitThenDrop
                | Self::HalfBody
                | Self::SlowBody
                | Self::MissingExpiresIn
                | Self::MissingRefreshToken
                | Self::MissingScope
                | Self::NullScopes
                | Self::MissingTokenType
        )
    }
}

/// What happens to a request, or to the next few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    /// How it is answered.
    pub answer: Reply,
    /// Which requests are meant.
    pub on: Endpoint,
    /// How many of them, if it is a step of a script.
    pub times: u32,
    /// Whether it is carried out; otherwise as the answer suggests: an error that is told is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<bool>,
    /// Waits so long before it is carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_before_ms: Option<u64>,
    /// Waits so long before it is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_after_ms: Option<u64>,
    /// Stops there until it is released.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// For 429 and 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// How long a slow body takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_ms: Option<u64>,
}

impl Default for Step {
    fn default() -> Self {
        Self {
            answer: Reply::Ok,
            on: Endpoint::Token,
            times: 1,
            commit: None,
            delay_before_ms: None,
            delay_after_ms: None,
            hold: None,
            retry_after_s: None,
            slow_ms: None,
        }
    }
}

impl Step {
    /// One token request is answered so.
    #[must_use]
    pub fn new(answer: Reply) -> Self {
        Self { answer, ..Self::default() }
    }

    /// As often.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// At another endpoint.
    #[must_use]
    pub fn on(self, on: Endpoint) -> Self {
        Self { on, ..self }
    }

    /// Carried out or not, whatever is answered.
    #[must_use]
    pub fn commit(self, commit: bool) -> Self {
        Self { commit: Some(commit), ..self }
    }

    /// Stops at `hold`.
    #[must_use]
    pub fn hold(self, hold: Hold) -> Self {
        Self { hold: Some(hold), ..self }
    }

    /// Asks to come again after so many seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    pub(crate) fn commits(&self) -> bool {
        self.commit.unwrap_or(self.answer.commits())
    }
}

/// What stays set until it is set otherwise. `None` leaves it to the wider scope, then to what the flavour does.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Knobs {
    /// What becomes of used refresh tokens. Default: reusable for clients with a secret, one-time for those without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// How far a replay reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill: Option<Kill>,
    /// The life of access tokens. Default: as the flavour has it, 4 hours for Twitch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime_ms: Option<u64>,
    /// The life of refresh tokens. Default: no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_lifetime_ms: Option<u64>,
    /// A refresh kills the access tokens from before. Default: yes, unless refresh tokens are reusable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_kills_access: Option<bool>,
    /// So many live access tokens per refresh token; one more, and the oldest dies. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_limit: Option<u32>,
    /// How tokens look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_style: Option<TokenStyle>,
    /// Every token request waits so long before it is carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_before_ms: Option<u64>,
    /// Every token request waits so long before it is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_after_ms: Option<u64>,
    /// Every token request stops there until it is released.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// What happens to every request of its endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Step>,
    /// To this share of them, from 0 to 1. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_share: Option<f64>,
    /// The client's secret is no longer accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misconfigured: Option<bool>,
    /// Token requests per second; more are answered with 429 and `Retry-After: 1`. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_rate: Option<u32>,
    /// API calls per minute for one access token's owner, told in `Ratelimit-…` headers. Default: 800.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_points: Option<u32>,
    /// Device codes are approved by an account of their client's name after so long. Default: by a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_approve_ms: Option<u64>,
    /// How often a device code may be asked about. Default: 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_interval_s: Option<u64>,
    /// How long a device code is good. Default: 1800 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_lifetime_s: Option<u64>,
}

/// Live grants are refused as if they were dead. Nothing happens to them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storm {
    /// Which share of the accounts it hits, from 0 to 1: always the same ones.
    pub share: f64,
    /// Their access tokens are refused as well.
    pub validate: bool,
}

impl Default for Storm {
    fn default() -> Self {
        Self { share: 1.0, validate: false }
    }
}

/// Whom a setting is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Everybody.
    #[default]
    All,
    /// A client, by its id.
    Client(String),
    /// An account, by its name.
    Account(String),
}
