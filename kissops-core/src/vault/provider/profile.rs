//! [`Profile`]: what is known of a provider, as data.

use std::{collections::BTreeMap, time::Duration};

/// How a client says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Number and secret in the body.
    Body,
    /// Number and secret in a Basic header.
    Basic,
    /// The number alone, in the body.
    Id,
    /// Not at all: the token says enough.
    None,
}

/// How an access token is shown to the provider that is to say whether it is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAuth {
    /// GET with `Authorization: Bearer`.
    Bearer,
    /// GET with `Authorization: OAuth`.
    OAuth,
    /// POST with `access_token` in the body.
    Form,
    /// POST as RFC 7662 has it, with the client's own name and secret.
    Introspect,
}

/// Which token is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeToken {
    /// The access token alone.
    Access,
    /// The refresh token, or the access token where there is none: either ends both.
    Either,
    /// Both, one after the other.
    Both,
}

/// What becomes of a refresh token when it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RotationClass {
    /// It stays good.
    Reusable,
    /// There is another one, and the old one is refused.
    Rotating,
    /// There is another one, and presenting the old one again ends the whole grant.
    OneTime,
}

/// What to do about a request of which nobody knows, or will know, whether it was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecidable {
    /// Send it again: at worst the grant is lost, which it may be already.
    Try,
    /// Ask the account's owner to authorize again.
    Flag,
}

/// What an answer means for the grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Refused for now.
    Retry,
    /// Refused for good.
    Terminal,
    /// The client is refused; nothing is wrong with the grant.
    Misconfigured,
    /// Carried out or not: it does not say.
    Unclear,
}

/// A line of the table of errors. What it does not name is not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRule {
    /// The HTTP status.
    pub status: Option<u16>,
    /// The code of the error, in any case.
    pub error: Option<String>,
    /// A part of the message, in any case.
    pub message: Option<String>,
    /// What it means.
    pub means: Meaning,
}

/// What differs for a client without a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublicClient {
    /// How it says who it is; [`ClientAuth::Id`] where nothing is said.
    pub client_auth: Option<ClientAuth>,
    /// What becomes of its refresh tokens.
    pub rotation: Option<RotationClass>,
    /// How long they last from the authorization on.
    pub refresh_lifetime: Option<Duration>,
    /// How long they last unless they are used.
    pub refresh_idle: Option<Duration>,
}

/// When tokens are refreshed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RefreshWindow {
    /// The part of a token's life after which it begins.
    pub from: f64,
    /// The part of its life after which it ends.
    pub to: f64,
    /// The least time that is left when a token is refreshed.
    pub lead: Duration,
}

/// What is known of a provider. URLs hold no secrets, ever.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Where tokens are had.
    pub token_url: String,
    /// Where it is asked whether an access token is good: the probe.
    pub validate_url: Option<String>,
    /// How the token is shown there.
    pub validate_auth: TokenAuth,
    /// How often every token is validated, whether or not anything is wrong.
    pub validate_every: Option<Duration>,
    /// Where the names of the account stand in what is said there, as dotted paths: only of those that no other account
    /// can take.
    pub account: Vec<String>,
    /// Where tokens are revoked.
    pub revoke_url: Option<String>,
    /// How the client says who it is there; as elsewhere where nothing is said.
    pub revoke_auth: Option<ClientAuth>,
    /// Which token is revoked.
    pub revoke_token: RevokeToken,
    /// Where the account's owner can withdraw what they have allowed.
    pub manage_url: Option<String>,
    /// Where a device code is had.
    pub device_url: Option<String>,
    /// What the scopes are called there.
    pub device_scopes: String,
    /// Where the account's owner allows access, in a browser.
    pub authorize_url: Option<String>,
    /// What is said there besides.
    pub authorize_params: BTreeMap<String, String>,
    /// Where the browser is sent back to, where the provider knows no other place: on this machine.
    pub redirect_url: Option<String>,
    /// What is asked for where nobody says.
    pub scopes: Vec<String>,
    /// How the client says who it is.
    pub client_auth: ClientAuth,
    /// What becomes of refresh tokens.
    pub rotation: RotationClass,
    /// What differs without a secret.
    pub public: PublicClient,
    /// How long an access token lasts where the answer does not say.
    pub expires_in: Duration,
    /// How long a refresh token lasts from the authorization on, whatever is done with it.
    pub refresh_lifetime: Option<Duration>,
    /// How long a refresh token lasts unless it is used.
    pub refresh_idle: Option<Duration>,
    /// Who asks, for providers that want to know more than the usual.
    pub user_agent: Option<String>,
    /// Most requests at once.
    pub concurrency: usize,
    /// Most requests in a second.
    pub per_second: Option<f64>,
    /// The longest that an exchange may take.
    pub exchange_limit: Duration,
    /// How long the provider may still be carrying out what was not answered.
    pub settle: Duration,
    /// When tokens are refreshed.
    pub refresh_at: RefreshWindow,
    /// What to do where nothing can be found out.
    pub undecidable: Undecidable,
    /// Requests may go to another machine in clear.
    pub insecure: bool,
    /// What answers mean, before those of RFC 6749.
    pub errors: Vec<ErrorRule>,
}

impl Profile {
    /// A profile of RFC 6749 as it is written, and cautious where it leaves things open.
    #[must_use]
    pub fn new(token_url: &str) -> Self {
        Self {
            token_url: token_url.to_owned(),
            validate_url: None,
            validate_auth: TokenAuth::Bearer,
            validate_every: None,
            account: ["login", "username", "email", "sub", "user_id", "id"]
                .map(str::to_owned)
                .into(),
            revoke_url: None,
            revoke_auth: None,
            revoke_token: RevokeToken::Both,
            manage_url: None,
            device_url: None,
            device_scopes: "scope".to_owned(),
            authorize_url: None,
            authorize_params: BTreeMap::new(),
            redirect_url: None,
            scopes: Vec::new(),
            client_auth: ClientAuth::Body,
            rotation: RotationClass::OneTime,
            public: PublicClient::default(),
            expires_in: Duration::from_hours(1),
            refresh_lifetime: None,
            refresh_idle: None,
            user_agent: None,
            concurrency: 64,
            per_second: None,
            exchange_limit: crate::vault::EXCHANGE_LIMIT,
            settle: Duration::from_secs(30),
            refresh_at: RefreshWindow { from: 0.75, to: 0.85, lead: Duration::from_mins(10) },
            undecidable: Undecidable::Try,
            insecure: false,
            errors: Vec::new(),
        }
    }

    /// The built-in profile of that name: `twitch`, `discord`, `google`, `reddit`, `spotify`.
    #[must_use]
    pub fn builtin(name: &str) -> Option<Self> {
        crate::config::builtin_profile(name)
    }

    /// Its addresses, each under its key.
    pub(crate) fn urls(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let optional = [
            ("validate_url", &self.validate_url),
            ("revoke_url", &self.revoke_url),
            ("device_url", &self.device_url),
            ("authorize_url", &self.authorize_url),
        ];
        let optional = optional.into_iter().filter_map(|(key, url)| Some((key, url.as_deref()?)));
        std::iter::once(("token_url", self.token_url.as_str())).chain(optional)
    }

    /// Puts what differs for a client without a secret into its place.
    pub(crate) fn make_public(&mut self) {
        let public = std::mem::take(&mut self.public);
        self.client_auth = public.client_auth.unwrap_or(ClientAuth::Id);
        self.rotation = public.rotation.unwrap_or(self.rotation);
        self.refresh_lifetime = public.refresh_lifetime.or(self.refresh_lifetime);
        self.refresh_idle = public.refresh_idle.or(self.refresh_idle);
    }

    /// The names that [`builtin`](Self::builtin) knows.
    pub const BUILTIN: [&'static str; 5] = ["discord", "google", "reddit", "spotify", "twitch"];
}

/// The text of the built-in profile of that name.
pub(crate) fn builtin_text(name: &str) -> Option<&'static str> {
    Some(match name {
        "discord" => include_str!("builtin/discord.toml"),
        "google" => include_str!("builtin/google.toml"),
        "reddit" => include_str!("builtin/reddit.toml"),
        "spotify" => include_str!("builtin/spotify.toml"),
        "twitch" => include_str!("builtin/twitch.toml"),
        _ => return None,
    })
}
