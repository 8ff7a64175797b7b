//! [`Provider`]: who gives tokens, what is sent to them, and what their answers mean.
//!
//! What is known of a provider is data, a [`Profile`]; those of the usual providers are built in.

use std::{collections::BTreeSet, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{LONGEST_EXCHANGE, RawAnswer, TokenRequest, TokenSet};
use crate::{Error, Result, Timestamp};
use answer::Said;

pub(crate) mod answer;
mod probe;
mod profile;
mod registry;

pub use probe::Probed;
pub(crate) use profile::builtin_text;
pub use profile::{
    ClientAuth, ErrorRule, Meaning, Profile, PublicClient, RefreshWindow, RevokeToken,
    RotationClass, TokenAuth, Undecidable,
};
pub use registry::Providers;

/// Who asks: what a provider knows our program by.
#[derive(Clone)]
pub struct Client {
    /// Its number, which is no secret.
    pub id: String,
    /// Its secret; without one it is a public client.
    pub secret: Option<SecretString>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = self.secret.as_ref().map(|_| "***");
        f.debug_struct("Client").field("id", &self.id).field("secret", &secret).finish()
    }
}

/// A provider's profile together with our client there. Shared as `Arc<Provider>`.
#[derive(Clone, Debug)]
pub struct Provider {
    name: String,
    /// With what differs for a public client already in its place.
    profile: Profile,
    client: Client,
}

/// How much may be asked of a provider, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProviderLimits {
    /// Most requests at once.
    pub concurrency: usize,
    /// Most requests in a second.
    pub per_second: Option<f64>,
    /// The longest that an exchange may take.
    pub exchange_limit: Duration,
    /// How long what was not answered may still be carried out.
    pub settle: Duration,
}

/// What the answer of a token endpoint says.
#[derive(Debug)]
pub enum Answer {
    /// Here they are. Without a refresh token the old one stays good.
    Tokens(TokenSet),
    /// Refused for now.
    Retry {
        /// What the provider asks us to wait; no more than an hour.
        after: Option<Duration>,
        /// For people, free of secrets.
        detail: String,
    },
    /// It may have been carried out; what came does not say, or not the tokens.
    Unclear {
        /// For people, free of secrets.
        detail: String,
    },
    /// Refused for good, says the provider.
    Terminal {
        /// For people, free of secrets.
        detail: String,
    },
    /// The client is refused: nothing is wrong with the grant.
    Misconfigured {
        /// For people, free of secrets.
        detail: String,
    },
}

impl Provider {
    /// The provider `name`, as `profile` has it, for `client`.
    ///
    /// # Errors
    /// [`InvalidConfig`](Error::InvalidConfig) if an address is not https (see [`Profile::insecure`]), the client has no
    /// number, or [`Profile::exchange_limit`] is not from 1 s to [`LONGEST_EXCHANGE`].
    pub fn new(name: &str, mut profile: Profile, client: Client) -> Result<Self> {
        let key = |key: &str| format!("vault.provider.{name}.{key}");
        if client.id.is_empty() {
            return Err(Error::invalid(key("client_id"), "is empty"));
        }
        if !(Duration::from_secs(1)..=LONGEST_EXCHANGE).contains(&profile.exchange_limit) {
            return Err(Error::invalid(key("exchange_limit"), "must be from 1s to 45s"));
        }
        for (field, url) in profile.urls() {
            super::http::safe_url(url, profile.insecure)
                .map_err(|err| err.into_error(&key(field)))?;
        }
        if client.secret.is_none() {
            profile.make_public();
        }
        Ok(Self { name: name.to_owned(), profile, client })
    }

    /// The name that grants know it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Our client's number there.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client.id
    }

    /// Our client's secret there, to be kept out of logs.
    pub(super) fn client_secret(&self) -> Option<&SecretString> {
        self.client.secret.as_ref()
    }

    /// What is known of it, for this client.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What becomes of refresh tokens.
    #[must_use]
    pub fn rotation(&self) -> RotationClass {
        self.profile.rotation
    }

    /// How much may be asked of it.
    #[must_use]
    pub fn limits(&self) -> ProviderLimits {
        ProviderLimits {
            concurrency: self.profile.concurrency,
            per_second: self.profile.per_second,
            exchange_limit: self.profile.exchange_limit,
            settle: self.profile.settle,
        }
    }

    /// When tokens are refreshed.
    #[must_use]
    pub fn refresh_window(&self) -> RefreshWindow {
        self.profile.refresh_at
    }

    /// What to do where nothing can be found out.
    #[must_use]
    pub fn undecidable(&self) -> Undecidable {
        self.profile.undecidable
    }

    /// How often every token is validated, whether or not anything is wrong.
    #[must_use]
    pub fn validate_every(&self) -> Option<Duration> {
        self.profile.validate_every.filter(|_| self.can_probe())
    }

    /// Where the account's owner can withdraw what they have allowed.
    #[must_use]
    pub fn manage_url(&self) -> Option<&str> {
        self.profile.manage_url.as_deref()
    }

    /// A refresh.
    #[must_use]
    pub fn refresh_request(&self, refresh: &SecretString) -> TokenRequest {
        let grant = ("grant_type".to_owned(), "refresh_token".into());
        self.token_request(vec![grant, ("refresh_token".to_owned(), refresh.clone())])
    }

    /// A token for the client itself.
    #[must_use]
    pub fn client_credentials_request(&self, scopes: &BTreeSet<String>) -> TokenRequest {
        let mut form = vec![("grant_type".to_owned(), "client_credentials".into())];
        if !scopes.is_empty() {
            form.push(("scope".to_owned(), joined(scopes).into()));
        }
        self.token_request(form)
    }

    /// What an answer to such a request means. Whatever the bytes are.
    #[must_use]
    pub fn read(&self, answer: &RawAnswer) -> Answer {
        answer::read(&self.profile, self.profile.rotation, answer)
    }

    /// What an answer says of an error.
    pub(crate) fn said(answer: &RawAnswer) -> Said {
        Said::new(answer.status, answer::object(answer).as_ref())
    }

    /// The tokens of a new authorization at `at`, with the end that refresh tokens have from there on. A refresh does not
    /// move that end, so the sets that [`read`](Self::read) gives are without it.
    #[must_use]
    pub fn authorized(&self, tokens: TokenSet, at: Timestamp) -> TokenSet {
        let end = self.profile.refresh_lifetime.filter(|_| tokens.refresh.is_some());
        let refresh_expires_at = tokens.refresh_expires_at.or(end.map(|life| at.plus(life)));
        TokenSet { refresh_expires_at, ..tokens }
    }

    /// A POST of `form` to the token endpoint, with who we are.
    pub(crate) fn token_request(&self, form: Vec<(String, SecretString)>) -> TokenRequest {
        self.request(&self.profile.token_url, self.profile.client_auth, form)
    }

    pub(crate) fn request(
        &self,
        url: &str,
        auth: ClientAuth,
        mut form: Vec<(String, SecretString)>,
    ) -> TokenRequest {
        let mut headers = vec![("accept".to_owned(), "application/json".into())];
        headers.extend(self.user_agent());
        let id = || ("client_id".to_owned(), self.client.id.as_str().into());
        match auth {
            ClientAuth::Body => {
                form.push(id());
                let secret = self.client.secret.clone();
                form.extend(secret.map(|secret| ("client_secret".to_owned(), secret)));
            }
            ClientAuth::Basic => headers.push(("authorization".to_owned(), self.basic())),
            ClientAuth::Id => form.push(id()),
            ClientAuth::None => {}
        }
        TokenRequest { url: url.to_owned(), headers, form, insecure: self.profile.insecure }
    }

    fn user_agent(&self) -> Option<(String, SecretString)> {
        let agent = self.profile.user_agent.as_deref()?;
        Some(("user-agent".to_owned(), agent.into()))
    }

    /// RFC 6749, 2.3.1: both parts are form-encoded first.
    fn basic(&self) -> SecretString {
        let secret = self.client.secret.as_ref().map_or("", |secret| secret.expose_secret());
        let mut pair =
            Zeroizing::new(Vec::with_capacity(3 * (self.client.id.len() + secret.len()) + 1));
        super::http::encode_part(&self.client.id, &mut pair);
        pair.push(b':');
        super::http::encode_part(secret, &mut pair);
        let code = Zeroizing::new(STANDARD.encode(&*pair));
        format!("Basic {}", *code).into()
    }
}

/// Scopes as requests have them.
pub(crate) fn joined(scopes: &BTreeSet<String>) -> String {
    scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
